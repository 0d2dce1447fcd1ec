"""Every public argument is refused where it is written: by an error of ours that names it."""

from __future__ import annotations

import functools
import io
import logging
import math
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from types import MethodType
from typing import Any, NamedTuple

import pytest

from background_tasks import (
    AlreadyAddedError,
    BackgroundTasksError,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    Retry,
    RetryPolicy,
    Scheduler,
    Task,
    TaskNotFoundError,
    configure_logging,
)


class Bad(NamedTuple):
    """A value that is refused.

    Attributes:
        value: The value.
        error: The builtin that the error is, too.
        rule: What the message says of it, when that is not the name of the argument.
        name: What it is called in the message, when that is not the value: it may be secret.
    """

    value: Any
    error: type[Exception]
    rule: str | None = None
    name: str = ""

    @property
    def shown(self) -> str:
        """How the message shows the value, its beginning if it is long."""
        return self.name or repr(self.value)[:16]


class Evil:
    """A value that cannot even be shown."""

    def __repr__(self) -> str:
        raise SystemExit("no")


def bad_types(*values: object) -> list[Bad]:
    """Return *values* as those of a wrong kind."""
    return [Bad(value, TypeError) for value in values]


def bad_kinds(*values: object) -> list[Bad]:
    """Return *values* as those of a wrong kind, which are not shown."""
    return [Bad(value, TypeError, name=f"got a {type(value).__name__}") for value in values]


def bad_values(*values: object) -> list[Bad]:
    """Return *values* as those that break a rule."""
    return [Bad(value, ValueError) for value in values]


DURATION = [
    *bad_types("5", True, False, [5], 1j, object),
    *bad_values(-1, -0.001, math.nan, math.inf, -math.inf, timedelta(seconds=-1)),
    *bad_values(10**400, 3_155_760_001, timedelta(days=36526)),
]
NONE = bad_types(None)
WHOLE = bad_types(None, True, "1", 1.0, math.nan, [1])
NUMBER = bad_types(None, True, "1", timedelta(seconds=1), 1j)
FLAG = bad_types(None, 0, 1, "yes", [])
TEXT = bad_types(None, 5, b"text", ["text"])
NAIVE = datetime(2026, 1, 15)  # noqa: DTZ001
INSTANT = [
    *bad_types("2026-01-15", 5, date(2026, 1, 15), False),
    *bad_values(NAIVE, datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
]
ZONE = [
    *bad_types(None, 5, timezone.utc),
    *bad_values("", "Mars/Base", "America", "../UTC"),
]
CRON = [
    *bad_types(5, b"* * * * *", ["*"], False),
    *bad_values("", "* * * *", "60 * * * *", "* * * * * * * *", "0 0 30 2 *", "R * * * *"),
    *bad_values("@reboot", "@every", "@every 5", "TZ=Mars/Base * * * * *", "5-1 * * * *"),
]


def rows(table: dict[str, list[Bad]]) -> list[Any]:
    """Return a parameter set for each value of each argument in *table*."""
    return [
        pytest.param(argument, bad, id=f"{argument}={bad.shown}")
        for argument, bads in table.items()
        for bad in bads
    ]


def refuses(call: Callable[[], object], error: type[Exception], *words: str) -> None:
    """Check that *call* raises an error of ours that is *error*, too, and says *words*."""
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, BackgroundTasksError)
    assert [word for word in words if word not in str(caught.value)] == []


# Values


@pytest.mark.parametrize(
    ("argument", "bad"),
    rows(
        {
            "max_retries": [*WHOLE, *bad_values(-1)],
            "delay": [
                *DURATION[:3],
                *DURATION[4:],
                *NONE,
                Bad([], ValueError, "delay must name at least one delay"),
            ],
            "backoff": [*NUMBER, *bad_values(0.999, 0, -1, math.nan, math.inf)],
            "max_delay": DURATION,
            "jitter": [*DURATION, *NONE],
            "retry_on": bad_types(
                None, "ValueError", 5, int, (ValueError, int), (ValueError(),), {ValueError}
            ),
        }
    ),
)
def test_a_retry_policy_refuses(argument: str, bad: Bad) -> None:
    """Each of its arguments."""
    words = [bad.rule] if bad.rule else [f"{argument} must ", bad.shown]
    if argument == "retry_on":  # the message shows the one that is wrong
        words = ["retry_on must "]

    refuses(lambda: RetryPolicy(**{argument: bad.value}), bad.error, *words)


