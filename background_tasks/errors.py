"""The errors this library raises, all below one base.

::

    BackgroundTasksError
    ├── InvalidValueError      (ValueError)   a value breaks a rule
    │   ├── CronExpressionError               a cron expression cannot be used
    │   └── AlreadyAddedError                 a task or trigger belongs to somebody already
    ├── InvalidTypeError       (TypeError)    a value is of the wrong kind
    ├── TaskCancelledError     (RuntimeError) raised in a task that was asked to end
    ├── TaskTimeoutError       (TimeoutError) the same, because its timeout has passed
    ├── TaskNotFoundError      (LookupError)  no task has that ID
    ├── MissingExtraError      (ImportError)  an optional dependency is not installed
    ├── ExecutorBrokenError    (RuntimeError) the executor takes no call any more
    ├── LostWorkerError        (RuntimeError) nobody knows how a run in an executor ended
    └── RemoteError            (RuntimeError) a function failed in another process

Each is also the builtin a caller would expect, so ``except ValueError`` works too. An error of
a task's own function is never raised here: it is recorded on the task's Execution. Nor are the
last three: the first two are what an Execution names, and what a RetryPolicy may; the last is what
the context managers of ``around`` see.
"""

from __future__ import annotations

__all__ = [
    "AlreadyAddedError",
    "BackgroundTasksError",
    "CronExpressionError",
    "ExecutorBrokenError",
    "InvalidTypeError",
    "InvalidValueError",
    "LostWorkerError",
    "MissingExtraError",
    "RemoteError",
    "TaskCancelledError",
    "TaskNotFoundError",
    "TaskTimeoutError",
]


class BackgroundTasksError(Exception):
    """The base of every error of this library."""


class InvalidValueError(BackgroundTasksError, ValueError):
    """A value breaks a rule; the message names the rule and the value."""


class InvalidTypeError(BackgroundTasksError, TypeError):
    """A value is of the wrong kind; the message names what was expected and what came."""


class CronExpressionError(InvalidValueError):
    """A cron expression is malformed, impossible or in an unknown time zone.

    Attributes:
        expression: The expression as it was written.
    """

    def __init__(self, message: str, *, expression: str = "") -> None:
        """Keep *expression* beside the message."""
        super().__init__(message)
        self.expression = expression


class AlreadyAddedError(InvalidValueError):
    """A task or trigger is given a second time; each belongs to one owner for good."""


class TaskCancelledError(BackgroundTasksError, RuntimeError):
    """Raised by ``raise_if_cancelled`` in a run that was cancelled; such a run is not retried."""


class TaskTimeoutError(BackgroundTasksError, TimeoutError):
    """Raised by ``raise_if_cancelled`` in a run whose timeout has passed."""


class TaskNotFoundError(BackgroundTasksError, LookupError):
    """No task has the ID that was asked for.

    Attributes:
        task_id: The ID that was asked for, or None for a task that has none yet.
    """

    def __init__(self, message: str, *, task_id: int | None = None) -> None:
        """Keep *task_id* beside the message."""
        super().__init__(message)
        self.task_id = task_id


class MissingExtraError(BackgroundTasksError, ImportError):
    """An optional dependency is not installed; the message says what to install."""


class ExecutorBrokenError(BackgroundTasksError, RuntimeError):
    """The executor takes no call any more, so the function was not called."""


class LostWorkerError(BackgroundTasksError, RuntimeError):
    """The executor lost a run: its worker was killed, or the way to it was cut.

    The function may have run to its end, half or not at all. Name it in ``retry_on`` of tasks that
    may be run twice.
    """


class RemoteError(BackgroundTasksError, RuntimeError):
    """A function failed in an executor's process; the text is that of its error.

    The error itself stays over there: this one passes through the context managers of
    ``Scheduler(around=...)`` in its place, and no further.
    """
