"""What is described and what is recorded: `Task`, `RetryPolicy`, `Execution` and `Status`.

No thread, lock or clock, but for the event that `Execution.wait` waits on. A Task that was added
is changed by its scheduler only, under the scheduler's lock; an Execution belongs to the scheduler
until it has ended and is never changed after that.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import Enum
from operator import attrgetter
from typing import Any, NoReturn, Protocol

from background_tasks import checks
from background_tasks.checks import Duration
from background_tasks.errors import (
    AlreadyAddedError,
    InvalidTypeError,
    InvalidValueError,
    TaskCancelledError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from background_tasks.plain import to_dict
from background_tasks.primitives import Event
from background_tasks.resources import NO_COST, Cost, Resources
from background_tasks.trigger import Arm, Trigger
from background_tasks.usage import NOTHING, Tally, Totals, Usage, usage_of

__all__ = [
    "MISSED_POLICIES",
    "OVERLAP_POLICIES",
    "TIMED_OUT",
    "WAS_CANCELLED",
    "WAS_STOPPED",
    "Demand",
    "Execution",
    "Retry",
    "RetryPolicy",
    "Status",
    "Task",
    "TaskOwner",
    "current_execution",
    "priority_of",
    "running_events",
    "running_execution",
    "running_function",
    "triggers_of",
]

_HIGHEST_PRIORITY = 1_000_000_000  # so that no product with `aging` overflows
_LONGEST_HISTORY = 1_000_000  # executions
MISSED_POLICIES = ("once", "all", "skip")
OVERLAP_POLICIES = ("queue", "skip")


class Status(str, Enum):
    """Where an execution stands; equal to its name, ``Status.SUCCESS == "SUCCESS"``."""

    PENDING = "PENDING"  # released, waits for its turn
    RUNNING = "RUNNING"  # its function is being called
    RETRYING = "RETRYING"  # failed, waits for its next attempt
    SUCCESS = "SUCCESS"  # ended: the function returned
    FAILED = "FAILED"  # ended: the last attempt raised
    LOST = "LOST"  # ended: the executor lost the last attempt, nobody knows how far it came
    MISSED = "MISSED"  # ended without a run: later than misfire_grace, or skipped for an overlap
    DROPPED = "DROPPED"  # ended without a (further) run: its task was removed
    CANCELLED = "CANCELLED"  # ended: it was cancelled, while it ran or before
    TIMED_OUT = "TIMED_OUT"  # ended: its last attempt ran longer than the task's timeout

    __str__ = str.__str__

    @property
    def has_ended(self) -> bool:
        """True when nothing more will happen to the execution."""
        return self not in (Status.PENDING, Status.RUNNING, Status.RETRYING)


class Retry(Exception):  # noqa: N818 - a request, not an error
    """Raise it in a task's function to ask for another attempt, whatever ``retry_on`` says.

    The policy's ``max_retries`` still bounds it: the default policy grants none.
    """

    def __init__(self, reason: object = "asked for a retry", *, after: Duration | None = None):
        """Ask for one *after* so many seconds, by default as long as the policy says.

        Raises:
            ValueError: *after* is negative or NaN.
        """
        super().__init__(reason)
        self.after = None if after is None else checks.seconds("after", after)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Whether and when a run that failed is tried again. The first attempt is not a retry.

    Attributes:
        max_retries: How many retries at most; 0 is none.
        delay: Seconds (or timedelta) before the first retry; or a sequence, one for each retry,
            of which the last is used for those beyond it.
        backoff: Each delay is the one before times this; at least 1. For a sequence it is not
            used.
        max_delay: No delay is longer, jitter included; None is no bound.
        jitter: Up to so many seconds, drawn evenly, are added to each delay.
        retry_on: The exceptions that are retried; SystemExit, KeyboardInterrupt and the like
            only when named here. So is `LostWorkerError`, though it is an Exception: what was
            lost with its worker may have run to its end. From a function that an executor calls
            in another process exceptions come as the names of their classes and bases: a class
            whose bases are registered with ``ABCMeta.register`` only is not found.
    """

    max_retries: int = 0
    delay: Duration | Sequence[Duration] = 0
    backoff: float = 1.0
    max_delay: Duration | None = None
    jitter: Duration = 0
    retry_on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        """Refuse what breaks a rule; keep durations as float seconds."""
        put = object.__setattr__
        checks.whole("max_retries", self.max_retries, least=0)
        put(self, "delay", _delays(self.delay))
        backoff = checks.number("backoff", self.backoff)
        if not 1 <= backoff < math.inf:
            raise InvalidValueError(
                f"backoff must be at least 1 and finite, got {checks.shown(backoff)}"
            )
        if self.max_delay is not None:
            put(self, "max_delay", checks.seconds("max_delay", self.max_delay))
        put(self, "jitter", checks.seconds("jitter", self.jitter))
        put(self, "retry_on", _exception_types(self.retry_on))

    def delay_before(self, retry: int, draw: float = 0.0) -> float:
        """Return the seconds to wait before retry number *retry*, 1 for the first.

        Args:
            retry: The number of the retry, at least 1.
            draw: A float in [0, 1], drawn by the caller, that places the delay in the jitter.

        Raises:
            ValueError: *retry* is below 1, or *draw* not in [0, 1].
        """
        checks.whole("retry", retry, least=1)
        if not 0 <= checks.number("draw", draw) <= 1:
            raise InvalidValueError(f"draw must lie in [0, 1], got {checks.shown(draw)}")
        longest = _seconds_of(self.max_delay, math.inf)
        if isinstance(self.delay, tuple):
            base = _seconds_of(self.delay[min(retry, len(self.delay)) - 1])
        else:
            base = _grown(_seconds_of(self.delay), self.backoff, retry - 1)
        return min(base + draw * _seconds_of(self.jitter), longest, checks.LONGEST_SECONDS)