@pytest.mark.parametrize("bad", [*DURATION, *NONE], ids=lambda bad: bad.shown)
def test_a_retry_policy_refuses_each_delay(bad: Bad) -> None:
    """Wherever in the sequence it stands."""
    refuses(lambda: RetryPolicy(3, [1, bad.value]), bad.error, "each delay must ", bad.shown)


@pytest.mark.parametrize(
    ("argument", "bad"),
    rows(
        {
            "retry": [*WHOLE, *bad_values(0, -1)],
            "draw": [*NUMBER, *bad_values(-0.1, 1.1, math.nan, math.inf)],
        }
    ),
)
def test_a_delay_refuses(argument: str, bad: Bad) -> None:
    """The number of the retry, and what places it in the jitter."""
    arguments = {"retry": 1, argument: bad.value}

    refuses(lambda: RetryPolicy().delay_before(**arguments), bad.error, argument, bad.shown)


@pytest.mark.parametrize("bad", DURATION, ids=lambda bad: bad.shown)
def test_a_retry_refuses(bad: Bad) -> None:
    """A delay that is none, where it is raised."""
    refuses(lambda: Retry("later", after=bad.value), bad.error, "after must ", bad.shown)


# Triggers


@pytest.mark.parametrize(
    ("argument", "bad"),
    rows(
        {
            "interval": [*DURATION, *bad_values(0, 0.0009, timedelta(microseconds=999))],
            "timezone": ZONE,
            "mode": [*bad_types(None, 5, ["rate"]), *bad_values("", "fixed", "RATE")],
            "jitter": [*DURATION, *NONE],
            "run_immediately": FLAG,
            "start": INSTANT,
            "end": INSTANT,
        }
    ),
)
def test_a_periodic_trigger_refuses(argument: str, bad: Bad) -> None:
    """Each of its arguments beside an interval."""
    arguments = {"interval": 60, argument: bad.value}

    refuses(lambda: PeriodicTrigger(**arguments), bad.error, f"{argument} must ", bad.shown)


@pytest.mark.parametrize(
    ("argument", "bad"),
    rows({"cron_expr": CRON, "timezone": ZONE, "mode": bad_values("delay", "fixed")}),
)
def test_a_periodic_trigger_refuses_with_cron(argument: str, bad: Bad) -> None:
    """Its expression, and the mode that needs an interval."""
    arguments = {"cron_expr": "* * * * *", argument: bad.value}

    refuses(lambda: PeriodicTrigger(**arguments), bad.error, f"{argument} must ", bad.shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({}, ["got interval=None and cron_expr=None"], id="neither"),
        pytest.param(
            {"interval": 60, "cron_expr": "@daily"},
            ["got interval=60 and cron_expr='@daily'"],
            id="both",
        ),
    ],
)
def test_a_periodic_trigger_needs_one_of_two(arguments: dict[str, Any], words: list[str]) -> None:
    """An interval or a cron expression, and not both."""
    rule = "exactly one of interval and cron_expr must be given"

    refuses(lambda: PeriodicTrigger(**arguments), ValueError, rule, *words)


def test_a_window_that_ends_before_it_starts() -> None:
    """It would never be open."""
    start = datetime(2026, 1, 15, tzinfo=timezone.utc)

    refuses(
        lambda: PeriodicTrigger(60, start=start, end=start - timedelta(microseconds=1)),
        ValueError,
        "end must not lie before start",
        "2026-01-14 23:59:59.999999+00:00",
    )


