"""What is entered around each attempt: in which order, thread and context, and what it may do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any

import pytest

from background_tasks import (
    EventTrigger,
    Execution,
    InvalidTypeError,
    OneTimeTrigger,
    RemoteError,
    Retry,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    current_execution,
)
from background_tasks.task import running_function
from background_tasks.testing import InlineScheduler
from tests.conftest import Elsewhere

_request: ContextVar[str] = ContextVar("_request", default="none")
_inner: ContextVar[str] = ContextVar("_inner", default="none")


class Diary:
    """Makes context managers that note what happens, each under a name."""

    def __init__(self) -> None:
        """Start empty."""
        self.lines: list[str] = []

    def of(self, name: str) -> Callable[[Execution], AbstractContextManager[None]]:
        """Return what makes one, for ``around``."""

        @contextmanager
        def manager(execution: Execution) -> Iterator[None]:
            self.lines.append(f"{name} enters attempt {execution.attempts}")
            try:
                yield
            except BaseException as error:
                self.lines.append(f"{name} sees {error!r}")
                raise
            self.lines.append(f"{name} leaves")

        return manager


@contextmanager
def swallow(_: Execution) -> Iterator[None]:
    """Let no error out."""
    with suppress(Exception):
        yield


def fail() -> None:
    """Raise."""
    raise ValueError("no route")


def test_around_each_attempt_the_first_outermost() -> None:
    """Each attempt of a run has managers of its own, which see what it raised."""
    diary = Diary()
    scheduler = Scheduler(1, around=[diary.of("outer"), diary.of("inner")])

    def work() -> None:
        execution = current_execution()
        assert execution is not None
        diary.lines.append(f"attempt {execution.attempts} works")
        if execution.attempts == 1:
            fail()

    task = scheduler.add_task(Task("t", work, retry_policy=RetryPolicy(1)))
    assert scheduler.run_task(task.id).status == Status.SUCCESS

    assert diary.lines == [
        "outer enters attempt 1",
        "inner enters attempt 1",
        "attempt 1 works",
        "inner sees ValueError('no route')",
        "outer sees ValueError('no route')",
        "outer enters attempt 2",
        "inner enters attempt 2",
        "attempt 2 works",
        "inner leaves",
        "outer leaves",
    ]


def test_in_the_thread_and_the_context_of_the_function() -> None:
    """What one sets in a context variable the function finds, and nobody after it."""
    threads: list[int] = []

    @contextmanager
    def manager(_: Execution) -> Iterator[None]:
        threads.append(threading.get_ident())
        token = _inner.set("of the manager")
        yield
        _inner.reset(token)

    def work() -> str:
        threads.append(threading.get_ident())
        return _inner.get()

    with Scheduler(1, around=[manager]) as scheduler:
        task = scheduler.add_task(Task("t", work))
        scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    assert task.execution_hist[0].results == "of the manager"
    assert threads[0] == threads[1] != threading.get_ident()
    assert _inner.get() == "none"


def test_one_that_cannot_be_entered_fails_the_attempt() -> None:
    """The function is not called, what was entered before is left, and the slot lives on."""
    diary, calls = Diary(), list[int]()

    def broken(_: Execution) -> AbstractContextManager[None]:
        raise RuntimeError("no tracer")

    with Scheduler(1, around=[diary.of("outer"), broken]) as scheduler:
        task = scheduler.add_task(Task("t", calls.append, args=[1]))
        for _ in range(2):
            scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    assert [run.error for run in task.execution_hist] == ["RuntimeError: no tracer"] * 2
    assert calls == []
    assert diary.lines[1] == "outer sees RuntimeError('no tracer')"


def test_one_that_swallows_the_error_makes_a_success() -> None:
    """As a try around the function's body would."""
    scheduler = Scheduler(1, around=[swallow])

    execution = scheduler.run_task(scheduler.add_task(Task("t", fail)).id)

    assert (execution.status, execution.results, execution.error) == (Status.SUCCESS, None, "")


