"""The values: Status, Retry, RetryPolicy, Execution and Task, without a thread."""

from __future__ import annotations

import contextvars
import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from background_tasks import (
    AlreadyAddedError,
    EventTrigger,
    Execution,
    OneTimeTrigger,
    PeriodicTrigger,
    Retry,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    TaskNotFoundError,
    Trigger,
    current_execution,
)
from background_tasks.task import running_execution


def at(clock: str) -> datetime:
    """Return a time of one day, in UTC."""
    return datetime.fromisoformat(f"2026-01-15T{clock}+00:00")


# Status


@pytest.mark.parametrize("status", list(Status))
def test_a_status_is_its_name(status: Status) -> None:
    """It equals, prints and formats as its name."""
    assert status == status.name == str(status) == f"{status}"


@pytest.mark.parametrize(
    ("status", "has_ended"),
    [
        (Status.PENDING, False),
        (Status.RUNNING, False),
        (Status.RETRYING, False),
        (Status.SUCCESS, True),
        (Status.FAILED, True),
        (Status.MISSED, True),
        (Status.DROPPED, True),
    ],
)
def test_which_statuses_are_an_end(status: Status, has_ended: bool) -> None:
    """After those nothing more happens to the execution."""
    assert status.has_ended is has_ended


# Retry


def test_a_retry_carries_its_reason() -> None:
    """Its text is what is recorded as the error."""
    assert str(Retry("rate limited")) == "rate limited"
    assert Retry("rate limited").after is None
    assert str(Retry()) == "asked for a retry"


@pytest.mark.parametrize(
    ("after", "expected"), [(0, 0.0), (2.5, 2.5), (timedelta(minutes=1), 60.0)]
)
def test_a_retry_may_say_when(after: Any, expected: float) -> None:
    """In seconds, whichever way they are given."""
    assert Retry("later", after=after).after == expected


def test_a_retry_survives_another_process() -> None:
    """An executor of processes hands it back with its delay."""
    back = pickle.loads(pickle.dumps(Retry("later", after=5)))

    assert (str(back), back.after) == ("later", 5.0)


# RetryPolicy


def test_no_retries_by_default() -> None:
    """And no delay, for whoever asks for retries only."""
    policy = RetryPolicy()

    assert policy.max_retries == 0
    assert policy.retry_on == (Exception,)
    assert policy.delay_before(1) == 0.0


def test_the_specified_names() -> None:
    """``max_retries`` and ``delay``, by position too."""
    assert RetryPolicy(3, 5) == RetryPolicy(max_retries=3, delay=5.0)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(RetryPolicy(4, 5), [5, 5, 5, 5], id="constant"),
        pytest.param(RetryPolicy(4, timedelta(seconds=5)), [5, 5, 5, 5], id="timedelta"),
        pytest.param(RetryPolicy(4, 1, backoff=2), [1, 2, 4, 8], id="doubled"),
        pytest.param(RetryPolicy(4, 2, backoff=1.5), [2, 3, 4.5, 6.75], id="half as much again"),
        pytest.param(RetryPolicy(4, 1, backoff=10, max_delay=50), [1, 10, 50, 50], id="bounded"),
        pytest.param(RetryPolicy(4, 9, max_delay=0), [0, 0, 0, 0], id="bounded by zero"),
        pytest.param(RetryPolicy(4, 0, backoff=3), [0, 0, 0, 0], id="three times nothing"),
        pytest.param(RetryPolicy(4, [1, 5, 30]), [1, 5, 30, 30], id="one for each"),
        pytest.param(RetryPolicy(4, (timedelta(minutes=1), 5)), [60, 5, 5, 5], id="tuple"),
        pytest.param(RetryPolicy(4, [1, 5], backoff=9), [1, 5, 5, 5], id="backoff not used"),
        pytest.param(RetryPolicy(4, [1, 90], max_delay=60), [1, 60, 60, 60], id="each is bounded"),
    ],
)
def test_the_delay_before_each_retry(policy: RetryPolicy, expected: list[float]) -> None:
    """The first retry is number one."""
    assert [policy.delay_before(retry) for retry in (1, 2, 3, 4)] == expected


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        pytest.param(0.0, 5.0, id="none of it"),
        pytest.param(0.25, 7.5, id="a quarter of it"),
        pytest.param(1.0, 15.0, id="all of it"),
    ],
)
def test_jitter_is_added_to_the_delay(draw: float, expected: float) -> None:
    """The caller draws where in the jitter it lies."""
    assert RetryPolicy(1, 5, jitter=10).delay_before(1, draw) == expected