@pytest.mark.parametrize(("argument", "bad"), rows({"delay": DURATION, "at": INSTANT}))
def test_a_one_time_trigger_refuses(argument: str, bad: Bad) -> None:
    """Each of its arguments."""
    refuses(
        lambda: OneTimeTrigger(**{argument: bad.value}), bad.error, f"{argument} must ", bad.shown
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({}, ["got delay=None and at=None"], id="neither"),
        pytest.param(
            {"delay": 5, "at": datetime(2026, 1, 15, tzinfo=timezone.utc)},
            ["got delay=5 and at=datetime.datetime(2026, 1, 15"],
            id="both",
        ),
    ],
)
def test_a_one_time_trigger_needs_one_of_two(arguments: dict[str, Any], words: list[str]) -> None:
    """A delay or an instant, and not both."""
    rule = "exactly one of delay and at must be given"

    refuses(lambda: OneTimeTrigger(**arguments), ValueError, rule, *words)


@pytest.mark.parametrize(
    ("argument", "bad"),
    rows(
        {
            "trigger": bad_types(object(), "queue", 5, [], queue.Queue),
            "maxsize": [*WHOLE, *bad_values(-1, 1_000_001, 2**63)],
            "coalesce": FLAG,
        }
    ),
)
def test_an_event_trigger_refuses(argument: str, bad: Bad) -> None:
    """Each of its arguments; a class of queues is no queue."""
    refuses(
        lambda: EventTrigger(**{argument: bad.value}), bad.error, f"{argument} must ", bad.shown
    )


@pytest.mark.parametrize(
    ("argument", "bad"), rows({"n": [*WHOLE, *bad_values(-1)], "after": INSTANT})
)
@pytest.mark.parametrize(
    "trigger",
    [PeriodicTrigger(60), PeriodicTrigger(cron_expr="@daily"), OneTimeTrigger(5), EventTrigger()],
    ids=["interval", "cron", "one time", "event"],
)
def test_next_runs_refuses(trigger: Any, argument: str, bad: Bad) -> None:
    """How many, and after when; also where the answer is always the same."""
    arguments = {"n": 1, argument: bad.value}

    refuses(lambda: trigger.next_runs(**arguments), bad.error, f"{argument} must ", bad.shown)


# Tasks


@pytest.mark.parametrize(
    ("argument", "bad"),
    rows(
        {
            "name": [*TEXT, *bad_values("", "a\nb", "a\x00b", "a\u202eb", "x" * 201)],
            "description": TEXT,
            "triggers": [
                *bad_types(None, 5, "cron", PeriodicTrigger(60)),
                *(
                    Bad([value], TypeError, f"each trigger must be a Trigger, got {value!r}"[:50])
                    for value in (None, 5, "@daily", PeriodicTrigger, object())
                ),
            ],
            "args": bad_kinds(None, 5, "text", b"text", {"a": 1}),
            "kwargs": bad_kinds(None, 5, "text", [("a", 1)], {1: 2}),
            "retry_policy": bad_types(None, 3, RetryPolicy, {"max_retries": 3}),
            "enabled": FLAG,
            "priority": [*WHOLE, *bad_values(1_000_000_001, -1_000_000_001, 10**400)],
            "max_instances": [*WHOLE, *bad_values(0, -1)],
            "missed": [*bad_types(None, 5, ["once"]), *bad_values("", "twice", "ONCE")],
            "misfire_grace": DURATION,
            "timeout": DURATION,
            "history": [*WHOLE, *bad_values(-1, 1_000_001, 2**63)],
            "keep_results": FLAG,
        }
    ),
)
def test_a_task_refuses(argument: str, bad: Bad) -> None:
    """Each of its arguments but the function."""
    arguments = {"name": "report", "function": lambda **_: None, argument: bad.value}
    words = [bad.rule] if bad.rule else [f"{argument} must ", bad.shown]

    refuses(lambda: Task(**arguments), bad.error, *words)


def test_a_value_that_cannot_be_shown_is_refused() -> None:
    """The message says so instead of raising what the value's repr raises."""
    refuses(
        lambda: PeriodicTrigger(Evil()),  # type: ignore[arg-type]
        TypeError,
        "interval must be seconds or a timedelta, got <Evil that cannot be shown>",
    )