def test_a_traceback_is_that_of_the_function() -> None:
    """Frames of ours and of contextlib are left out."""
    scheduler = Scheduler(1, around=[Diary().of("outer")])

    execution = scheduler.run_task(scheduler.add_task(Task("t", fail)).id)

    assert "in fail" in execution.traceback
    assert "background_tasks/" not in execution.traceback


def test_retry_passes_through() -> None:
    """The request to be tried again is what it is without."""
    scheduler = Scheduler(1, around=[lambda _: nullcontext()])

    def work() -> int:
        execution = current_execution()
        assert execution is not None
        if execution.attempts < 3:
            raise Retry("again", after=0)
        return execution.attempts

    task = Task("t", work, retry_policy=RetryPolicy(5))

    assert scheduler.run_task(scheduler.add_task(task).id).results == 3


def test_in_a_scheduler_without_threads() -> None:
    """So that what users put around their tasks can be tested as their tasks are."""
    diary = Diary()
    scheduler = InlineScheduler(around=[diary.of("mine")])
    scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=5)]))

    scheduler.clock.advance(seconds=5)

    assert diary.lines == ["mine enters attempt 1", "mine leaves"]


# With an executor


def test_around_what_is_called_in_another_process() -> None:
    """Here, where the run is waited for, and it sees that the function failed."""
    diary = Diary()
    with Scheduler(1, around=[diary.of("here")], executor=Elsewhere()) as scheduler:
        bad = scheduler.add_task(Task("bad", fail))
        good = scheduler.add_task(Task("good", int))
        for task in (bad, good):
            scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    assert bad.execution_hist[0].error == "ValueError: no route"
    assert "in fail" in bad.execution_hist[0].traceback
    assert good.execution_hist[0].results == 0
    assert diary.lines == [
        "here enters attempt 1",
        "here sees RemoteError('ValueError: no route')",
        "here enters attempt 1",
        "here leaves",
    ]
    assert issubclass(RemoteError, RuntimeError)


def test_an_error_from_elsewhere_may_be_swallowed() -> None:
    """It makes the attempt a success there, too."""
    scheduler = Scheduler(1, around=[swallow], executor=Elsewhere())

    execution = scheduler.run_task(scheduler.add_task(Task("t", fail)).id)

    assert (execution.status, execution.error) == (Status.SUCCESS, "")
    assert execution.resources.wall > 0


def test_a_manager_that_raises_beside_an_executor_is_no_lost_worker() -> None:
    """It is an error of the attempt, and nothing is said against the executor."""

    @contextmanager
    def late(_: Execution) -> Iterator[None]:
        yield
        raise RuntimeError("too late")

    scheduler = Scheduler(1, around=[late], executor=Elsewhere())

    execution = scheduler.run_task(scheduler.add_task(Task("t", int)).id)

    assert (execution.status, execution.error) == (Status.FAILED, "RuntimeError: too late")


def test_in_the_threads_of_an_executor_of_threads() -> None:
    """There it is in the thread that calls the function."""
    threads: list[str] = []

    @contextmanager
    def manager(_: Execution) -> Iterator[None]:
        threads.append(threading.current_thread().name)
        yield

    with (
        ThreadPoolExecutor(1, thread_name_prefix="theirs") as executor,
        Scheduler(1, around=[manager], executor=executor) as scheduler,
    ):
        task = scheduler.add_task(Task("t", lambda: threading.current_thread().name))
        scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    assert threads == [task.execution_hist[0].results] == ["theirs_0"]


# Where a run comes from


def _origins(around: bool) -> tuple[Scheduler, Task, EventTrigger, list[str | None]]:
    """Return a scheduler whose one task notes the request that each run comes from."""
    seen: list[str | None] = []

    def note(execution: Execution) -> AbstractContextManager[None]:
        origin = execution.origin
        seen.append(None if origin is None else origin.run(_request.get))
        return nullcontext()

    def work() -> None:
        if not around:
            execution = current_execution()
            assert execution is not None
            note(execution)

    changed = EventTrigger()
    scheduler = Scheduler(1, around=[note] if around else [])
    task = scheduler.add_task(Task("t", work, triggers=[changed]))
    return scheduler, task, changed, seen


