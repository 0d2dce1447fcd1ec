"""An in-process task scheduler: priorities, triggers, retries and a history, in plain threads."""

from background_tasks.changes import Change, ChangeKind
from background_tasks.engine import Stats
from background_tasks.errors import (
    AlreadyAddedError,
    BackgroundTasksError,
    CronExpressionError,
    ExecutorBrokenError,
    InvalidTypeError,
    InvalidValueError,
    LostWorkerError,
    MissingExtraError,
    RemoteError,
    TaskCancelledError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from background_tasks.gates import CpuPressure, Gate, GateReading, LoadPerCpu, MemoryAvailable
from background_tasks.health import Health
from background_tasks.logger import configure_logging
from background_tasks.outlook import Upcoming, Waiting
from background_tasks.overview import TaskOverview
from background_tasks.resources import Resources
from background_tasks.scheduler import Scheduler
from background_tasks.task import (
    Execution,
    Retry,
    RetryPolicy,
    Status,
    Task,
    current_execution,
)
from background_tasks.trigger import EventTrigger, OneTimeTrigger, PeriodicTrigger, Trigger
from background_tasks.usage import Summary, Usage

__all__ = [
    "AlreadyAddedError",
    "BackgroundTasksError",
    "Change",
    "ChangeKind",
    "CpuPressure",
    "CronExpressionError",
    "EventTrigger",
    "Execution",
    "ExecutorBrokenError",
    "Gate",
    "GateReading",
    "Health",
    "InvalidTypeError",
    "InvalidValueError",
    "LoadPerCpu",
    "LostWorkerError",
    "MemoryAvailable",
    "MissingExtraError",
    "OneTimeTrigger",
    "PeriodicTrigger",
    "RemoteError",
    "Resources",
    "Retry",
    "RetryPolicy",
    "Scheduler",
    "Stats",
    "Status",
    "Summary",
    "Task",
    "TaskCancelledError",
    "TaskNotFoundError",
    "TaskOverview",
    "TaskTimeoutError",
    "Trigger",
    "Upcoming",
    "Usage",
    "Waiting",
    "configure_logging",
    "current_execution",
]
