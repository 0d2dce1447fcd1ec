"""Tells changes, in the order they were made, to the log and to the listeners; under no lock.

Whoever leaves the scheduler's lock calls `tell`. One thread at a time tells; another one that
comes meanwhile leaves its changes to it, so the order holds and nobody waits. Where listeners or
log handlers are slower than changes come, it would never be done: after a tenth of a second it
leaves them to a thread that does nothing else, until there is nothing more to tell for a second.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from background_tasks.changes import DISPOSITIONS, OUTCOMES
from background_tasks.checks import call, error_text, redacted, shown
from background_tasks.interrupts import hand_on, is_interrupt
from background_tasks.json_lines import error_fields
from background_tasks.logger import log, logger
from background_tasks.primitives import Primitives, Turn
from background_tasks.task import Execution

if TYPE_CHECKING:
    from background_tasks.changes import Change

__all__ = ["Reporter"]

_EVERYTHING = 0
_LONG = 0.1  # seconds that a thread may be kept from its own work: a guess
_LINGER = 1.0  # seconds; a guess
_LISTENER_FAILED = 40  # logging.ERROR
_SKIPPED = "skipped", ""


class Reporter:
    """The log and the listeners of one scheduler."""

    def __init__(
        self,
        changes: deque[Change],
        primitives: Primitives,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        """Tell what is put into *changes*; *redact* is as for `Scheduler`."""
        self._redact = redact
        self._changes = changes
        self._primitives = primitives
        self._telling = Turn()  # of a tuple that holds the number of the thread that tells
        self._get_ident = primitives.get_ident
        self._bell: Any = None  # what the thread that helps waits on; None: there is none
        # Replaced, never changed.
        self._listeners: tuple[Callable[[Change], object], ...] = ()
        self._tick_listeners: tuple[Callable[[float], object], ...] = ()
        self.failures = 0  # of listeners
        self._count = itertools.count(1).__next__  # without a lock, for two threads may

    def forked(self) -> None:
        """In a forked child: nobody tells, whoever did in the parent."""
        self._telling = Turn()
        self._bell = None

    def add(self, listener: Callable[[Change], object]) -> Callable[[], None]:
        """Tell *listener* from now on; return a function that ends that."""
        call("listener", listener, (None,), {})
        self._listeners = (*self._listeners, listener)

        def remove() -> None:
            self._listeners = tuple(kept for kept in self._listeners if kept is not listener)

        return remove

    def add_to_ticks(self, listener: Callable[[float], object]) -> Callable[[], None]:
        """Tell *listener* the seconds of each tick from now on; return a function that ends that.

        In the scheduler's thread, which waits for it.
        """
        self._tick_listeners = (*self._tick_listeners, listener)

        def remove() -> None:
            kept = (each for each in self._tick_listeners if each is not listener)
            self._tick_listeners = tuple(kept)

        return remove

    def tell_tick(self, seconds: float) -> None:
        """Tell how long a tick took."""
        for listener in self._tick_listeners:
            self._call(listener, seconds)

    @property
    def level(self) -> int:
        """The level below which nobody wants to be told."""
        return _EVERYTHING if self._listeners else logger.getEffectiveLevel()

    @property
    def is_mine(self) -> bool:
        """True for the thread that is telling: a listener or a log handler asks."""
        teller: Any = self._telling[None]
        return teller is not None and teller[0] == self._get_ident()

    @property
    def is_busy(self) -> bool:
        """True while there is something that another thread has yet to tell, or is telling."""
        if self.is_mine:
            return False  # it would wait for itself
        return bool(self._changes) or self._telling.locked()

    @property
    def untold(self) -> int:
        """How many changes are still to be told."""
        return len(self._changes)

    def tell(self, done: Callable[[], object]) -> bool:
        """Tell what there is to tell, unless another call is at it; return whether this one did.

        What would take long is left to another thread, which calls *done* when it has told all.
        """
        did = False
        while self._changes and self._bell is None:
            took_long = self._try_to_tell(_LONG)
            if took_long is None:
                break
            did = True
            if took_long and self._changes:
                self._have_help(done)
        bell = self._bell
        if bell is not None and self._changes:
            bell.set()
        return did

    def _try_to_tell(self, seconds: float) -> bool | None:
        """Tell for so many seconds; return if it took longer, None when another thread is at it."""
        telling = self._telling  # a listener may fork, and the child has another
        mine = (self._get_ident(),)
        try:
            if telling.setdefault(None, mine) is not mine:
                return None
            return self._tell_all(seconds)
        finally:
            if telling[None] is mine:
                del telling[None]

    def _tell_all(self, seconds: float) -> bool:
        monotonic = self._primitives.monotonic
        end = monotonic() + seconds
        while self._changes:
            self._tell_of(self._changes.popleft())
            if monotonic() >= end:
                return True
        return False

    def _tell_of(self, change: Change) -> None:
        """Tell one change; an interrupt goes on when all have been told."""
        interrupt: BaseException | None = None
        try:
            _log(change)
        except BaseException as error:
            interrupt = error
        for listener in self._listeners:
            interrupt = self._call(listener, change) or interrupt
        if interrupt is not None:
            raise interrupt

    def _have_help(self, done: Callable[[], object]) -> None:
        """Have a thread tell from now on, if there is one to be had."""
        bell = self._bell = self._primitives.event()
        try:
            thread = self._primitives.thread(
                target=self._help, args=(bell, done), name="background_tasks-teller", daemon=True
            )
            thread.start()
        except RuntimeError:  # can't start new thread: the caller goes on itself
            self._bell = None
            return
        except BaseException:
            self._bell = None
            raise
        if thread.ident is None:  # of an InlineScheduler, whose threads never run
            self._bell = None

    def _help(self, bell: Any, done: Callable[[], object]) -> None:
        """Tell until there is nothing more to tell for a while: what the thread that helps does."""
        try:
            while True:
                bell.clear()
                if self._try_to_tell(math.inf) is not None:
                    done()
                # Where another thread was at it, it rings when it leaves something.
                if not bell.wait(_LINGER) and not self._changes:
                    return
        except BaseException:
            pass
        finally:
            if self._bell is bell:
                self._bell = None
            self.tell(done)  # what came when this had just looked

    def _call(
        self, listener: Callable[[Any], object], news: Change | float
    ) -> BaseException | None:
        """Call one listener; return the interrupt that came up in it, if one did."""
        try:
            listener(news)
        except BaseException as error:  # SystemExit included: the run is unharmed
            if is_interrupt(error):
                return error
            self.failures = self._count()
            text = redacted(self._redact, error_text(error))
            _log_failure(news, listener, text)
        return None


def _log(change: Change) -> None:
    if logger.isEnabledFor(change.kind.level):
        log(change.kind.level, _message(change), _fields(change))


def _message(change: Change) -> str:
    subject, _, verb = change.kind.value.rpartition(".")
    return f"{subject or 'scheduler'} {verb}"


def _fields(change: Change) -> dict[str, object]:
    """Return the stable fields of a log line; never the arguments, the event or the results."""
    fields: dict[str, object] = {"event.name": f"background_tasks.{change.kind.value}"}
    if change.task_id is not None:
        fields["background_tasks.task.id"] = change.task_id
        fields["background_tasks.task.name"] = change.task_name
    if change.execution is not None:
        fields.update(_run_fields(change.execution))
    if change.skipped:
        fields["background_tasks.skipped"] = change.skipped
        fields["background_tasks.disposition"], _ = DISPOSITIONS.get(change.reason, _SKIPPED)
    if change.reason:
        fields["background_tasks.reason"] = change.reason
    return fields


def _run_fields(execution: Execution) -> dict[str, object]:
    fields: dict[str, object] = {
        "background_tasks.run.id": execution.id,
        "background_tasks.run.status": execution.status.value,
        "background_tasks.run.attempt": execution.attempts,
        "background_tasks.run.scheduled_at": execution.scheduled_at,
        "background_tasks.run.lateness_s": round(execution.lateness, 6),
    }
    if execution.started_at is not None:
        fields["background_tasks.run.queue_time_s"] = round(execution.queue_time, 6)
    if execution.ended_at is not None:
        cost = execution.resources
        fields["background_tasks.run.outcome"] = OUTCOMES[execution.status]
        fields["background_tasks.run.duration_s"] = round(cost.wall, 6)
        fields["background_tasks.run.cpu_s"] = round(cost.cpu, 6)
    if execution.trace_id:
        fields["trace_id"], fields["span_id"] = execution.trace_id, execution.span_id
        if execution.trace_flags:
            fields["trace_flags"] = execution.trace_flags
    if execution.missed:
        fields["background_tasks.run.missed"] = execution.missed
    if execution.error:
        fields.update(error_fields(execution.error, execution.traceback))
    return fields


def _log_failure(news: Change | float, listener: object, error: str) -> None:
    fields = {
        **({} if isinstance(news, float) else _fields(news)),
        **error_fields(error),
        "event.name": "background_tasks.listener.failed",
        "background_tasks.listener": _name_of(listener),
    }
    log(_LISTENER_FAILED, "listener failed", fields)


def _name_of(listener: object) -> str:
    try:
        return str(getattr(listener, "__qualname__", type(listener).__name__))
    except BaseException as error:  # a foreign attribute may raise anything, SystemExit included
        hand_on(error)
        return shown(listener)