def _ask_in_three_ways(scheduler: Scheduler, task: Task, changed: EventTrigger) -> None:
    ways: list[Callable[[], object]] = [
        lambda: scheduler.run_task(task.id),
        lambda: scheduler.release_task(task.id),
        changed.fire,
    ]
    for number, ask in enumerate(ways):
        token = _request.set(f"request {number}")
        ask()
        _request.reset(token)
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)


def test_a_run_knows_the_context_that_asked_for_it() -> None:
    """Of `run_task`, of `release_task` and of `fire`, whichever thread runs it; until it ends."""
    scheduler, task, changed, seen = _origins(around=True)

    _ask_in_three_ways(scheduler, task, changed)

    assert seen == ["request 0", "request 1", "request 2"]
    assert [run.origin for run in task.execution_hist] == [None] * 3
    assert scheduler.stop(10)


def test_without_around_nobody_keeps_a_context() -> None:
    """Nothing is paid for what nobody can use."""
    scheduler, task, changed, seen = _origins(around=False)

    _ask_in_three_ways(scheduler, task, changed)

    assert seen == [None] * 3
    assert scheduler.stop(10)


def test_signals_that_merge_have_the_last_ones_context() -> None:
    """As they have its payload."""
    seen: list[object] = []

    def note(execution: Execution) -> AbstractContextManager[None]:
        assert execution.origin is not None
        seen.append((execution.event, execution.origin.run(_request.get)))
        return nullcontext()

    changed = EventTrigger(coalesce=True)
    scheduler = Scheduler(1, around=[note])
    task = scheduler.add_task(Task("t", int, triggers=[changed]))
    scheduler.resume()  # the events are released as they come, and find no slot
    task.enabled = False
    for number in (1, 2):
        _request.set(f"request {number}")
        changed.fire(number)
    _request.set("none")
    task.enabled = True
    assert scheduler.wait_idle(10)

    assert seen == [(2, "request 2")]
    assert scheduler.stop(10)


def test_a_run_that_time_released_comes_from_nowhere() -> None:
    """A copy, which listeners get, keeps no context either."""
    execution = Execution(_origin=None)

    assert execution.origin is None
    assert execution.copy().origin is None


def test_a_span_is_kept() -> None:
    """For the log, and for whatever is around the next attempt."""
    execution = Execution()
    assert (execution.trace_id, execution.span_id, execution.trace_flags) == ("", "", "")

    execution.set_span("a" * 32, "b" * 16, "01")

    kept = execution.copy()
    assert (kept.trace_id, kept.span_id, kept.trace_flags) == ("a" * 32, "b" * 16, "01")


@pytest.mark.parametrize("executor", [None, Elsewhere()], ids=["here", "elsewhere"])
def test_the_function_is_known_to_what_is_around(executor: Executor | None) -> None:
    """While it is called, and not after."""
    seen: list[object] = []

    def note(_: Execution) -> AbstractContextManager[None]:
        seen.append(running_function.get())
        return nullcontext()

    scheduler = Scheduler(1, around=[note], executor=executor)
    scheduler.run_task(scheduler.add_task(Task("t", int)).id)

    assert seen == [int]
    assert running_function.get() is None


@pytest.mark.parametrize(
    ("around", "message"),
    [
        (3, "around must be a list or tuple, got 3"),
        ("text", "around must be a list or tuple, got 'text'"),
        ([nullcontext(), 3], "each of around must be callable, got <contextlib.nullcontext"),
        ([lambda: nullcontext()], "each of around .* takes? 0 positional arguments|must take args"),
    ],
)
def test_what_is_not_a_maker_is_refused(around: Any, message: str) -> None:
    """Where it is written."""
    with pytest.raises(InvalidTypeError, match=message):
        Scheduler(1, around=around)
