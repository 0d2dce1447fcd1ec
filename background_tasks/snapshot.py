"""`snapshot`: all that there is to see of a scheduler at one moment, as values that JSON has.

Made of its public methods, so it tells nothing that they do not: no arguments, events or results.
Bounded, so that it stays small however much there is: the rest is in the counters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from background_tasks.clock import utc_now
from background_tasks.engine import Stats
from background_tasks.health import Health
from background_tasks.outlook import Upcoming, Waiting
from background_tasks.overview import TaskOverview
from background_tasks.task import Execution, Task

__all__ = ["FORMAT", "Watched", "snapshot"]

FORMAT = 1  # to be raised when a reader of the one before would misunderstand
_TASKS = 200
_RUNNING = 100
_READY = 50
_UPCOMING = 20
_FAILURES = 20
_REASONS = 20
_LONGEST_TEXT = 300  # characters of a reason or an error
_LONGEST_TRACEBACK = 2_000  # characters, of its end


class Watched(Protocol):
    """What a snapshot is made of: a part of a Scheduler."""

    @property
    def state(self) -> str:
        """What it is at, in a word."""

    @property
    def max_running_tasks(self) -> int:
        """How many runs at once."""

    @property
    def tasks(self) -> Mapping[int, Task]:
        """The registered tasks by ID."""

    @property
    def running(self) -> Mapping[int, list[Execution]]:
        """The executions that have started and not ended, by the ID of the task."""

    def overview(self, n: int) -> list[TaskOverview]:
        """Return what each of *n* tasks is at and what it did."""

    def ready(self, n: int) -> list[Waiting]:
        """Return the first *n* runs that wait for their turn."""

    def upcoming(self, n: int, *, first_only: bool) -> list[Upcoming]:
        """Return the next *n* runs that are to come, of each task the first only."""

    def stats(self) -> Stats:
        """Return the counters."""

    def health(self) -> Health:
        """Return whether it does its work."""


def snapshot(scheduler: Watched, now: datetime | None = None) -> dict[str, Any]:
    """Return what *scheduler* is at: values that JSON has, instants as ISO 8601 text.

    Takes its lock for a moment several times, so its parts may be a few milliseconds apart.

    Args:
        scheduler: The scheduler.
        now: The time by its clock; None is the wall clock's.

    Returns:
        ``format``, ``at``, ``pid``, ``state``, ``slots``; ``stats``, ``health``, ``running`` (the
        oldest first), ``ready``, ``upcoming`` (the first of each task) and ``tasks`` as their
        ``to_dict`` has them; ``failures``, those of one task and one kind of error together, the
        latest first.
    """
    shown = scheduler.overview(_TASKS)
    unended = scheduler.running
    return {
        "format": FORMAT,
        "at": (utc_now() if now is None else now).isoformat(),
        "pid": os.getpid(),
        "state": scheduler.state,
        "slots": scheduler.max_running_tasks,
        "stats": scheduler.stats().to_dict(),
        "health": _health(scheduler.health()),
        "running": _running(unended),
        "ready": _listed(scheduler.ready(_READY)),
        "upcoming": _listed(scheduler.upcoming(_UPCOMING, first_only=True)),
        "tasks": _listed(shown),
        "failures": _failures(_ran(scheduler.tasks, shown, unended)),
    }


def _health(health: Health) -> dict[str, Any]:
    values = _cut(health.to_dict())
    for name in ("reasons", "quarantined"):
        values[name] = [each[:_LONGEST_TEXT] for each in values[name][:_REASONS]]
    return values


def _listed(values: Iterable[Upcoming | Waiting | TaskOverview]) -> list[dict[str, Any]]:
    return [_cut(each.to_dict()) for each in values]


def _running(unended: Mapping[int, list[Execution]]) -> list[dict[str, Any]]:
    """Return the runs that hold a slot, the longest first; a traceback is among the failures."""
    found = [each for runs in unended.values() for each in runs if each.status.value == "RUNNING"]
    found.sort(key=lambda each: (each.started_at is None, each.started_at, each.id))
    return [_cut({**each.to_dict(), "traceback": ""}) for each in found[:_RUNNING]]


def _cut(values: dict[str, Any]) -> dict[str, Any]:
    """Return *values* with no text that is long."""
    return {
        name: value[:_LONGEST_TEXT] if isinstance(value, str) else value
        for name, value in values.items()
    }


def _ran(
    tasks: Mapping[int, Task],
    shown: Iterable[TaskOverview],
    unended: Mapping[int, list[Execution]],
) -> Iterable[Execution]:
    """Yield the runs of the tasks that are shown."""
    for each in shown:
        if each.task_id in tasks and each.failures:
            yield from tasks[each.task_id].execution_hist
            yield from unended.get(each.task_id, ())


def _failures(executions: Iterable[Execution]) -> list[dict[str, Any]]:
    """Return the latest of each task and kind of error, with how many there were."""
    latest: dict[tuple[int, str], Execution] = {}
    counts: dict[tuple[int, str], int] = {}
    for each in executions:
        if each.error:
            key = each.task_id, each.error.partition(":")[0]
            latest[key] = each
            counts[key] = counts.get(key, 0) + 1
    found = [_failure(each, counts[key]) for key, each in latest.items()]
    return sorted(found, key=lambda each: each["at"] or "", reverse=True)[:_FAILURES]


def _failure(execution: Execution, count: int) -> dict[str, Any]:
    values = execution.to_dict()
    return {
        "task_id": execution.task_id,
        "task_name": execution.task_name,
        "kind": execution.error.partition(":")[0][:_LONGEST_TEXT],
        "error": execution.error[:_LONGEST_TEXT],
        "count": count,
        "status": values["status"],
        "attempts": execution.attempts,
        "at": values["ended_at"] or values["started_at"],
        "traceback": execution.traceback[-_LONGEST_TRACEBACK:],
    }