async def coroutine_function() -> None:
    """Be awaited by nobody."""


async def async_generator_function() -> AsyncIterator[int]:
    """Be iterated by nobody."""
    yield 1


def generator_function() -> Iterator[int]:
    """Be iterated by nobody, either."""
    yield 1


class Asynchronous:
    """Callables and methods of each kind that is refused."""

    async def __call__(self) -> None:
        """Be awaited by nobody."""

    async def method(self) -> None:
        """Be awaited by nobody."""

    @classmethod
    async def of_class(cls) -> None:
        """Be awaited by nobody."""

    @staticmethod
    async def static() -> None:
        """Be awaited by nobody."""

    async def generator_method(self) -> AsyncIterator[int]:
        """Be iterated by nobody."""
        yield 1


class AsyncIterable:
    """A callable object that makes an asynchronous generator."""

    async def __call__(self) -> AsyncIterator[int]:
        """Be iterated by nobody."""
        yield 1


class Generating:
    """A callable object that makes a generator."""

    def __call__(self) -> Iterator[int]:
        """Be iterated by nobody."""
        yield 1


NEVER_RUN = [
    pytest.param(coroutine_function, "be synchronous", id="coroutine function"),
    pytest.param(async_generator_function, "be synchronous", id="async generator function"),
    pytest.param(generator_function, "return when it is done", id="generator function"),
    pytest.param(lambda: (yield), "return when it is done", id="generator lambda"),
    pytest.param(Asynchronous().method, "be synchronous", id="async method"),
    pytest.param(Asynchronous.of_class, "be synchronous", id="async classmethod"),
    pytest.param(Asynchronous.static, "be synchronous", id="async staticmethod"),
    pytest.param(Asynchronous().generator_method, "be synchronous", id="async generator method"),
    pytest.param(Asynchronous(), "be synchronous", id="async __call__"),
    pytest.param(AsyncIterable(), "be synchronous", id="async generator __call__"),
    pytest.param(Generating(), "return when it is done", id="generator __call__"),
]


@pytest.mark.parametrize(("function", "rule"), NEVER_RUN)
@pytest.mark.parametrize("wrapped", [0, 1, 2], ids=["bare", "partial", "partial of a partial"])
def test_a_function_that_would_not_run_is_refused(
    function: Callable[[], object], rule: str, wrapped: int
) -> None:
    """Calling it makes an object that nobody awaits or iterates."""
    for _ in range(wrapped):
        function = functools.partial(functools.partial(function))

    refuses(lambda: Task("report", function), TypeError, f"function must {rule}", "got the ")


@pytest.mark.parametrize("function", [None, 5, "print", [print], object()])
def test_what_cannot_be_called_is_refused(function: Any) -> None:
    """The message shows it."""
    refuses(
        lambda: Task("report", function),
        TypeError,
        "function must be callable",
        repr(function)[:16],
    )


def nothing() -> None:
    """Take no argument."""


def one(x: object) -> None:
    """Take one argument."""


def keyword(*, x: object) -> None:
    """Take one argument by name."""