def test_no_delay_is_longer_than_the_bound_jitter_included() -> None:
    """The bound holds for the sum."""
    assert RetryPolicy(1, 5, jitter=10, max_delay=12).delay_before(1, 1.0) == 12.0


@pytest.mark.parametrize("backoff", [2, 2.0, 1e300])
@pytest.mark.parametrize("retry", [1024, 5000])
def test_a_delay_that_would_overflow_is_a_hundred_years(backoff: float, retry: int) -> None:
    """However large the number of the retry, the delay can be waited for."""
    assert RetryPolicy(9999, 1, backoff=backoff).delay_before(retry) == 3_155_760_000.0


def test_no_delay_stays_none() -> None:
    """A backoff that overflows makes no delay of nothing."""
    assert RetryPolicy(9999, 0, backoff=2.0).delay_before(5000) == 0.0


@pytest.mark.parametrize(
    ("retry_on", "expected"),
    [
        pytest.param((ValueError, OSError), (ValueError, OSError), id="tuple"),
        pytest.param([ValueError], (ValueError,), id="list"),
        pytest.param(ValueError, (ValueError,), id="one"),
        pytest.param((), (), id="none"),
        pytest.param((KeyboardInterrupt,), (KeyboardInterrupt,), id="not an Exception"),
    ],
)
def test_which_errors_are_retried(retry_on: Any, expected: tuple[type, ...]) -> None:
    """They are kept as a tuple, for isinstance."""
    assert RetryPolicy(1, retry_on=retry_on).retry_on == expected


def test_a_policy_is_frozen() -> None:
    """Tasks may share one; a list given for the delays is copied."""
    delays: Sequence[float] = [1.0, 2.0]
    policy = RetryPolicy(3, delays)
    assert policy.delay == (1.0, 2.0)

    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.max_retries = 5  # type: ignore[misc]

    assert hash(policy) == hash(RetryPolicy(3, [1, 2]))


# Execution


def test_a_new_execution_is_pending() -> None:
    """It has neither started nor ended, and nothing is known of it."""
    execution = Execution()

    assert execution.status is Status.PENDING
    assert (execution.started_at, execution.ended_at) == (None, None)
    assert (execution.error, execution.event, execution.results) == ("", None, None)


def test_the_specified_attributes() -> None:
    """They come first, in the order of the specification."""
    execution = Execution(at("10:00:00"), at("10:00:05"), Status.FAILED, "E: x", "event", 5)

    assert execution.started_at == at("10:00:00")
    assert execution.ended_at == at("10:00:05")
    assert execution.status == "FAILED"
    assert (execution.error, execution.event, execution.results) == ("E: x", "event", 5)


@pytest.mark.parametrize(
    ("scheduled", "released", "started", "lateness", "queue_time"),
    [
        pytest.param(None, None, None, 0.0, 0.0, id="nothing yet"),
        pytest.param("10:00:00", None, None, 0.0, 0.0, id="not released"),
        pytest.param("10:00:00", "10:00:01.500000", None, 1.5, 0.0, id="waits"),
        pytest.param("10:00:00", "10:00:01.500000", "10:00:04", 1.5, 2.5, id="started"),
        pytest.param("10:00:00", "09:00:00", "08:00:00", 0.0, 0.0, id="the clock went back"),
    ],
)
def test_what_a_run_waited_for(
    scheduled: str | None,
    released: str | None,
    started: str | None,
    lateness: float,
    queue_time: float,
) -> None:
    """For the scheduler to notice, then for its turn; never less than nothing."""
    execution = Execution(
        scheduled_at=scheduled and at(scheduled),  # type: ignore[arg-type]
        released_at=released and at(released),  # type: ignore[arg-type]
        started_at=started and at(started),  # type: ignore[arg-type]
    )

    assert (execution.lateness, execution.queue_time) == (lateness, queue_time)


def test_the_number_of_the_attempt() -> None:
    """In a function that runs the second time, it is 2."""
    assert Execution(attempts=2).attempt == 2


def test_a_copy_is_an_object_of_its_own() -> None:
    """It stays as it is when the original goes on."""
    execution = Execution(id=7, status=Status.RUNNING)

    seen = execution.copy()
    execution.status = Status.SUCCESS

    assert (seen.id, seen.status) == (7, Status.RUNNING)


def test_executions_are_told_apart() -> None:
    """Two that look the same are two runs."""
    assert Execution(id=1) != Execution(id=1)