def _seconds_of(value: object, otherwise: float = 0.0) -> float:
    """Return a duration that __post_init__ made seconds; *otherwise* for None."""
    return value if isinstance(value, float) else otherwise


def _grown(base: float, factor: float, times: int) -> float:
    try:
        return base * float(factor) ** times
    except OverflowError:  # 2.0 ** 1024
        return math.inf if base else 0.0


def _delays(delay: object) -> float | tuple[float, ...]:
    if isinstance(delay, Sequence) and not isinstance(delay, (str, bytes)):
        if not delay:
            raise InvalidValueError("delay must name at least one delay, got an empty sequence")
        return tuple(checks.seconds("each delay", each) for each in delay)
    return checks.seconds("delay", delay)


def _exception_types(retry_on: object) -> tuple[type[BaseException], ...]:
    types = (retry_on,) if isinstance(retry_on, type) else retry_on
    if not isinstance(types, (tuple, list)):
        raise InvalidTypeError(
            f"retry_on must be a tuple of exception types, got {checks.shown(retry_on)}"
        )
    for each in types:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise InvalidTypeError(f"retry_on must hold exception types, got {checks.shown(each)}")
    return tuple(types)


_NO_SPAN = "", "", ""


@dataclass(slots=True, eq=False)
class Execution:
    """One run of a task, from its release to its end, all its attempts together.

    Read it, do not write to it: while the run lasts its scheduler does.

    Attributes:
        started_at: When the first attempt started; None before.
        ended_at: When it ended; None before.
        status: Where it stands.
        error: The error of the attempt that failed last, ``"ValueError: text"``; "" before one
            has, and when the run succeeded in the end.
        event: What the run was asked for with: the payload given to ``EventTrigger.fire``,
            ``run_task`` or ``release_task``; None for a run released by time.
        results: What the function returned; None with ``keep_results=False``, and when it could
            not be brought back from the executor's process.
        id: The number of the run, unique in its scheduler.
        task_id: The ID of its task.
        task_name: The name of its task.
        scheduled_at: When it was due: the instant its trigger named, the event came or the run
            was asked for.
        released_at: When the scheduler noticed.
        attempts: How many attempts were started; in a function, the number of this one.
        missed: How many further occurrences this run stands for.
        traceback: The traceback of that attempt as text.
        cancel_reason: Why the function should give up, ``"timed out"``, ``"cancelled"`` or
            ``"stopped"``; "" while it should not.
    """

    started_at: datetime | None = None
    ended_at: datetime | None = None
    status: Status = Status.PENDING
    error: str = ""
    event: object = None
    results: object = None
    id: int = -1
    task_id: int = -1
    task_name: str = ""
    scheduled_at: datetime | None = None
    released_at: datetime | None = None
    attempts: int = 0
    missed: int = 0
    traceback: str = ""
    cancel_reason: str = ""
    _cost: Cost = NO_COST
    _span: tuple[str, str, str] = _NO_SPAN  # see `set_span`
    # What follows is not copied.
    _bell: Any = None  # what `wait` waits on, made when it first does; set with cancel_reason
    _origin: Context | None = None  # until it ends
    _span_before: tuple[str, str, str] = _NO_SPAN  # of the last attempt that had one

    @property
    def cancelled(self) -> bool:
        """True once the function should give up: look at it in a long loop."""
        return bool(self.cancel_reason)

    def wait(self, seconds: Duration) -> bool:
        """Wait so many seconds, fewer if the run is cancelled; return whether it is.

        For the task's own function, in place of ``time.sleep``.

        Raises:
            ValueError: *seconds* is negative or NaN.
        """
        length = checks.seconds("seconds", seconds)
        if self._bell is None:
            self._bell = running_events.get()()
        if not self.cancel_reason:  # asked after the bell is there: whoever cancels sets it
            self._bell.wait(length)
        return self.cancelled

    def raise_if_cancelled(self) -> None:
        """Do nothing while the run is not cancelled: call it where the function can give up.

        Raises:
            TaskTimeoutError: The task's timeout has passed. The run is retried as its policy says.
            TaskCancelledError: It was cancelled, or the scheduler stopped so. It is not retried.
        """
        if self.cancel_reason == TIMED_OUT:
            raise TaskTimeoutError("the task's timeout has passed")
        if self.cancel_reason:
            raise TaskCancelledError(f"the run was {self.cancel_reason}")

    @property
    def origin(self) -> Context | None:
        """The context in which the run was asked for, by ``fire`` or a method of the scheduler.

        None for one that time released, once it has ended, and in a scheduler without ``around``,
        whose context managers this is for.
        """
        return self._origin

    @property
    def trace_id(self) -> str:
        """The trace of the last attempt, 32 hexadecimal digits; "" without telemetry."""
        return self._span[0]

    @property
    def span_id(self) -> str:
        """The span of the last attempt, 16 hexadecimal digits; "" without telemetry."""
        return self._span[1]

    @property
    def trace_flags(self) -> str:
        """The flags of that trace, 2 hexadecimal digits, odd if it is sampled; "" if not known."""
        return self._span[2]

    def set_span(self, trace_id: str, span_id: str, trace_flags: str = "") -> None:
        """Note the span of an attempt that begins: for a context manager of ``around``."""
        self._span = trace_id, span_id, trace_flags

    def _leave_span(self) -> None:
        """Begin an attempt without a span: that of the attempt before is not its own."""
        if self._span[0]:
            self._span_before, self._span = self._span, _NO_SPAN

    @property
    def resources(self) -> Resources:
        """What the attempts cost in sum."""
        return Resources(*self._cost)

    @property
    def lateness(self) -> float:
        """Seconds from when it was due to its release: the scheduler's share of a late start."""
        return _between(self.scheduled_at, self.released_at)

    @property
    def queue_time(self) -> float:
        """Seconds from its release to its first start: what it waited for its turn and a slot."""
        return _between(self.released_at, self.started_at)

    @property
    def attempt(self) -> int:
        """The number of the current or last attempt, 1 for the first."""
        return self.attempts

    def copy(self) -> Execution:
        """Return it as it stands now, in an object of its own."""
        return Execution(*_copied(self))

    def _as_told(self) -> Execution:
        """Return it as it stands now, in an object that cannot be changed."""
        return _told(*_copied(self))

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has: instants as ISO 8601 text, durations in seconds.

        ``event`` and ``results`` are left out: they may be secret, and need not be JSON.
        """
        return to_dict(
            self,
            leave_out=("event", "results"),
            add=("cancelled", "lateness", "queue_time", "resources", "trace_id", "span_id"),
        )

    def __repr__(self) -> str:
        """Name the run and where it stands; never its event or results, which may be secret."""
        error = f", {self.error!r}" if self.error else ""
        return (
            f"<Execution {self.id} of task {self.task_id} {self.task_name!r}:"
            f" {self.status}, attempts {self.attempts}{error}>"
        )


# By place, in one call: `dataclasses.replace` takes five times as long, and each change that a
# listener is told has a copy.
_copied = attrgetter(*(each.name for each in fields(Execution)[:-3]))  # from _bell on none is


class _Told(Execution):
    """One of a `Change`: all listeners have the same."""

    __slots__ = ()

    def __setattr__(self, name: str, _: object) -> NoReturn:
        raise AttributeError(f"the execution of a change cannot be changed, got a new {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _told, _copied(self)


def _told(*values: Any) -> Execution:
    told = Execution(*values)
    told.__class__ = _Told  # its own __init__ would be refused
    return told


# What `cancel_reason` says.
TIMED_OUT, WAS_CANCELLED, WAS_STOPPED = "timed out", "cancelled", "stopped"


def _between(start: datetime | None, end: datetime | None) -> float:
    """Return the seconds between two instants, 0.0 while one is open or if the clock went back."""
    if start is None or end is None:
        return 0.0
    return max(0.0, (end - start).total_seconds())


running_execution: ContextVar[Execution | None] = ContextVar(
    "background_tasks.running_execution", default=None
)


running_function: ContextVar[Callable[..., object] | None] = ContextVar(
    "background_tasks.running_function", default=None
)  # only where something is around the attempt


running_events: ContextVar[Callable[[], Any]] = ContextVar(
    "background_tasks.running_events", default=Event
)


def current_execution() -> Execution | None:
    """Return the Execution that called this function, None outside of a task.

    In the thread that runs the task, and wherever its context was copied to. Where an executor
    calls the function in another process it is a copy from the start of the attempt: its
    ``cancelled`` does not change there.
    """
    return running_execution.get()


class TaskOwner(Protocol):
    """What an added Task asks of its scheduler, which keeps the lock."""

    def change_task(self, task: Task, field: str, value: Any) -> None:
        """Set *field* ("enabled" or "priority") and act on it."""

    def history_of(self, task: Task) -> tuple[list[Execution], Totals]:
        """Return the ended executions of *task*, oldest first, and what those before them cost."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run of a task needs beside a slot.

    Attributes:
        lane: The name of the lane whose slots it may use, too; None is none.
        resources: Pairs of a resource's name and how much of it; in the order of the names.
    """

    lane: str | None = None
    resources: tuple[tuple[str, float], ...] = ()


class Task:
    """A function to run, with its arguments, when a trigger says so.

    Add it to one Scheduler, once; that gives it its ``id``. ``enabled`` and ``priority`` may be
    set at any time from any thread. Arguments are kept as given, not copied: a function that
    changes one changes it for the next run too.
    """

    __slots__ = (
        "__weakref__",
        "_arms",
        "_demand",
        "_enabled",
        "_head",
        "_history",
        "_id",
        "_is_removed",
        "_owner",
        "_pending",
        "_priority",
        "_quarantine",
        "_running",
        "_tally",
        "_triggers",
        "_waiting",
        "args",
        "description",
        "function",
        "history",
        "keep_results",
        "kwargs",
        "max_instances",
        "misfire_grace",
        "missed",
        "name",
        "overlap",
        "retry_policy",
        "timeout",
    )

    def __init__(
        self,
        name: str,
        function: Callable[..., object],
        *,
        description: str = "",
        triggers: Iterable[Trigger] = (),
        args: Iterable[object] = (),
        kwargs: Mapping[str, object] = {},
        retry_policy: RetryPolicy = RetryPolicy(),
        enabled: bool = True,
        priority: int = 0,
        max_instances: int = 1,
        overlap: str = "queue",
        lane: str | None = None,
        resources: Mapping[str, float] = {},
        missed: str = "once",
        misfire_grace: Duration | None = None,
        timeout: Duration | None = None,
        history: int = 100,
        keep_results: bool = True,
    ) -> None:
        """Describe a task.

        Args:
            name: 1 to 200 printable characters; need not be unique.
            function: Called as ``function(*args, **kwargs)`` in a thread of the pool, with no
                lock held. It must be synchronous and take these arguments.
            description: For people.
            triggers: When to run it, each a Trigger of its own; none: when asked only.
            args: Positional arguments.
            kwargs: Keyword arguments.
            retry_policy: Whether a failed run is tried again.
            enabled: While False nothing of it runs: timers pass, events wait.
            priority: Larger goes first; may be negative.
            max_instances: How many of its runs may run at once.
            overlap: What becomes of a run released while so many run: with "queue" it waits, with
                "skip" it is recorded as MISSED.
            lane: The scheduler's lane whose reserved slots it may use, besides the common ones.
            resources: How much it needs of each of the scheduler's ``capacity`` while it runs.
            missed: Occurrences that were missed: "once", one late run stands for all; "all", each
                is run, oldest first; "skip", none that is late.
            misfire_grace: A run released later than this, in seconds, is recorded as MISSED
                instead; None never drops a run.
            timeout: After so many seconds of an attempt its ``cancelled`` is set and a warning is
                logged; nothing is killed, and another process is not told. The run is then
                TIMED_OUT when it ends.
            history: How many ended executions are kept, at most 1,000,000.
            keep_results: False leaves what the function returns out of the history.

        Raises:
            ValueError: A value breaks a rule.
            TypeError: A value is of the wrong kind, the function is a coroutine or generator
                function, or it does not take *args* and *kwargs*.
        """
        self.name = checks.name_text("name", name)
        self.description = checks.text("description", description)
        self.args = _arguments(args)
        self.kwargs = _keywords(kwargs)
        checks.call("function", function, self.args, self.kwargs)
        self.function = function
        if not isinstance(retry_policy, RetryPolicy):
            raise InvalidTypeError(
                f"retry_policy must be a RetryPolicy, got {checks.shown(retry_policy)}"
            )
        self.retry_policy = retry_policy
        self._enabled = checks.boolean("enabled", enabled)
        self._priority = priority_of(priority)
        self.max_instances = checks.whole("max_instances", max_instances, least=1)
        if checks.text("overlap", overlap) not in OVERLAP_POLICIES:
            raise InvalidValueError(
                f'overlap must be "queue" or "skip", got {checks.shown(overlap)}'
            )
        self.overlap = overlap
        self._demand = _demand(lane, resources)
        if checks.text("missed", missed) not in MISSED_POLICIES:
            raise InvalidValueError(
                f'missed must be "once", "all" or "skip", got {checks.shown(missed)}'
            )
        self.missed = missed
        self.misfire_grace = _optional("misfire_grace", misfire_grace)
        self.timeout = _optional("timeout", timeout)
        self.history = checks.whole("history", history, least=0, most=_LONGEST_HISTORY)
        self.keep_results = checks.boolean("keep_results", keep_results)
        self._id: int | None = None
        self._owner: TaskOwner | None = None
        # A list, made at the first: an empty deque costs 0.8 kB, and taking the first of a
        # hundred out of a list costs 30 ns.
        self._history: list[Execution] | None = None
        self._tally: Tally | None = None  # of the executions that are no longer in the history
        self._quarantine: str | None = None
        # What the engine keeps of it.
        self._is_removed = False
        self._running = 0  # runs whose function is being called
        self._waiting = 0  # runs that are pending, ready or wait for a retry
        self._head: Any = None  # the run in the ready heap
        self._pending: deque[Any] | None = None  # behind it; None when empty: a deque has 0.6 kB
        self._arms: tuple[Arm, ...] = ()  # its triggers, once it is added
        self._triggers = _claimed(triggers_of(triggers))  # last, so that a refusal leaves them free

    @property
    def id(self) -> int:
        """The number ``add_task`` gave, from 0 on.

        Raises:
            TaskNotFoundError: The task was not added yet.
        """
        if self._id is None:
            raise TaskNotFoundError(f"task {self.name!r} has no ID yet: add_task gives it one")
        return self._id

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """What it was given."""
        return self._triggers

    @property
    def enabled(self) -> bool:
        """Whether it runs; setting it to True also lifts a quarantine."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._change("enabled", checks.boolean("enabled", value))

    @property
    def priority(self) -> int:
        """Larger goes first; setting it moves a run that waits."""
        return self._priority

    @priority.setter
    def priority(self, value: int) -> None:
        self._change("priority", priority_of(value))

    @property
    def lane(self) -> str | None:
        """The lane whose reserved slots it may use, None for no lane."""
        return None if self._demand is None else self._demand.lane

    @property
    def resources(self) -> dict[str, float]:
        """How much of each resource it needs while it runs; a dict of its own."""
        return {} if self._demand is None else dict(self._demand.resources)

    @property
    def quarantine(self) -> str | None:
        """Why the task was disabled by the scheduler, None if it was not: a trigger raised."""
        return self._quarantine

    @property
    def execution_hist(self) -> list[Execution]:
        """The last ``history`` executions that have ended, oldest first; a list of its own."""
        return self._past()[0]

    @property
    def usage(self) -> Usage:
        """What its executions cost: those in the history, and all since it was added."""
        history, before = self._past()
        return usage_of((each._cost for each in history if each.attempts), before)

    def _past(self) -> tuple[list[Execution], Totals]:
        return self._kept() if self._owner is None else self._owner.history_of(self)

    def _kept(self) -> tuple[list[Execution], Totals]:
        return list(self._history or ()), NOTHING if self._tally is None else self._tally.totals()

    def _change(self, field: str, value: Any) -> None:
        if self._owner is None:
            setattr(self, f"_{field}", value)
        else:
            self._owner.change_task(self, field, value)

    def __repr__(self) -> str:
        """Name the task; never its arguments, which may be secret."""
        number = "not added" if self._id is None else f"{self._id}"
        state = "" if self._enabled else " disabled"
        reason = f": {checks.line_text(self._quarantine)}" if self._quarantine else ""
        return f"<Task {number} {self.name!r} priority={self._priority}{state}{reason}>"