class Owner:
    """Methods and a class that take one argument."""

    def __init__(self, x: object = None) -> None:
        """Take one or none."""

    def __call__(self, x: object) -> None:
        """Take one."""

    def method(self, x: object) -> None:
        """Take one."""

    def bare(self) -> None:
        """Take none."""

    @classmethod
    def of_class(cls, x: object) -> None:
        """Take one."""

    @staticmethod
    def static(x: object) -> None:
        """Take one."""


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        pytest.param(nothing, (1,), {}, id="function: one too many"),
        pytest.param(nothing, (), {"x": 1}, id="function: unknown keyword"),
        pytest.param(one, (), {}, id="function: one too few"),
        pytest.param(one, (1,), {"x": 1}, id="function: one twice"),
        pytest.param(lambda x: x, (), {}, id="lambda"),
        pytest.param(keyword, (), {}, id="keyword-only: missing"),
        pytest.param(keyword, (1,), {}, id="keyword-only: given by position"),
        pytest.param(keyword, (), {"x": 1, "y": 2}, id="keyword-only: unknown keyword"),
        pytest.param(Owner().method, (), {}, id="method: one too few"),
        pytest.param(Owner().bare, (1,), {}, id="method: one too many"),
        pytest.param(Owner.method, (), {}, id="method of no object"),
        pytest.param(MethodType(nothing, Owner()), (), {}, id="method without self"),
        pytest.param(MethodType(nothing, Owner()), (1,), {}, id="method without self: one more"),
        pytest.param(Owner.of_class, (), {}, id="classmethod"),
        pytest.param(Owner.static, (), {}, id="staticmethod"),
        pytest.param(Owner(), (), {}, id="callable object"),
        pytest.param(Owner, (1, 2), {}, id="class: one too many"),
        pytest.param(functools.partial(one, 1), (2,), {}, id="partial: one too many"),
        pytest.param(functools.partial(keyword, 1), (), {}, id="partial: one too many in it"),  # type: ignore[call-arg]
        pytest.param(functools.partial(one), (), {}, id="partial: one too few"),
        pytest.param(functools.partial(one, 1), (), {"y": 2}, id="partial: unknown keyword"),
        pytest.param(len, (), {}, id="builtin: one too few"),
        pytest.param(len, ([], []), {}, id="builtin: one too many"),
    ],
)
def test_a_function_that_does_not_take_its_arguments_is_refused(
    function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """A call that could only raise a TypeError is refused beforehand."""
    refuses(
        lambda: Task("report", function, args=args, kwargs=kwargs),
        TypeError,
        "function ",
        "must take args and kwargs: ",
    )


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("argument", "bad"),
    rows({"enabled": FLAG, "priority": [*WHOLE, *bad_values(1_000_000_001, -1_000_000_001)]}),
)
def test_what_is_set_on_a_task_is_refused(
    scheduler: Scheduler, argument: str, bad: Bad, added: bool
) -> None:
    """And what was set before stays."""
    task = Task("report", print, enabled=False, priority=3)
    if added:
        scheduler.add_task(task)

    refuses(lambda: setattr(task, argument, bad.value), bad.error, f"{argument} must ", bad.shown)

    assert (task.enabled, task.priority) == (False, 3)


# The scheduler


@pytest.mark.parametrize(
    ("argument", "bad"),
    rows(
        {
            "max_running_tasks": [*WHOLE, *bad_values(0, -1)],
            "tick_interval": [*DURATION, *NONE, *bad_values(0, 0.0009)],
            "aging": [*NUMBER, *bad_values(-1, math.nan, -math.inf, 10**400)],
            "executor": bad_types(object(), "threads", 5),
            "exit_grace": [*DURATION, *NONE],
        }
    ),
)
def test_a_scheduler_refuses(argument: str, bad: Bad) -> None:
    """Each of its arguments; an executor is one, or is called to make one."""
    arguments = {"max_running_tasks": 2, argument: bad.value}

    refuses(lambda: Scheduler(**arguments), bad.error, f"{argument} must ", bad.shown)


def call_rows(calls: dict[str, tuple[Callable[[Scheduler, Any], object], str, list[Bad]]]) -> Any:
    """Return a parameter set for each value of each call: the call with it, and what it says."""
    return [
        pytest.param(
            functools.partial(lambda call, value, s: call(s, value), call, bad.value),
            bad.error,
            [bad.rule] if bad.rule else [rule, bad.shown],
            id=f"{name}({bad.shown})",
        )
        for name, (call, rule, bads) in calls.items()
        for bad in bads
    ]


ID = [
    *bad_types(None, "0", 0.0, True, [0]),
    *(Bad(task_id, LookupError, f"the ID {task_id}") for task_id in (-1, 1, 99)),
]


def decorated(argument: str) -> Callable[[Scheduler, Any], object]:
    """Return a use of the decorator with that argument."""
    return lambda s, value: s.task(**{argument: value})(lambda **_: None)