def test_an_execution_shows_where_it_stands() -> None:
    """And its error, but never its event or results."""
    execution = Execution(
        id=7, task_id=3, task_name="report", status=Status.RETRYING, attempts=2,
        error="ValueError: x", event="secret", results="secret",
    )  # fmt: skip

    assert repr(execution) == (
        "<Execution 7 of task 3 'report': RETRYING, attempts 2, 'ValueError: x'>"
    )
    assert repr(Execution(id=7, task_id=3, task_name="report")) == (
        "<Execution 7 of task 3 'report': PENDING, attempts 0>"
    )


def test_outside_of_a_task_no_execution_is_current() -> None:
    """There is None rather than an error."""
    assert current_execution() is None


def test_the_current_execution() -> None:
    """It is that of the context, so it goes along where the context is copied to."""
    execution = Execution()
    context = contextvars.copy_context()

    context.run(running_execution.set, execution)

    assert context.run(current_execution) is execution
    assert current_execution() is None


# Task


def test_a_task_by_default() -> None:
    """It is enabled, of priority 0, without triggers, and keeps a hundred executions."""
    task = Task("report", print)

    assert (task.name, task.function, task.description) == ("report", print, "")
    assert (task.triggers, task.args, task.kwargs) == ((), (), {})
    assert (task.retry_policy, task.enabled, task.priority) == (RetryPolicy(), True, 0)
    assert (task.max_instances, task.missed, task.history) == (1, "once", 100)
    assert (task.misfire_grace, task.timeout, task.keep_results) == (None, None, True)


def test_what_a_task_is_given() -> None:
    """Each argument is an attribute; durations become timedeltas."""
    policy, trigger = RetryPolicy(3), EventTrigger()

    task = Task(
        "report", print, description="for people", triggers=[trigger], args=["a"],
        kwargs={"sep": ""}, retry_policy=policy, enabled=False, priority=-5, max_instances=2,
        missed="all", misfire_grace=60, timeout=timedelta(minutes=1), history=5,
        keep_results=False,
    )  # fmt: skip

    assert (task.description, task.triggers, task.args) == ("for people", (trigger,), ("a",))
    assert (task.kwargs, task.retry_policy, task.enabled) == ({"sep": ""}, policy, False)
    assert (task.priority, task.max_instances, task.missed) == (-5, 2, "all")
    assert task.misfire_grace == task.timeout == timedelta(seconds=60)
    assert (task.history, task.keep_results) == (5, False)


def test_arguments_are_copied() -> None:
    """What is done to the list or the mapping afterwards is not done to the task."""
    args: list[object] = [1]
    kwargs: dict[str, object] = {"sep": ""}
    task = Task("report", print, args=args, kwargs=kwargs)

    args.append(2)
    kwargs["end"] = ""

    assert (task.args, task.kwargs) == ((1,), {"sep": ""})


@pytest.mark.parametrize("args", [[1, 2], (1, 2), iter([1, 2]), range(1, 3)])
def test_arguments_of_any_kind(args: Any) -> None:
    """Whatever can be iterated is kept as a tuple."""
    assert Task("report", print, args=args).args == (1, 2)


@pytest.mark.parametrize("kwargs", [{"sep": ""}, MappingProxyType({"sep": ""})])
def test_keywords_of_any_kind(kwargs: Mapping[str, object]) -> None:
    """Whatever maps is kept as a dict."""
    assert Task("report", print, kwargs=kwargs).kwargs == {"sep": ""}


@pytest.mark.parametrize("triggers", [list, tuple, iter])
def test_triggers_of_any_kind(triggers: Any) -> None:
    """Whatever can be iterated is kept as a tuple."""
    first, second = PeriodicTrigger(60), OneTimeTrigger(5)

    assert Task("report", print, triggers=triggers([first, second])).triggers == (first, second)


def test_a_task_that_was_not_added_has_no_id() -> None:
    """The error says what gives it one."""
    with pytest.raises(TaskNotFoundError, match="task 'report' has no ID yet: add_task gives"):
        _ = Task("report", print).id


def test_a_task_that_was_not_added_has_no_history() -> None:
    """And is nobody's quarantine."""
    task = Task("report", print)

    assert task.execution_hist == []
    assert task.quarantine is None


@pytest.mark.parametrize("added", [False, True])
def test_enabled_and_priority_may_be_set(scheduler: Scheduler, added: bool) -> None:
    """Before a task is added and afterwards."""
    task = Task("report", print)
    if added:
        scheduler.add_task(task)

    task.enabled = False
    task.priority = 7

    assert (task.enabled, task.priority) == (False, 7)