def _arguments(args: object) -> tuple[object, ...]:
    if type(args) is tuple or type(args) is list:
        return tuple(args)  # without the abstract classes below, which are slow to ask
    if args is None or isinstance(args, (str, bytes, Mapping)) or not isinstance(args, Iterable):
        # Not the value, which may be secret, as for kwargs.
        raise InvalidTypeError(f"args must be a list or tuple, got a {type(args).__name__}")
    return tuple(args)


def _keywords(kwargs: object) -> dict[str, object]:
    if kwargs == {} and type(kwargs) is dict:
        return _NO_KEYWORDS
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise InvalidTypeError(
            f"kwargs must be a mapping with str keys, got a {type(kwargs).__name__}"
        )
    return dict(kwargs)


_NO_KEYWORDS: dict[str, object] = {}  # shared by all tasks without; never written to


def priority_of(value: object, rule: str = "priority") -> int:
    """Return *value* if it is a priority; *rule* names it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{rule} must be an int, got {checks.shown(value)}")
    if abs(value) > _HIGHEST_PRIORITY:
        raise InvalidValueError(
            f"{rule} must lie within ±{_HIGHEST_PRIORITY}, got {checks.shown(value)}"
        )
    return value


def _demand(lane: object, resources: object) -> Demand | None:
    """Return what a task needs beside a slot; None for nothing, which costs no memory."""
    if lane is None and resources == {} and type(resources) is dict:
        return None
    if lane is not None:
        checks.name_text("lane", lane)
    amounts = checks.amounts("resources", resources)
    return Demand(lane, tuple(sorted(amounts.items())))  # type: ignore[arg-type] # it is a str


def _optional(rule: str, value: object) -> timedelta | None:
    return None if value is None else checks.duration(rule, value)


def triggers_of(triggers: object) -> tuple[Trigger, ...]:
    """Return *triggers* as a tuple of Triggers that belong to no task yet."""
    if not isinstance(triggers, (tuple, list)) and (
        not isinstance(triggers, Iterable) or isinstance(triggers, (str, bytes))
    ):
        raise InvalidTypeError(
            f"triggers must be a list or tuple of Trigger, got {checks.shown(triggers)}"
        )
    wanted = tuple(triggers)
    for position, trigger in enumerate(wanted):
        if not isinstance(trigger, Trigger):
            raise InvalidTypeError(f"each trigger must be a Trigger, got {checks.shown(trigger)}")
        is_twice = position and any(trigger is before for before in wanted[:position])
        if is_twice or getattr(trigger, "_claimed", False):
            raise AlreadyAddedError(
                f"a trigger belongs to one task, got {checks.shown(trigger)} again"
            )
    return wanted


def _claimed(wanted: tuple[Trigger, ...]) -> tuple[Trigger, ...]:
    """Mark each trigger as belonging to a task from now on."""
    for trigger in wanted:
        # Past a frozen dataclass' own __setattr__, should a user's trigger be one.
        object.__setattr__(trigger, "_claimed", True)
    return wanted
