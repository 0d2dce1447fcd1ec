"""Asking runs to give up: time-outs, cancel, stop(cancel=True), and what does not heed it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from background_tasks import (
    ChangeKind,
    EventTrigger,
    Execution,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    TaskCancelledError,
    TaskNotFoundError,
    TaskTimeoutError,
    current_execution,
)
from background_tasks.calls import stack_text
from background_tasks.engine import Engine
from background_tasks.testing import InlineScheduler
from tests.conftest import Gate, Watch


def _own() -> Execution:
    execution = current_execution()
    assert execution is not None
    return execution


# Time-outs, on a clock that the function moves


def _after(scheduler: InlineScheduler, seconds: float, then: Callable[[], object]) -> Task:
    """Run a task with a timeout of five seconds that takes so many, and return it."""

    def work() -> object:
        scheduler.clock.advance(seconds=seconds)
        return then()

    task = Task("t", work, timeout=5, retry_policy=RetryPolicy(max_retries=1))
    scheduler.add_task(task)
    scheduler.run_task(task.id)
    return task


@pytest.mark.parametrize(
    ("seconds", "status"), [(4.9, Status.SUCCESS), (5, Status.TIMED_OUT), (60, Status.TIMED_OUT)]
)
def test_a_run_that_lasts_longer_than_its_timeout(seconds: float, status: Status) -> None:
    """It is TIMED_OUT though it returned, which is no reason to do it again."""
    task = _after(InlineScheduler(), seconds, lambda: "done")

    (run,) = task.execution_hist
    assert (run.status, run.attempts, run.results) == (status, 1, "done")


def test_a_run_that_gives_up_at_its_timeout_is_tried_again() -> None:
    """As its policy says; it ends as TIMED_OUT when no retry is left."""
    task = _after(InlineScheduler(), 5, lambda: _own().raise_if_cancelled())

    (run,) = task.execution_hist
    assert (run.status, run.attempts) == (Status.TIMED_OUT, 2)
    assert run.error == "TaskTimeoutError: the task's timeout has passed"


def test_each_attempt_has_its_own_timeout() -> None:
    """A second one in time succeeds."""
    scheduler, lasts = InlineScheduler(), [6, 1]

    def work() -> None:
        scheduler.clock.advance(seconds=lasts.pop(0))
        _own().raise_if_cancelled()

    scheduler.add_task(Task("t", work, timeout=5, retry_policy=RetryPolicy(max_retries=1)))
    run = scheduler.run_task(0)

    assert (run.status, run.attempts, run.cancel_reason, run.error) == (Status.SUCCESS, 2, "", "")


def test_time_outs_count_as_failures() -> None:
    """The sums add up, with one of their own besides."""
    scheduler = InlineScheduler()
    _after(scheduler, 6, lambda: None)

    stats = scheduler.stats()
    assert (stats.released, stats.failed, stats.timed_out, stats.succeeded) == (1, 1, 1, 0)


def test_raise_if_cancelled_says_why() -> None:
    """Nothing while it is not; an error that says which of the two it was."""
    Execution().raise_if_cancelled()
    with pytest.raises(TaskTimeoutError, match="timeout has passed"):
        Execution(cancel_reason="timed out").raise_if_cancelled()
    with pytest.raises(TaskCancelledError, match="the run was stopped"):
        Execution(cancel_reason="stopped").raise_if_cancelled()


@pytest.mark.parametrize("seconds", [-1, float("nan"), True])
def test_wait_refuses_what_is_no_time(seconds: float) -> None:
    """Before it waits."""
    with pytest.raises((ValueError, TypeError), match="seconds must be"):
        Execution().wait(seconds)


def test_wait_returns_at_once_when_cancelled_already() -> None:
    """However long it was to be."""
    assert Execution(cancel_reason="cancelled").wait(1e6)


def test_wait_returns_when_the_time_is_up() -> None:
    """With False: nobody has cancelled; as often as it is called."""
    execution = Execution()

    assert not execution.wait(0)
    assert not execution.wait(0)


# Cancel


def test_cancel_wakes_a_run_that_waits(scheduler: Scheduler) -> None:
    """It returns from its wait at once, and the run is CANCELLED."""
    entered = threading.Event()

    def work() -> bool:
        entered.set()
        return _own().wait(1000)

    task = scheduler.add_task(Task("t", work))
    scheduler.start()
    scheduler.release_task(task.id)
    assert entered.wait(10)

    assert scheduler.cancel(task.id) == 1
    assert scheduler.wait_idle(10)

    (run,) = task.execution_hist
    assert (run.status, run.results, run.cancel_reason) == (Status.CANCELLED, True, "cancelled")


def test_a_cancelled_run_is_not_retried(scheduler: Scheduler, gate: Gate) -> None:
    """Whatever it raises, and whatever its policy says."""

    def work() -> None:
        gate()
        _own().raise_if_cancelled()

    policy = RetryPolicy(max_retries=5, retry_on=(BaseException,))
    task = scheduler.add_task(Task("t", work, retry_policy=policy))
    scheduler.start()
    scheduler.release_task(task.id)
    gate.wait_entered()

    scheduler.cancel(task.id)
    gate.leave.set()
    assert scheduler.wait_idle(10)

    (run,) = task.execution_hist
    assert (run.status, run.attempts) == (Status.CANCELLED, 1)
    assert run.error == "TaskCancelledError: the run was cancelled"


def test_cancel_asks_once(scheduler: Scheduler, gate: Gate) -> None:
    """A second cancel of the same run counts nothing."""
    task = scheduler.add_task(Task("t", gate))
    scheduler.start()
    scheduler.release_task(task.id)
    gate.wait_entered()

    assert [scheduler.cancel(task.id), scheduler.cancel(task.id)] == [1, 0]


def test_cancel_ends_what_waits() -> None:
    """What is ready, pending or between attempts ends at once; later runs come as planned."""
    scheduler = InlineScheduler()
    event = EventTrigger(maxsize=3)
    task = Task(
        "t", _fail_first(), triggers=[event, PeriodicTrigger(60)],
        retry_policy=RetryPolicy(max_retries=1, delay=30), max_instances=2,
    )  # fmt: skip
    scheduler.add_task(task)
    event.fire("retried")
    scheduler.clock.advance()
    event.fire("waits")
    scheduler.release_task(task.id, "asked")

    scheduler.start()
    event.fire("as well")
    assert scheduler.cancel(task.id) == 4
    assert [event.fire(), event.fire(), event.fire(), event.fire()] == [True, True, True, False]
    assert {run.status for run in task.execution_hist} == {Status.CANCELLED}
    scheduler.clock.advance(seconds=60)

    stats = scheduler.stats()
    assert (stats.cancelled, stats.succeeded, stats.pending) == (4, 4, 0)
    assert stats.released == 8


def _fail_first() -> Callable[[], None]:
    outcomes: list[type[Exception]] = [ConnectionError]

    def work() -> None:
        if outcomes:
            raise outcomes.pop()

    return work


def test_cancel_of_a_one_time_task_removes_it() -> None:
    """Nothing of it is to come any more."""
    scheduler = InlineScheduler()
    scheduler.add_task(Task("t", str, triggers=[OneTimeTrigger(delay=0)], enabled=True))
    scheduler.start()
    scheduler.tasks[0].enabled = False
    scheduler.release_task(0)
    scheduler.run_tasks()

    assert scheduler.cancel(0) == 1
    assert scheduler.stats().cancelled == 1


def test_cancel_ends_the_wait_of_run_task(scheduler: Scheduler) -> None:
    """The caller, waiting for the delay of a retry, gets the CANCELLED Execution."""
    failed = threading.Event()
    scheduler.add_listener(
        lambda change: failed.set() if change.kind is ChangeKind.RUN_RETRYING else None
    )
    scheduler.add_task(
        Task("t", _fail_first(), retry_policy=RetryPolicy(max_retries=1, delay=1000))
    )
    got: list[Execution] = []
    caller = threading.Thread(target=lambda: got.append(scheduler.run_task(0)))
    caller.start()
    assert failed.wait(10)

    assert scheduler.cancel(0) == 1
    caller.join(10)

    assert [run.status for run in got] == [Status.CANCELLED]


def test_cancel_of_a_task_that_is_not_there(scheduler: Scheduler) -> None:
    """An error that says so."""
    with pytest.raises(TaskNotFoundError):
        scheduler.cancel(0)


def test_a_task_may_cancel_itself(scheduler: Scheduler) -> None:
    """Its run ends as CANCELLED when it returns."""
    task = scheduler.add_task(Task("t", lambda: scheduler.cancel(0)))
    scheduler.start()
    scheduler.release_task(0)
    assert scheduler.wait_idle(10)

    assert [run.status for run in task.execution_hist] == [Status.CANCELLED]


def test_stop_may_ask_all_to_give_up(scheduler: Scheduler) -> None:
    """So it needs not wait for their own end; what waits still waits after it."""
    entered = threading.Semaphore(0)

    def work() -> None:
        entered.release()
        _own().wait(1000)
        _own().raise_if_cancelled()

    tasks = [scheduler.add_task(Task("t", work)) for _ in range(3)]
    scheduler.start()
    for task in tasks:
        scheduler.release_task(task.id)
    assert all(entered.acquire(timeout=10) for _ in range(2))

    assert scheduler.stop(timeout=10, cancel=True)

    stats = scheduler.stats()
    assert (stats.cancelled, stats.pending, stats.running) == (2, 1, 0)
    scheduler.remove_task(2)


def test_stop_refuses_what_is_no_answer(scheduler: Scheduler) -> None:
    """Before it stops anything."""
    with pytest.raises(TypeError, match="cancel must be True or False"):
        scheduler.stop(cancel=1)  # type: ignore[arg-type]


# Stuck


def test_a_run_that_does_not_give_up_is_stuck() -> None:
    """After stuck_after it is told once, with the stack of its thread; not a second before."""
    scheduler = InlineScheduler(stuck_after=10)
    told: list[str] = []
    scheduler.add_listener(
        lambda change: told.append(change.reason) if change.kind is ChangeKind.RUN_STUCK else None
    )
    counts: list[int] = []

    def hopeless() -> None:
        for seconds in (14.9, 0.1, 1000):
            scheduler.clock.advance(seconds=seconds)
            counts.append(scheduler.stats().stuck)

    scheduler.add_task(Task("t", hopeless, timeout=5))
    scheduler.start()
    scheduler.run_task(0)

    assert counts == [0, 1, 1]
    assert scheduler.stats().stuck == 0
    (reason,) = told
    assert reason.startswith("timed out, and does not give up; it is at:\n")
    assert "in hopeless" in reason
    assert "runner.py" not in reason


def test_a_stuck_run_is_told_by_one_of_two_threads() -> None:
    """Both have seen it; the other has told it while this one took secrets out of its stack."""
    others: list[str] = []

    def redact(text: str) -> str:
        others.append(text)
        if len(others) == 1:
            scheduler._report_stuck()
        return text

    scheduler = InlineScheduler(stuck_after=10)
    scheduler._redact = redact
    told: list[ChangeKind] = []
    scheduler.add_listener(lambda change: told.append(change.kind))
    scheduler.add_task(Task("t", lambda: scheduler.clock.advance(seconds=20), timeout=5))
    scheduler.start()

    scheduler.run_task(0)

    assert len(others) == 2
    assert told.count(ChangeKind.RUN_STUCK) == 1


def test_a_cancelled_run_may_be_stuck_too(gate: Gate) -> None:
    """With the real thread: what it does is in the report."""
    scheduler = Scheduler(1, stuck_after=0.01, tick_interval=0.01)
    watch = Watch(scheduler)
    scheduler.add_task(Task("t", gate))
    scheduler.start()
    scheduler.release_task(0)
    gate.wait_entered()

    scheduler.cancel(0)
    watch.wait_for(ChangeKind.RUN_STUCK)

    (told,) = [change for change in watch.changes if change.kind is ChangeKind.RUN_STUCK]
    assert "assert self.leave.wait(10)" in told.reason
    gate.leave.set()
    assert scheduler.stop(timeout=10)


def test_the_stack_of_a_thread_that_is_gone() -> None:
    """The run has ended between the two looks."""
    assert stack_text(None) == "a thread that has gone"


def test_a_run_that_has_given_up_meanwhile_is_not_told_as_stuck() -> None:
    """Its stack was taken with no lock held."""
    engine = Engine(max_running_tasks=1, aging=5.0, on_time=timedelta(seconds=1))
    task, now = Task("t", int), InlineScheduler().clock.now()
    engine.add(task, now)
    run = engine.take_inline(task, None, now)
    engine.changes.clear()

    engine.note_stuck(run, "somewhere", now)

    assert not engine.changes


def test_a_stuck_run_is_replaced(gate: Gate) -> None:
    """As often as there are replacements; the slot more goes when the run ends after all."""
    scheduler = Scheduler(1, stuck_after=0.01, tick_interval=0.01, replacements=1)
    watch = Watch(scheduler)
    for _ in range(3):
        scheduler.add_task(Task("t", gate))
    scheduler.start()
    for number in range(3):
        scheduler.release_task(number)
    gate.wait_entered()

    scheduler.cancel(0)
    gate.wait_entered()
    scheduler.cancel(1)
    watch.wait_for(ChangeKind.RUN_STUCK, times=2)
    assert (scheduler.running_tasks_count(), scheduler.stats().pending) == (2, 1)

    gate.leave.set()
    assert scheduler.wait_idle(10)
    assert (scheduler.stats().cancelled, scheduler.stats().succeeded) == (2, 1)
    assert scheduler._engine.slots == 0
    assert scheduler.stop(timeout=10)


def test_a_slot_more_goes_home_when_the_stuck_run_ends() -> None:
    """Then no more run at once than before."""
    scheduler = InlineScheduler(1, stuck_after=10, replacements=1)
    at_once: list[int] = []

    def slow() -> None:
        scheduler.clock.advance(seconds=100)

    stuck = scheduler.add_task(Task("stuck", slow, timeout=5, triggers=[OneTimeTrigger(delay=1)]))
    scheduler.add_task(
        Task(
            "others",
            lambda: at_once.append(scheduler.running_tasks_count()),
            triggers=[PeriodicTrigger(10)],
        )
    )
    scheduler.start()
    scheduler.clock.advance(seconds=150)

    assert [run.status for run in stuck.execution_hist] == [Status.TIMED_OUT]
    # At 10 s it waits; at 16 s the slot of the stuck run is replaced, until 101 s.
    assert at_once == [2] * 10 + [1] * 5


def test_a_stuck_run_in_lanes_is_replaced() -> None:
    """By a slot that is common."""
    scheduler = InlineScheduler(2, stuck_after=10, replacements=1, lanes={"quick": 1})
    done: list[float] = []
    scheduler.add_task(
        Task(
            "stuck",
            lambda: scheduler.clock.advance(seconds=100),
            timeout=5,
            triggers=[OneTimeTrigger(delay=0)],
        )
    )
    scheduler.add_task(
        Task(
            "plain",
            lambda: done.append(scheduler.clock.monotonic()),
            triggers=[OneTimeTrigger(delay=1)],
        )
    )
    scheduler.start()
    scheduler.clock.advance(seconds=1)

    assert done == [15]


def test_a_clock_set_back_makes_nothing_stuck_later() -> None:
    """It is stuck after stuck_after at the latest."""
    scheduler = InlineScheduler(stuck_after=10)
    counts: list[int] = []

    def hopeless() -> None:
        scheduler.clock.advance(seconds=5)
        scheduler.clock.jump_to(scheduler.clock.now() - timedelta(hours=1))
        scheduler.clock.advance(seconds=10)
        counts.append(scheduler.stats().stuck)

    scheduler.add_task(Task("t", hopeless, timeout=5))
    scheduler.run_task(0)

    assert counts == [1]


@pytest.mark.parametrize(
    "wrong", [{"stuck_after": -1}, {"replacements": -1}, {"replacements": 1.5}, {"stuck_after": ""}]
)
def test_bad_values_are_refused(wrong: dict[str, int]) -> None:
    """By name."""
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        Scheduler(1, **wrong)  # type: ignore[arg-type]