@pytest.mark.parametrize("priority", [-1_000_000_000, 1_000_000_000])
def test_the_bounds_of_a_priority(priority: int) -> None:
    """They are priorities themselves."""
    assert Task("report", print, priority=priority).priority == priority


def test_the_history_is_a_list_of_its_own(scheduler: Scheduler) -> None:
    """Emptying it empties nothing."""
    task = scheduler.add_task(Task("report", int))
    scheduler.run_task(task.id)

    task.execution_hist.clear()

    assert [execution.status for execution in task.execution_hist] == ["SUCCESS"]


def test_a_task_shows_itself(scheduler: Scheduler) -> None:
    """Its name, priority and state, but never its arguments."""
    task = Task("report", print, args=["secret"], kwargs={"sep": "secret"}, priority=5)
    assert repr(task) == "<Task not added 'report' priority=5>"

    scheduler.add_task(task)
    task.enabled = False

    assert repr(task) == "<Task 0 'report' priority=5 disabled>"


class Broken(Trigger):
    """A trigger that raises."""

    def is_ready(self) -> bool:
        """Raise."""
        raise ValueError("broken")

    def reset(self) -> None:
        """Do nothing."""


def test_a_task_shows_its_quarantine(scheduler: Scheduler) -> None:
    """And why."""
    task = scheduler.add_task(Task("report", print, triggers=[Broken()]))

    scheduler.run_tasks()

    assert task.quarantine is not None
    assert repr(task) == f"<Task 0 'report' priority=0 disabled: {task.quarantine}>"


def test_enabling_lifts_a_quarantine(scheduler: Scheduler) -> None:
    """The reason is gone with it."""
    task = scheduler.add_task(Task("report", print, triggers=[Broken()]))
    scheduler.run_tasks()

    task.enabled = True

    assert (task.enabled, task.quarantine) == (True, None)


# Whose a trigger is


def test_a_trigger_belongs_to_one_task() -> None:
    """A second task that names it is refused."""
    trigger = PeriodicTrigger(60)
    Task("first", print, triggers=[trigger])

    with pytest.raises(AlreadyAddedError, match=r"a trigger belongs to one task, got Periodic.*"):
        Task("second", print, triggers=[trigger])


def test_a_trigger_is_named_once() -> None:
    """Twice in one task would run it twice."""
    trigger = EventTrigger()

    with pytest.raises(AlreadyAddedError, match=r"a trigger belongs to one task, got <Event.*"):
        Task("first", print, triggers=[trigger, trigger])


@dataclasses.dataclass(frozen=True)
class Frozen(Trigger):
    """A trigger of the user's that lets nothing be set on it."""

    ready: bool = True

    def is_ready(self) -> bool:
        """Return what it was made with."""
        return self.ready

    def reset(self) -> None:
        """Do nothing."""


def test_equal_triggers_are_two() -> None:
    """Identity counts, and one that is frozen is accepted."""
    first, second = Frozen(), Frozen()
    assert first == second

    assert len(Task("report", print, triggers=[first, second]).triggers) == 2


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"name": ""}, id="name"),
        pytest.param({"priority": "high"}, id="priority"),
        pytest.param({"keep_results": 1}, id="the last argument"),
        pytest.param({"more": [EventTrigger, None]}, id="a later trigger"),
    ],
)
def test_a_task_that_is_refused_leaves_its_triggers_free(more: dict[str, Any]) -> None:
    """They can be given to the one that is written right."""
    trigger = PeriodicTrigger(60)
    triggers = [trigger, *more.pop("more", [])]
    with pytest.raises((ValueError, TypeError)):
        Task(**{"name": "wrong", "function": print, "triggers": triggers, **more})

    assert Task("right", print, triggers=[trigger]).triggers == (trigger,)


def test_a_retry_policy_is_shared() -> None:
    """It has no state: many tasks may have it."""
    policy = RetryPolicy(3)

    assert Task("a", print, retry_policy=policy).retry_policy is policy
    assert Task("b", print, retry_policy=policy).retry_policy is policy


def test_instants_are_utc(scheduler: Scheduler) -> None:
    """The history of a run is written in aware UTC datetimes."""
    task = scheduler.add_task(Task("report", int))

    execution = scheduler.run_task(task.id)

    assert execution.started_at is not None
    assert execution.started_at.utcoffset() == timedelta(0)
