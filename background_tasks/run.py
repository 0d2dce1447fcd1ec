"""What is known of a run while it lasts: `Run`, and of the end of an attempt: `Outcome`.

Values only; a Run belongs to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from background_tasks.heap import Entry
from background_tasks.resources import Cost
from background_tasks.task import Execution, Task
from background_tasks.trigger import Arm

__all__ = ["NOBODY", "Outcome", "Run"]

NOBODY = -1  # the number of no thread
_NO_TIME = timedelta(0)


@dataclass(slots=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        ended_at: When.
        cost: What it cost.
        results: What the function returned.
        error: The error as text, "" when it returned.
        traceback: The traceback as text.
        retry_after: Seconds until the next attempt; None is no further one.
        is_lost: Nobody knows how it ended: the executor lost it.
        is_refused: It was not begun: the executor would not take it.
        obstacle: Why the executor will take no other, "" when it may.
        note: What else there is to say of it, for people.
        interrupt: Ctrl-C, or what a signal handler has raised: it is for the caller of `run_task`.
    """

    ended_at: datetime
    cost: Cost
    results: object = None
    error: str = ""
    traceback: str = ""
    retry_after: float | None = None
    is_lost: bool = False
    is_refused: bool = False
    obstacle: str = ""
    note: str = ""
    interrupt: BaseException | None = None


class Run:
    """What the engine knows of an execution that has not ended."""

    __slots__ = (
        "arm",
        "deadline",
        "delay",
        "entry",
        "execution",
        "is_inline",
        "is_stuck",
        "stamp",
        "task",
        "thread",
    )

    def __init__(self, task: Task, arm: Arm | None, execution: Execution) -> None:
        """Start without a place in a heap."""
        self.task = task
        self.arm = arm
        self.execution = execution
        self.entry: Entry | None = None  # in the ready heap, or in the agenda while it retries
        self.deadline: Entry | None = None  # in the agenda: its timeout, or when it is stuck
        self.delay = _NO_TIME  # how long it waits for its retry
        self.stamp = 0.0  # when it could first have started, once it is in the ready heap
        self.thread = NOBODY  # the number of the thread that runs it, or NOBODY
        self.is_stuck = False  # was asked to give up and goes on
        self.is_inline = False  # runs in the caller of run_task: no slot, no place in a queue
