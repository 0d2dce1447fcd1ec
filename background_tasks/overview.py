"""What each task is at and what it did: `TaskOverview`, a value for people, and a table of them.

No thread, lock or clock: the scheduler hands in what it has read under its lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from operator import attrgetter
from typing import Any

from background_tasks.outlook import length
from background_tasks.plain import to_dict
from background_tasks.table import span, table
from background_tasks.task import Execution, Status, Task
from background_tasks.trigger import EventTrigger

__all__ = ["TaskOverview", "most_notable", "overview", "overview_table"]

_DURATIONS = 60  # the last ones; a guess at what a line of a terminal can show
_NOTHING = "-"
_HEADER = (
    (
        "ID", "task", "state", "next fire", "runs", "failures", "retries", "last", "last",
        "late start", "late start", "CPU",
    ),
    ("", "", "", "(UTC)", "", "", "", "status", "took", "mean", "max", "s"),
)  # fmt: skip
_WORDS = (1, 2, 3, 7)  # the columns that do not hold numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOverview:
    """One entry of ``Scheduler.overview``: a task, what it is at and what it did.

    The figures are of the runs in its history and of those that have started and not ended.

    Attributes:
        task_id: The ID of the task.
        task_name: Its name.
        priority: Its priority.
        state: "removed", "quarantined", "disabled", "running", "retrying", "waiting" or "idle";
            of those that hold the first.
        reason: Why it is quarantined; "" when it is not.
        next_at: When a trigger or a retry will release a run next, an aware UTC datetime; None
            when no time is known.
        is_on_event: Whether signals release runs, too.
        running: How many of its runs have their function called.
        waiting: How many wait for their turn or a retry.
        runs: How many runs there are to count.
        is_cut: Whether there may have been more, which the history no longer has.
        failures: How many attempts failed.
        retries: How many attempts were not the first of their run.
        last_status: The status of the run released last; None without any.
        last_ended_at: When a run ended last, an aware UTC datetime; None before.
        durations: Seconds that the last 60 runs took that have ended, oldest first.
        late_mean: Seconds from when a run was due to its start, on average: the scheduler's share
            and the wait for a slot together. None without any.
        late_max: The longest of these.
        cpu: CPU seconds of all.
    """

    task_id: int
    task_name: str
    priority: int
    state: str
    reason: str
    next_at: datetime | None
    is_on_event: bool
    running: int
    waiting: int
    runs: int
    is_cut: bool
    failures: int
    retries: int
    last_status: Status | None
    last_ended_at: datetime | None
    durations: tuple[float, ...]
    late_mean: float | None
    late_max: float | None
    cpu: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has: instants as ISO 8601 text."""
        return to_dict(self)


def overview(
    task: Task, ended: Sequence[Execution], live: Iterable[Execution], next_at: datetime | None
) -> TaskOverview:
    """Return what there is to say of a task.

    Args:
        task: The task.
        ended: Its history, oldest first.
        live: Its runs that have started and not ended.
        next_at: When it will run next; None when no time is known.
    """
    started = list(live)
    runs = sorted([*ended, *started], key=attrgetter("id"))  # by release: the last may end first
    late = [each.lateness + each.queue_time for each in runs if each.started_at]
    running = sum(each.status is Status.RUNNING for each in started)
    return TaskOverview(
        task_id=task.id,
        task_name=task.name,
        priority=task.priority,
        state=_state(task, running, len(started) - running),
        reason=task.quarantine or "",
        next_at=next_at,
        is_on_event=any(isinstance(trigger, EventTrigger) for trigger in task.triggers),
        running=running,
        waiting=task._waiting,
        runs=len(runs),
        is_cut=len(ended) >= task.history,
        failures=sum(map(_failures, runs)),
        retries=sum(max(0, each.attempts - 1) for each in runs),
        last_status=runs[-1].status if runs else None,
        last_ended_at=ended[-1].ended_at if ended else None,
        durations=tuple(length(each) for each in ended[-_DURATIONS:] if each.attempts),
        late_mean=sum(late) / len(late) if late else None,
        late_max=max(late, default=None),
        cpu=sum(each.resources.cpu for each in runs),
    )


def _state(task: Task, running: int, retrying: int) -> str:
    if task._is_removed:
        return "removed"
    if task.quarantine:
        return "quarantined"
    if not task.enabled:
        return "disabled"
    if running:
        return "running"
    if retrying:
        return "retrying"
    return "waiting" if task._waiting else "idle"


def _failures(execution: Execution) -> int:
    """Return how many attempts failed: all but a last one that did not, or has yet to end."""
    was_well = execution.status is Status.CANCELLED and not execution.error
    if was_well or execution.status in (Status.SUCCESS, Status.RUNNING):
        return max(0, execution.attempts - 1)
    return execution.attempts


def most_notable(tasks: Iterable[Task], n: int) -> list[Task]:
    """Return *n* of the *tasks* in their order; of more those that need to be looked at first."""
    everyone = list(tasks)
    if len(everyone) <= n:
        return everyone
    return sorted(nlargest(n, everyone, key=_notability), key=attrgetter("id"))


def _notability(task: Task) -> tuple[bool, bool, bool]:
    last = (task._history or ())[-1:]
    was_well = all(each.status in (Status.SUCCESS, Status.MISSED) for each in last)
    return task.quarantine is not None, not was_well, task._running > 0


def overview_table(tasks: Iterable[TaskOverview], now: datetime) -> str:
    """Return a line for each task below a header, aligned by column.

    A "+" behind the number of runs tells that older ones are not counted. Of an instant that is
    not on the day of *now* the date is shown.
    """
    return table(_HEADER, (_row(each, now) for each in tasks), left=_WORDS)


def _row(task: TaskOverview, now: datetime) -> tuple[str, ...]:
    return (
        f"{task.task_id}",
        task.task_name,
        _state_text(task),
        _next_text(task, now),
        f"{task.runs}{'+' if task.is_cut else ''}",
        f"{task.failures}",
        f"{task.retries}",
        _NOTHING if task.last_status is None else task.last_status.value,
        span(task.durations[-1]) if task.durations else _NOTHING,
        _NOTHING if task.late_mean is None else span(task.late_mean),
        _NOTHING if task.late_max is None else span(task.late_max),
        f"{task.cpu:.2f}",
    )


def _state_text(task: TaskOverview) -> str:
    count = {"running": task.running, "waiting": task.waiting}.get(task.state, 1)
    return task.state if count == 1 else f"{count} {task.state}"


def _next_text(task: TaskOverview, now: datetime) -> str:
    if task.next_at is None:
        return "on event" if task.is_on_event else _NOTHING
    if task.next_at.date() != now.date():
        return task.next_at.strftime("%Y-%m-%d %H:%M")
    return task.next_at.strftime("%H:%M:%S.%f")[:-3]
