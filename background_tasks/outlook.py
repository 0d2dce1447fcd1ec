"""What is to come, and why not yet: values for people, made of what the engine says.

No thread, lock or clock: the scheduler hands in what it has read under its lock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from operator import itemgetter
from typing import Any

from background_tasks.engine import Pending
from background_tasks.plain import to_dict
from background_tasks.task import Execution, Status, Task
from background_tasks.trigger import TimedTrigger, Trigger

__all__ = ["Bound", "Upcoming", "Waiting", "length", "oldest_wait", "upcoming", "waiting"]

_NO_SLOT = ("", "no slot is free")  # the reasons under which the bound holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcoming:
    """One entry of ``Scheduler.upcoming``: a run that is to come.

    Attributes:
        at: When it is due, an aware UTC datetime.
        task_id: The ID of its task.
        task_name: The name of its task.
        is_retry: Whether it is the next attempt of a run that failed.
        reason: Why it will not run then as things stand: "disabled", "stopped" or "not started";
            "" when it will.
    """

    at: datetime
    task_id: int
    task_name: str
    is_retry: bool = False
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has: instants as ISO 8601 text."""
        return to_dict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One entry of ``Scheduler.ready``: a run that was released and has not started.

    Attributes:
        run_id: The ID of its Execution.
        task_id: The ID of its task.
        task_name: The name of its task.
        priority: The priority of its task.
        released_at: When it was released, an aware UTC datetime.
        reason: What it waits for: a slot, another run of its task, a resource, a gate, and so on,
            with the figures; "" when it is about to start.
        latest_start: When it will have started at the latest if no run takes longer than the
            longest so far, by the bound of `background_tasks.ready`; None where there is no
            bound: with ``aging=math.inf``, and for a run that waits for more than a slot.
    """

    run_id: int
    task_id: int
    task_name: str
    priority: int
    released_at: datetime | None
    reason: str = ""
    latest_start: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has: instants as ISO 8601 text."""
        return to_dict(self)


def upcoming(
    first: Iterable[tuple[datetime, Task, Trigger | None]],
    n: int,
    obstacle: str,
    *,
    first_only: bool = False,
) -> list[Upcoming]:
    """Return the next *n* runs from the *first* due times, with *obstacle* to all of them.

    With *first_only* at most one of each task.
    """
    if first_only:
        soonest = _first_of_each(first)
    else:
        fires = (_fires(due, task, trigger) for due, task, trigger in first)
        soonest = islice(heapq.merge(*fires, key=itemgetter(0)), n)
    return [
        Upcoming(
            at=at,
            task_id=task.id,
            task_name=task.name,
            is_retry=is_retry,
            reason=obstacle if task.enabled else "disabled",
        )
        for at, task, is_retry in soonest
    ]


def _first_of_each(
    first: Iterable[tuple[datetime, Task, Trigger | None]],
) -> Iterator[tuple[datetime, Task, bool]]:
    seen: set[int] = set()
    for due, task, trigger in first:
        if task.id not in seen:
            seen.add(task.id)
            yield due, task, trigger is None


def _fires(
    due: datetime, task: Task, trigger: Trigger | None
) -> Iterator[tuple[datetime, Task, bool]]:
    yield due, task, trigger is None
    if isinstance(trigger, TimedTrigger):
        for at in trigger.fires_after(due):
            yield at, task, False


class Bound:
    """How long a run may wait for a slot: see `background_tasks.ready`.

    The longest run of each task is that of its history and of what runs now; a task without any
    is taken to be as long as the longest of the others.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        running: Iterable[Execution],
        *,
        now: datetime,
        slots: int,
        aging: float,
    ) -> None:
        """Look at all *tasks*, one at least; *running* are those that have begun.

        *slots* serve them all.
        """
        self._slots = slots
        self._aging = aging
        tasks = list(tasks)
        known = {task.id: longest for task in tasks if (longest := _longest(task)) is not None}
        is_known = bool(known)
        for execution in running:
            if execution.status is Status.RUNNING and execution.started_at is not None:
                passed = (now - execution.started_at).total_seconds()
                known[execution.task_id] = max(passed, known.get(execution.task_id, 0.0))
        self._longest = max(known.values()) if is_known else math.inf
        self._lengths = dict.fromkeys((task.id for task in tasks), self._longest) | known
        self._sum = sum(self._lengths.values())
        self._highest = max(task.priority for task in tasks)

    def latest_start(self, pending: Pending) -> datetime | None:
        """Return when a run will have started at the latest; None when nobody knows."""
        if pending.since is None or pending.reason not in _NO_SLOT:
            return None
        task = pending.run.task
        if task.resources:
            return None  # they may be gone when a slot is there
        others = self._sum - self._lengths[task.id]
        ahead = self._highest - task.priority
        passed = self._aging * ahead if ahead else 0.0  # inf * 0 is NaN
        try:
            wait = timedelta(seconds=passed + others / self._slots + self._longest)
            return pending.since + wait
        except (OverflowError, ValueError):  # infinite, or beyond the year 9999
            return None


def _longest(task: Task) -> float | None:
    """Return the seconds of the longest run in the history of *task*, None without any."""
    ran = (each for each in tuple(task._history or ()) if each.attempts)
    return max(map(length, ran), default=None)


def length(execution: Execution) -> float:
    """Return how many seconds a run took, by the clock too: that of a test may be another."""
    started, ended = execution.started_at, execution.ended_at
    if execution.attempts > 1 or started is None or ended is None:
        return execution.resources.wall
    return max(execution.resources.wall, (ended - started).total_seconds())


def oldest_wait(tasks: Iterable[Task], now: datetime) -> float:
    """Return the seconds since the first release of a run that is the next of its task.

    Of enabled tasks. Needs no lock: what changes meanwhile is seen as before or after.
    """
    releases = (_first_release(task) for task in tasks if task.enabled)
    first = min((each for each in releases if each is not None), default=now)
    return max(0.0, (now - first).total_seconds())


def _first_release(task: Task) -> datetime | None:
    head, pending = task._head, task._pending
    if head is None and pending is not None:
        try:
            head = pending[0]
        except IndexError:  # it was taken meanwhile
            return None
    released: datetime | None = None if head is None else head.execution.released_at
    return released


def waiting(found: Iterable[Pending], bound: Bound | None, obstacle: str) -> list[Waiting]:
    """Return the runs that were *found* to wait, with *obstacle* to all of them."""
    return [
        Waiting(
            run_id=pending.run.execution.id,
            task_id=pending.run.task.id,
            task_name=pending.run.task.name,
            priority=pending.run.task.priority,
            released_at=pending.run.execution.released_at,
            reason=obstacle or pending.reason,
            latest_start=None if bound is None else bound.latest_start(pending),
        )
        for pending in found
    ]