CALLS = call_rows(
    {
        "add_task": (
            lambda s, value: s.add_task(value),
            "task must be a Task",
            bad_types(None, "report", print, Task, 5),
        ),
        "get_task": (lambda s, value: s.get_task(value), "task_id must ", ID),
        "remove_task": (lambda s, value: s.remove_task(value), "task_id must ", ID),
        "run_task": (lambda s, value: s.run_task(value), "task_id must ", ID),
        "release_task": (lambda s, value: s.release_task(value), "task_id must ", ID),
        "stop": (lambda s, value: s.stop(value), "timeout must ", DURATION),
        "wait_idle": (lambda s, value: s.wait_idle(value), "timeout must ", DURATION),
        "upcoming": (lambda s, value: s.upcoming(value), "n must ", [*WHOLE, *bad_values(-1)]),
        "add_listener": (
            lambda s, value: s.add_listener(value),
            "listener must be callable",
            bad_types(None, 5, "print", [print]),
        ),
        "task name": (decorated("name"), "name must ", bad_values("", "a\nb", "x" * 201)),
        "task interval": (decorated("interval"), "interval must ", [*DURATION, *bad_values(0)]),
        "task cron_expr": (decorated("cron_expr"), "cron_expr must ", CRON),
        "task delay": (decorated("delay"), "delay must ", DURATION),
        "task triggers": (
            decorated("triggers"),
            "triggers must ",
            bad_types(None, 5, PeriodicTrigger(60)),
        ),
        "task description": (decorated("description"), "description must ", TEXT[1:]),
        "task args": (decorated("args"), "args must ", bad_kinds(None, 5, "text")),
        "task kwargs": (decorated("kwargs"), "kwargs must ", bad_kinds(None, 5, [("a", 1)])),
        "task retry_policy": (decorated("retry_policy"), "retry_policy must ", NONE),
        "task enabled": (decorated("enabled"), "enabled must ", FLAG),
        "task priority": (decorated("priority"), "priority must ", WHOLE),
        "task max_instances": (decorated("max_instances"), "max_instances must ", bad_values(0)),
        "task missed": (decorated("missed"), "missed must ", bad_values("twice")),
        "task misfire_grace": (decorated("misfire_grace"), "misfire_grace must ", DURATION),
        "task timeout": (decorated("timeout"), "timeout must ", DURATION),
        "task history": (decorated("history"), "history must ", bad_values(-1)),
        "task keep_results": (decorated("keep_results"), "keep_results must ", FLAG),
        "task without parentheses": (lambda s, value: s.task(value), "name must ", bad_types(one)),
        "task name, at once": (lambda s, value: s.task(value), "name must ", bad_types(5)),
        "task function": (
            lambda s, value: s.task(interval=60)(value),
            "function ",
            [
                *bad_types(5),
                Bad(coroutine_function, TypeError, name="'coroutine_function'"),
                Bad(generator_function, TypeError, name="'generator_function'"),
                Bad(Asynchronous(), TypeError, name="'Asynchronous'"),
                Bad(one, TypeError, name="'one'"),
            ],
        ),
    }
)
FURTHER_CALLS = [
    pytest.param(
        lambda s: s.get_task(10**5000),
        LookupError,
        ["no task ever had the ID"],
        id="get_task(huge)",
    ),
    pytest.param(
        lambda s: s.task(cron_expr="@daily", timezone="Mars/Base")(nothing),
        ValueError,
        ["timezone must ", "'Mars/Base'"],
        id="task timezone",
    ),
    pytest.param(
        lambda s: s.task(interval=60, cron_expr="@daily")(nothing),
        ValueError,
        ["exactly one of interval and cron_expr must be given"],
        id="task interval and cron_expr",
    ),
    pytest.param(
        lambda s: s.add_task(s.get_task(0)),
        ValueError,
        ["a task can be added once, got <Task 0 'other'"],
        id="add_task twice",
    ),
    pytest.param(
        lambda s: s.add_task(Scheduler(1).add_task(Task("stranger", nothing))),
        ValueError,
        ["a task can be added once, got <Task 0 'stranger'"],
        id="add_task of another scheduler",
    ),
    pytest.param(
        lambda s: s.add_task(Task("thief", nothing, triggers=s.get_task(0).triggers)),
        ValueError,
        ["a trigger belongs to one task, got <EventTrigger"],
        id="add_task with a trigger of another task",
    ),
]


