"""What a listener is told and what is logged: each change of a run, a task or the scheduler."""

from __future__ import annotations

import logging
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from background_tasks.plain import to_dict
from background_tasks.task import Execution, Status

__all__ = [
    "DISPOSITIONS",
    "IS_DISABLED",
    "IS_LATE",
    "ONE_FOLLOWS",
    "ONE_WAITS",
    "OUTCOMES",
    "TOO_MANY",
    "Change",
    "ChangeKind",
]

# The reasons why an occurrence makes no run of its own: an OCCURRENCE_SKIPPED has one of them.
IS_DISABLED = "its task is disabled"
IS_LATE = "it is late"
TOO_MANY = "more were missed than are made up for"
ONE_WAITS = "a run that waits stands for it"
ONE_FOLLOWS = "the run of a later one stands for it"

DISPOSITIONS = {  # for logs and metrics: what came of it, and the reason in a word
    IS_DISABLED: ("skipped", "disabled"),
    IS_LATE: ("skipped", "late"),
    TOO_MANY: ("skipped", "too_many"),
    ONE_WAITS: ("coalesced", "waiting"),
    ONE_FOLLOWS: ("coalesced", "later"),
}
OUTCOMES = {  # likewise: what came of a run that has ended
    Status.SUCCESS: "success",
    Status.FAILED: "failure",
    Status.TIMED_OUT: "timeout",
    Status.LOST: "lost",
    Status.CANCELLED: "cancelled",
    Status.DROPPED: "dropped",
    Status.MISSED: "missed",
}


class ChangeKind(str, Enum):
    """What changed; its ``level`` is the one it is logged at."""

    level: int

    def __new__(cls, value: str, level: int) -> ChangeKind:
        """Keep *level* beside the name."""
        self = str.__new__(cls, value)
        self._value_ = value
        self.level = level
        return self

    STARTED = "started", logging.INFO  # the scheduler ticks
    STOPPED = "stopped", logging.INFO  # the scheduler was told to stop
    CLOCK_JUMPED = "clock.jumped", logging.WARNING  # the wall clock was set, or we were suspended
    GATE_CLOSED = "gate.closed", logging.INFO  # runs are held up: a resource is short
    GATE_OPENED = "gate.opened", logging.INFO
    GATE_FAILED = "gate.failed", logging.WARNING  # its sensor fails, which opens it
    GATE_RECOVERED = "gate.recovered", logging.INFO  # its sensor works again
    THREAD_REFUSED = "thread.refused", logging.WARNING  # no slot more: runs wait; once a minute
    EXECUTOR_BROKEN = "executor.broken", logging.ERROR  # no run starts until it is mended
    EXECUTOR_RENEWED = "executor.renewed", logging.WARNING  # its factory made another
    TASK_ADDED = "task.added", logging.DEBUG
    TASK_REMOVED = "task.removed", logging.DEBUG
    TRIGGER_SLOW = "trigger.slow", logging.WARNING  # it took long to answer; once a minute a task
    TASK_QUARANTINED = "task.quarantined", logging.ERROR  # a trigger raised: it is disabled
    OCCURRENCE_SKIPPED = "occurrence.skipped", logging.DEBUG  # a time or signal without a run
    RUN_RELEASED = "run.released", logging.DEBUG  # it waits for its turn
    RUN_STARTED = "run.started", logging.DEBUG  # an attempt begins
    RUN_OVERDUE = "run.overdue", logging.WARNING  # an attempt runs longer than its timeout
    ATTEMPT_FAILED = "attempt.failed", logging.DEBUG  # the function raised; what follows is told
    RUN_RETRYING = "run.retrying", logging.WARNING  # an attempt failed; the next is planned
    RUN_STUCK = "run.stuck", logging.ERROR  # asked to give up, it goes on; with its stack
    RUN_CANCELLED = "run.cancelled", logging.WARNING
    RUN_TIMED_OUT = "run.timed_out", logging.ERROR
    RUN_SUCCEEDED = "run.succeeded", logging.INFO
    RUN_FAILED = "run.failed", logging.ERROR
    RUN_LOST = "run.lost", logging.ERROR  # nobody knows how it ended
    RUN_MISSED = "run.missed", logging.WARNING
    RUN_DROPPED = "run.dropped", logging.WARNING

    __str__ = str.__str__


class Change(NamedTuple):
    """One change, with the values of that moment.

    Attributes:
        kind: What changed.
        at: When, an aware UTC datetime.
        task_id: The ID of the task; None for a change of the scheduler.
        task_name: Its name, "" for a change of the scheduler.
        priority: Its priority; None for a change of the scheduler.
        enabled: Whether it was enabled; None for a change of the scheduler.
        execution: The run as it stood then, in an object that cannot be changed; None for other
            changes.
        reason: More about it, such as the error of a trigger or the delay of a retry.
        skipped: How many occurrences were skipped; 0 for other changes.
    """

    kind: ChangeKind
    at: datetime
    task_id: int | None = None
    task_name: str = ""
    priority: int | None = None
    enabled: bool | None = None
    execution: Execution | None = None
    reason: str = ""
    skipped: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has: instants as ISO 8601 text."""
        return to_dict(self)
