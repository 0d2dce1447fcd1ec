"""The schedulers of a process: what becomes of them at its end, and where it forks.

They are known here by weak references only: one that nobody uses any more is gone.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from background_tasks.clock import monotonic
from background_tasks.cron import renew_locks
from background_tasks.interrupts import is_interrupt
from background_tasks.logger import log_or_print
from background_tasks.primitives import PATIENCE
from background_tasks.task import Execution

__all__ = ["Member", "enrol", "notice_fork", "stop_all"]

_ABANDONED = "run abandoned at exit: its task did not end in time"
_ERROR = 40  # logging.ERROR


class Member(Protocol):
    """What a process asks of a scheduler."""

    _exit_grace: float  # seconds

    def stop(self, timeout: float | None = None) -> bool:
        """As `Scheduler.stop`."""

    def _wait_told(self, end: float) -> None:
        """Wait until listeners and the log were told all, at most until monotonic *end*."""

    def _left_behind(self, end: float) -> list[Execution]:
        """Return the executions whose function is being called, at monotonic *end* at last."""

    def _hold(self, end: float, taken: list[bool]) -> None:
        """Take its lock before a fork, until monotonic *end* at most; then put True in *taken*."""

    def _let_go(self) -> None:
        """Let its lock go after a fork, in the parent."""

    def _forked(self) -> None:
        """Be a stopped scheduler in a forked child."""


_members: weakref.WeakValueDictionary[int, Member] = weakref.WeakValueDictionary()


def enrol(member: Member) -> None:
    """See to *member* from now on."""
    _members[id(member)] = member


def _all() -> list[Member]:
    """Return the schedulers there are, oldest first, while other threads may make some."""
    return [each for each in (ref() for ref in _members.valuerefs()) if each is not None]


# The end


def stop_all() -> None:
    """At the end of the process, wait a while for running tasks and name those that are left.

    And for listeners that are slow, and a slow log.

    Each scheduler's ``exit_grace`` counts from here, so many of them wait no longer than one.
    Ctrl-C ends the wait, and so does what a signal handler raises.
    """
    begun, schedulers = monotonic(), _all()
    try:
        for scheduler in schedulers:
            scheduler.stop(0)  # nothing more starts in any while another is waited for
        for scheduler in schedulers:
            end = begun + scheduler._exit_grace
            scheduler.stop(max(0.0, end - monotonic()))
            scheduler._wait_told(end)
    except BaseException as error:
        if not is_interrupt(error):
            raise
    for scheduler in schedulers:
        for execution in scheduler._left_behind(monotonic() + PATIENCE):
            log_or_print(_ERROR, _ABANDONED, _abandoned_fields(execution))


def _abandoned_fields(execution: Execution) -> dict[str, object]:
    return {
        "event.name": "background_tasks.run.abandoned",
        "background_tasks.task.id": execution.task_id,
        "background_tasks.task.name": execution.task_name,
        "background_tasks.run.id": execution.id,
    }


# A fork


class _Held(threading.local):
    """The schedulers whose locks the thread that forks has taken."""

    def __init__(self) -> None:
        # Each with [True] once its lock is held: noted before it is taken, in one go with that,
        # since an interrupt may come up anywhere.
        self.schedulers: list[tuple[Member, list[bool]]] = []


_held = _Held()


def _before_fork() -> None:
    end = monotonic() + PATIENCE
    for scheduler in _all():
        taken: list[bool] = []
        _held.schedulers.append((scheduler, taken))
        scheduler._hold(end, taken)


def _after_fork_in_parent() -> None:
    while _held.schedulers:
        scheduler, taken = _held.schedulers.pop()
        if True in taken:
            scheduler._let_go()


_pid = os.getpid()  # of the process whose threads are there


def _after_fork_in_child() -> None:
    global _pid
    _pid = os.getpid()
    _held.schedulers = []
    for scheduler in _all():
        scheduler._forked()


def notice_fork() -> None:
    """Do what is done after a fork, should nobody have told of it: uWSGI does not by default."""
    if os.getpid() != _pid:
        renew_locks()
        _after_fork_in_child()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows does not fork
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
