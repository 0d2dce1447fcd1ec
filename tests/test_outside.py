"""The near side of an executor: what is refused, lost or failed, and who makes another when."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
)
from contextvars import Context, copy_context
from typing import Any

import pytest

from background_tasks import (
    ChangeKind,
    Execution,
    ExecutorBrokenError,
    InvalidTypeError,
    LostWorkerError,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
    current_execution,
)
from background_tasks.outside import Outside
from background_tasks.primitives import REAL, Primitives
from background_tasks.runner import Runner
from tests.conftest import Watch


class Inline(Executor):
    """Calls at once, and raises what it is told to: from ``submit``, or through the Future."""

    def __init__(self, refusal: BaseException | None = None, end: BaseException | None = None):
        """Raise *refusal* from ``submit``; or have each call end with *end*."""
        self.refusal = refusal
        self.end = end
        self.calls = 0
        self.shut_downs = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call *fn* here and now."""
        self.calls += 1
        if self.refusal is not None:
            raise self.refusal
        future: Future[Any] = Future()
        if self.end is not None:
            future.set_exception(self.end)
        else:
            future.set_result(fn(*args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Count the calls."""
        self.shut_downs += 1


class Factory:
    """Makes what it was given, one after the other, and counts."""

    def __init__(self, *made: object) -> None:
        """Return *made* in turn; raise those that are exceptions."""
        self.left = list(made)
        self.calls = 0

    def __call__(self) -> Any:
        """Return the next."""
        self.calls += 1
        made = self.left.pop(0)
        if isinstance(made, BaseException):
            raise made
        return made


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the seconds so far."""
        return self.now


GONE = RuntimeError("cannot schedule new futures after shutdown")


def attempted(executor: object, function: Callable[..., object] = int, **settings: Any) -> Any:
    """Return the outcome of one attempt on *executor*."""
    task = Task("t", function, **settings)
    return Runner(outside=Outside(executor, REAL)).attempt(Execution(attempts=1), task)


@pytest.fixture
def broken() -> Iterator[tuple[Scheduler, Watch, Inline]]:
    """Return a scheduler with two runs on an executor that takes none, once it has said so."""
    executor = Inline(refusal=GONE)
    scheduler = Scheduler(1, executor=executor, tick_interval=0.001)
    watch = Watch(scheduler)
    for name in ("one", "two"):
        scheduler.release_task(scheduler.add_task(Task(name, int)).id)
    scheduler.start()
    watch.wait_for(ChangeKind.EXECUTOR_BROKEN)
    yield scheduler, watch, executor
    assert scheduler.stop(10)


# What came of a call


@pytest.mark.parametrize(
    "error", [BrokenExecutor("killed"), CancelledError("killed"), OSError("killed")]
)
def test_lost(error: BaseException) -> None:
    """Nobody knows how the call ended; the policy's Exception does not mean that."""
    outcome = attempted(Inline(end=error), retry_policy=RetryPolicy(1))

    assert (outcome.is_lost, outcome.retry_after) == (True, None)
    assert outcome.error == f"LostWorkerError: {type(error).__name__}: killed"


@pytest.mark.parametrize("named", [LostWorkerError, (OSError, LostWorkerError)])
def test_lost_and_retried(named: Any) -> None:
    """Where the policy names it."""
    outcome = attempted(Inline(end=OSError()), retry_policy=RetryPolicy(1, 5, retry_on=named))

    assert (outcome.is_lost, outcome.retry_after) == (True, 5.0)


@pytest.mark.parametrize(
    "policy",
    [RetryPolicy(1, retry_on=(RuntimeError,)), RetryPolicy(0, retry_on=(LostWorkerError,))],
)
def test_lost_and_not_retried(policy: RetryPolicy) -> None:
    """A base of it is no name for it, and the policy's count holds."""
    assert attempted(Inline(end=BrokenExecutor()), retry_policy=policy).retry_after is None


def test_only_a_broken_executor_is_an_obstacle() -> None:
    """One that lost a single worker takes the next call."""
    assert attempted(Inline(end=BrokenExecutor("x"))).obstacle == (
        "the executor is broken: BrokenExecutor: x"
    )
    assert attempted(Inline(end=OSError())).obstacle == ""


@pytest.mark.parametrize("error", [TypeError("cannot pickle"), RecursionError("cannot pickle")])
@pytest.mark.parametrize("when", ["refusal", "end"])
def test_unsent(error: BaseException, when: str) -> None:
    """A call that cannot be pickled has failed, like one that raises, and breaks nothing."""
    outcome = attempted(Inline(**{when: error}), retry_policy=RetryPolicy(1, 5))

    assert (outcome.is_lost, outcome.is_refused, outcome.obstacle) == (False, False, "")
    assert outcome.error == f"{type(error).__name__}: cannot pickle"
    assert outcome.retry_after == 5.0


@pytest.mark.parametrize("error", [GONE, BrokenExecutor("gone"), OSError("gone")])
def test_refused(error: BaseException) -> None:
    """What the executor does not take was not begun."""
    outcome = attempted(Inline(refusal=error))

    assert (outcome.is_refused, outcome.is_lost) == (True, False)
    assert outcome.obstacle == f"the executor is broken: {type(error).__name__}: {error}"


def test_called_in_threads_of_this_process() -> None:
    """There nothing is copied: the run's own Execution, and a result that none can pickle."""
    execution = Execution(attempts=1)

    def function() -> object:
        return current_execution(), threading.Lock()

    with ThreadPoolExecutor(1) as executor:
        outcome = Runner(outside=Outside(executor, REAL)).attempt(execution, Task("t", function))

    assert outcome.results[0] is execution  # type: ignore[index]


def test_threads_with_interpreters_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share as little as processes, though their executor is one of threads."""
    apart = types.SimpleNamespace(InterpreterPoolExecutor=ThreadPoolExecutor)
    monkeypatch.setitem(sys.modules, "concurrent.futures.interpreter", apart)

    with ThreadPoolExecutor(1) as executor:
        assert attempted(executor, threading.Lock).note.startswith("its result was left behind")


# A broken executor


def test_broken_is_said_once_and_nothing_lost(
    broken: tuple[Scheduler, Watch, Inline],
) -> None:
    """Each run waits, says why, and is not sent again and again."""
    scheduler, watch, executor = broken
    ticks = threading.Semaphore(0)
    scheduler.add_task(Task("later", int, triggers=[_Counting(ticks)]))
    assert all(ticks.acquire(timeout=10) for _ in range(20))

    assert executor.calls == 1
    assert watch.kinds().count("executor.broken") == 1
    stats = scheduler.stats()
    assert (stats.pending, stats.running, stats.failed) == (2, 0, 0)
    assert {waiting.reason for waiting in scheduler.ready()} == {
        f"the executor is broken: RuntimeError: {GONE}",
    }


def test_resume_tries_again(broken: tuple[Scheduler, Watch, Inline]) -> None:
    """And says so if it is broken still; if not, what waited runs."""
    scheduler, watch, executor = broken
    scheduler.stop()
    scheduler.resume()
    watch.wait_for(ChangeKind.EXECUTOR_BROKEN, 2)
    scheduler.stop()

    executor.refusal = None
    scheduler.resume()

    assert scheduler.wait_idle(10)
    assert scheduler.stats().succeeded == 2
    assert executor.shut_downs == 0


def test_run_task_on_a_broken_executor() -> None:
    """Its caller is told at once: the function was not called."""
    scheduler = Scheduler(1, executor=Inline(refusal=GONE))
    policy = RetryPolicy(1, retry_on=(ExecutorBrokenError,))
    task = scheduler.add_task(Task("t", int, retry_policy=policy))

    execution = scheduler.run_task(task.id)

    assert (execution.status, execution.attempts) == (Status.FAILED, 2)
    assert execution.error == f"ExecutorBrokenError: RuntimeError: {GONE}"


def test_a_timer_goes_on_meanwhile(broken: tuple[Scheduler, Watch, Inline]) -> None:
    """What is asked for while it is broken waits with the rest, and a removal drops it."""
    scheduler, _, _ = broken
    scheduler.release_task(0, "another")

    scheduler.remove_task(0)

    assert scheduler.stats().dropped == 2
    assert [waiting.task_id for waiting in scheduler.ready()] == [1]


# Factories


def outside_of(*made: object) -> tuple[Outside, Factory, Clock]:
    """Return what is outside where *made* come out of the factory, and the clock it goes by."""
    factory, clock = Factory(*made), Clock()
    return Outside(factory, Primitives(monotonic=clock)), factory, clock


def test_a_factory_is_called_when_it_is_needed() -> None:
    """Not before, and once."""
    first = Inline()
    outside, factory, _ = outside_of(first)
    assert factory.calls == 0

    assert [outside.executor(), outside.executor()] == [first, first]

    assert factory.calls == 1


def test_the_first_that_breaks_is_replaced_at_once() -> None:
    """And let go of; the next one no sooner than a minute after that."""
    first, second, third = Inline(), Inline(), Inline()
    outside, factory, clock = outside_of(first, second, third)
    assert outside.broke(outside.executor())

    assert outside.renew() == ""
    assert outside.executor() is second
    assert first.shut_downs == 1

    clock.now += 1
    assert outside.broke(second)
    assert outside.renew() is None
    with pytest.raises(ExecutorBrokenError, match="another is made in a minute at most"):
        outside.executor()
    clock.now += 59
    assert outside.renew() == ""
    assert (outside.executor(), factory.calls) == (third, 3)


def test_a_late_report_of_the_last_one_breaks_nothing() -> None:
    """Several runs were lost with it, and one of them says so after the next was made."""
    outside, _, _ = outside_of(Inline(), Inline())
    first = outside.executor()
    outside.broke(first)
    outside.renew()

    assert not outside.broke(first)
    assert outside.renew() == ""


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (OSError("no more processes"), "none can be made: OSError: no more processes"),
        (SystemExit(), "none can be made: SystemExit"),
        (None, "the factory must return an Executor, got None"),
        (ThreadPoolExecutor, "the factory must return an Executor, got <class"),
    ],
)
def test_a_factory_that_fails_is_asked_again_in_a_minute(trouble: object, words: str) -> None:
    """Whatever it does instead of returning an executor."""
    outside, factory, clock = outside_of(trouble, Inline())

    with pytest.raises(ExecutorBrokenError) as caught:
        outside.executor()

    assert str(caught.value).startswith(words)
    assert outside.renew() is None
    clock.now += 60
    assert outside.renew() == ""
    assert factory.calls == 2


def test_trouble_in_making_another_is_told() -> None:
    """As the reason of a change."""
    outside, _, clock = outside_of(OSError("first"), OSError("second"))
    with pytest.raises(ExecutorBrokenError):
        outside.executor()
    clock.now += 60

    assert outside.renew() == "none can be made: OSError: second"


def test_one_that_cannot_be_shut_down_is_let_go() -> None:
    """There is nothing more to be done about it."""
    bad = Inline()
    bad.shutdown = Factory(OSError())  # type: ignore[assignment, method-assign]
    outside, _, _ = outside_of(bad, Inline())

    assert outside.broke(outside.executor())
    assert outside.renew() == ""


def test_stop_shuts_down_what_the_factory_made() -> None:
    """And a resume has it make another, at once, although one broke lately."""
    bad, good, last = Inline(refusal=GONE), Inline(), Inline()
    factory = Factory(bad, good, last)
    scheduler = Scheduler(1, executor=factory, tick_interval=0.001)
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)
    scheduler.start()
    assert scheduler.wait_idle(10)
    assert scheduler.stop(10)
    assert (good.shut_downs, task.execution_hist[0].attempts) == (1, 1)

    scheduler.resume()
    scheduler.release_task(task.id)
    assert scheduler.wait_idle(10)

    assert last.calls == 1
    assert scheduler.stop(10)
    assert scheduler.stop(10)
    assert last.shut_downs == 1


def test_a_task_in_a_thread_of_an_executor_waits_for_the_others_only() -> None:
    """As one in a slot's own thread does: its own run does not count."""
    answers: list[bool] = []

    def wait_and_stop() -> None:
        answers.append(scheduler.wait_idle(5))
        answers.append(scheduler.stop(5))

    with ThreadPoolExecutor(1) as executor, Scheduler(2, executor=executor) as scheduler:
        task = scheduler.add_task(Task("t", wait_and_stop))
        scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    assert answers == [True, False]
    assert [run.status for run in task.execution_hist] == ["SUCCESS"]


def test_a_thread_with_the_context_of_a_run_is_inside_of_it() -> None:
    """Until the run has ended: what a function hands to a helper does not wait for the function."""
    answers: list[bool] = []
    scheduler = Scheduler(1)
    contexts: list[Context] = []

    def help_out() -> None:
        contexts.append(copy_context())
        helper = threading.Thread(target=contexts[0].run, args=(ask,))
        helper.start()
        helper.join(10)

    def ask() -> None:
        answers.append(scheduler.wait_idle(5))

    scheduler.run_task(scheduler.add_task(Task("t", help_out)).id)
    contexts[0].run(ask)

    assert answers == [True, True]
    assert contexts[0].run(scheduler.stop)


def test_a_factory_that_fails_is_told_by_the_scheduler() -> None:
    """At once and at each trial; once there is an executor, that too, and what waited runs."""
    clock = Clock()
    factory = Factory(OSError("a"), OSError("b"), Inline())
    scheduler = Scheduler(1, executor=factory, _primitives=Primitives(monotonic=clock))
    watch = Watch(scheduler)
    scheduler.release_task(scheduler.add_task(Task("t", int)).id)
    scheduler.run_tasks()
    watch.wait_for(ChangeKind.EXECUTOR_BROKEN)

    for seconds in (59, 1, 60):
        clock.now += seconds
        scheduler.run_tasks()

    watch.wait_for(ChangeKind.RUN_SUCCEEDED)
    told = [each for each in watch.changes if each.kind.value.startswith("executor")]
    assert [(each.kind.value, each.reason) for each in told] == [
        ("executor.broken", "the executor is broken: none can be made: OSError: a"),
        ("executor.broken", "none can be made: OSError: b"),
        ("executor.renewed", ""),
    ]
    assert scheduler.stop()


@pytest.mark.parametrize("given", [object(), "threads", 5, [Inline()]])
def test_what_is_no_executor(given: object) -> None:
    """Is refused where it is written."""
    with pytest.raises(InvalidTypeError, match=r"executor must be a concurrent\.futures\.Executor"):
        Scheduler(1, executor=given)  # type: ignore[arg-type]


def test_a_factory_takes_no_arguments() -> None:
    """One that needs some could never be called."""
    with pytest.raises(InvalidTypeError, match=r"executor .* must take args and kwargs"):
        Scheduler(1, executor=lambda workers: Inline())  # type: ignore[arg-type,misc]


class _Counting(Trigger):
    """Never ready; says each time it is asked."""

    def __init__(self, asked: threading.Semaphore) -> None:
        self._asked = asked

    def is_ready(self) -> bool:
        """Say that it was asked."""
        self._asked.release()
        return False

    def reset(self) -> None:
        """Have nothing to reset."""