@pytest.mark.parametrize("started", [False, True], ids=["new", "started"])
@pytest.mark.parametrize(("call", "error", "words"), [*CALLS, *FURTHER_CALLS])
def test_a_refusal_leaves_the_scheduler_as_it_was(
    scheduler: Scheduler,
    call: Callable[[Scheduler], object],
    error: type[Exception],
    words: list[str],
    started: bool,
) -> None:
    """No task, no counter and no ID has changed, and the others run."""
    runs: list[object] = []
    fired = EventTrigger()
    scheduler.add_task(Task("other", runs.append, args=[1], triggers=[fired]))
    if started:
        scheduler.start()
    before = (scheduler.tasks, scheduler.stats(), scheduler.last_task_id, repr(scheduler))

    refuses(lambda: call(scheduler), error, *words)

    after = (scheduler.tasks, scheduler.stats(), scheduler.last_task_id, repr(scheduler))
    assert after == before
    fired.fire()
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)
    assert runs == [1]


@pytest.mark.parametrize("method", ["get_task", "run_task", "release_task"])
def test_a_task_that_is_gone(scheduler: Scheduler, method: str) -> None:
    """It cannot be had any more, and the error carries its ID."""
    scheduler.add_task(Task("report", nothing))
    scheduler.remove_task(0)

    with pytest.raises(TaskNotFoundError, match="the task with the ID 0 is gone") as caught:
        getattr(scheduler, method)(0)

    assert caught.value.task_id == 0


def test_a_task_that_is_gone_can_be_removed_again(scheduler: Scheduler) -> None:
    """That is no error: it is what was wanted."""
    scheduler.add_task(Task("report", nothing))

    scheduler.remove_task(0)
    scheduler.remove_task(0)

    assert scheduler.tasks == {}


def test_a_task_that_was_removed_cannot_be_added_again(scheduler: Scheduler) -> None:
    """Once is once: its history would be that of two tasks."""
    task = scheduler.add_task(Task("report", nothing))
    scheduler.remove_task(0)

    with pytest.raises(AlreadyAddedError):
        scheduler.add_task(task)

    assert (scheduler.tasks, scheduler.last_task_id) == ({}, 0)


def test_any_number_of_runs_may_be_asked_for(scheduler: Scheduler) -> None:
    """However large it is, what there is comes back."""
    trigger = OneTimeTrigger(at=datetime(2126, 1, 15, tzinfo=timezone.utc))
    scheduler.add_task(Task("report", nothing, triggers=[trigger]))

    assert trigger.next_runs(2**63) == [datetime(2126, 1, 15, tzinfo=timezone.utc)]
    assert [each.at for each in scheduler.upcoming(2**63)] == trigger.next_runs(1)


# The log


@pytest.fixture
def log_restored() -> Iterator[logging.Logger]:
    """Return the library's logger, and undo afterwards what was installed in it."""
    logger = logging.getLogger("background_tasks")
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("argument", "bad"),
    rows(
        {
            "level": [*bad_types(None, True, 1.5, ["INFO"]), *bad_values("LOUD", "", -1)],
            "stream": bad_types(object(), 5, "file.log", io.StringIO),
        }
    ),
)
def test_the_log_refuses(log_restored: logging.Logger, argument: str, bad: Bad) -> None:
    """And nothing is installed or changed; a class of streams is no stream."""
    before = (list(log_restored.handlers), log_restored.level)

    refuses(
        lambda: configure_logging(**{argument: bad.value}),
        bad.error,
        f"{argument} must ",
        bad.shown,
    )

    assert (list(log_restored.handlers), log_restored.level) == before
