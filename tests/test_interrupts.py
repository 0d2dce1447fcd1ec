"""Ctrl-C, and what signal handlers raise: it goes to the caller, and the scheduler is as it was."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import pytest

import background_tasks
from background_tasks import (
    Change,
    ChangeKind,
    Execution,
    OneTimeTrigger,
    Retry,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
    configure_logging,
    process,
)
from background_tasks import scheduler as scheduler_module
from background_tasks.checks import error_text, redacted, shown
from background_tasks.interrupts import interrupt_of, is_interrupt
from background_tasks.logger import log, logger
from background_tasks.outside import Outside
from background_tasks.pool import DaemonPool
from background_tasks.primitives import REAL, Turn
from background_tasks.testing import InlineScheduler
from tests.conftest import Gate


class TimeUpError(Exception):
    """What the handler of these tests raises."""


def _raise(*_: object) -> Any:
    raise TimeUpError("it is time")


def _exit(*_: object) -> None:
    sys.exit(3)


class Handlers:
    """Functions of each kind that raise."""

    def method(self, *_: object) -> None:
        """Be a method."""
        raise TimeUpError

    def __call__(self, *_: object) -> None:
        """Be an object that can be called."""
        raise TimeUpError


def _wrapped(function: Callable[..., object]) -> Callable[..., object]:
    @wraps(function)
    def call(*args: object) -> object:
        return function(*args)

    return call


def _once(number: int, frame: object) -> None:
    """Take itself out before it raises, as a shutdown does that a second signal must not repeat."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(7)


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    """Have SIGUSR1 raise."""
    before = signal.signal(signal.SIGUSR1, _raise)
    yield
    signal.signal(signal.SIGUSR1, before)


def strike(*_: object) -> Any:
    """Be interrupted by the handler."""
    signal.raise_signal(signal.SIGUSR1)


def _caught(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError


# Which they are


@pytest.mark.parametrize(
    "handler",
    [
        _raise,
        Handlers().method,
        Handlers(),
        partial(_raise, 1),
        _wrapped(_raise),
        _exit,
        _once,
        signal.default_int_handler,
    ],
    ids=["function", "method", "object", "partial", "wrapped", "exit", "once", "default"],
)
def test_what_a_handler_of_any_kind_raises(handler: Any) -> None:
    """It is told by its traceback."""
    signal.signal(signal.SIGUSR1, handler)

    assert is_interrupt(_caught(strike))


@pytest.mark.parametrize("error", [TimeUpError(), SystemExit(3), GeneratorExit(), MemoryError()])
def test_what_a_function_raises_itself_is_none(error: BaseException) -> None:
    """Even that which ends a program."""

    def fail() -> None:
        raise error

    assert not is_interrupt(_caught(fail))


def test_what_a_function_raises_that_is_a_handler_elsewhere_is_none() -> None:
    """Nor that which shares its code with one, as functions of one decorator do."""
    signal.signal(signal.SIGUSR1, _wrapped(_raise))

    assert not is_interrupt(_caught(_wrapped(_raise)))
    assert not is_interrupt(_caught(lambda: _raise(signal.SIGUSR1, None)))


def test_what_threading_makes_of_one() -> None:
    """A Condition that is interrupted raises a RuntimeError, in the course of handling it."""

    def fail() -> None:
        try:
            strike()
        finally:
            raise RuntimeError("cannot release un-acquired lock")

    error = _caught(fail)

    assert not is_interrupt(error)
    assert isinstance(interrupt_of(error), TimeUpError)
    assert interrupt_of(ValueError()) is None


def test_only_the_main_thread_is_interrupted() -> None:
    """A KeyboardInterrupt in another one was raised by what runs there."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(is_interrupt(KeyboardInterrupt())))
    thread.start()
    thread.join(10)

    assert found == [False]
    assert is_interrupt(KeyboardInterrupt())


# Where they come up


def test_in_the_function_of_run_task(scheduler: Scheduler) -> None:
    """The run is recorded with it, and not tried again; the caller gets it."""
    task = scheduler.add_task(Task("t", strike, retry_policy=RetryPolicy(3, delay=0)))

    with pytest.raises(TimeUpError):
        scheduler.run_task(task.id)

    (run,) = task.execution_hist
    assert (run.status, run.error, run.attempts) == (Status.FAILED, "TimeUpError: it is time", 1)
    assert not scheduler._busy
    assert scheduler.stats().lost == 0


def test_in_a_function_that_asks_for_a_retry(scheduler: Scheduler) -> None:
    """`Retry` of a handler is none: the caller of run_task gets it, and there is none."""

    def retry(*_: object) -> None:
        raise Retry(after=0)

    signal.signal(signal.SIGUSR1, retry)
    task = scheduler.add_task(Task("t", strike))

    with pytest.raises(Retry):
        scheduler.run_task(task.id)
    assert [run.attempts for run in task.execution_hist] == [1]
    assert [run.status for run in task.execution_hist] == [Status.FAILED]


def test_in_a_slot_of_an_inline_scheduler() -> None:
    """Ctrl-C ends a test that moves the clock; its run is recorded, and others run later."""
    scheduler = InlineScheduler(1)
    bad, good = scheduler.add_task(Task("bad", strike)), scheduler.add_task(Task("good", int))
    scheduler.start()
    for task in (bad, good):
        scheduler.release_task(task.id)

    with pytest.raises(TimeUpError):
        scheduler.clock.advance(seconds=1)
    scheduler.clock.advance(seconds=5)

    assert [run.status for run in bad.execution_hist] == [Status.FAILED]
    assert [run.status for run in good.execution_hist] == [Status.SUCCESS]
    assert scheduler._engine.slots == 0


def test_in_a_listener(scheduler: Scheduler) -> None:
    """The other listeners are told all the same, and it is no failure of this one."""
    told: list[ChangeKind] = []

    def listen(change: Change) -> None:
        told.append(change.kind)

    scheduler.add_listener(listen)
    end = scheduler.add_listener(strike)
    scheduler.add_listener(listen)

    with pytest.raises(TimeUpError):
        scheduler.add_task(Task("t", int))
    end()

    assert told == [ChangeKind.TASK_ADDED] * 2
    assert not scheduler._reporter._telling.locked()
    assert scheduler.stats().listener_failures == 0
    assert scheduler.get_task(0).name == "t"


class Made(Trigger):
    """One of the user's."""

    def is_ready(self) -> bool:
        """Take long enough to be interrupted."""
        strike()
        return True

    def reset(self) -> None:
        """Do nothing."""


class Planned(Made):
    """One that knows its time."""

    def next_fire_time(self) -> Any:
        """Take long enough to be interrupted."""
        strike()


def test_in_a_trigger_that_is_asked(scheduler: Scheduler) -> None:
    """It is not its fault, so its task is not quarantined: it is asked again."""
    task = scheduler.add_task(Task("t", int, triggers=[Made()]))

    for _ in range(2):
        with pytest.raises(TimeUpError):
            scheduler.run_tasks()

    assert task.quarantine is None
    signal.signal(signal.SIGUSR1, lambda *_: None)
    assert scheduler.run_tasks() == 1


def test_in_a_trigger_that_is_asked_its_time(scheduler: Scheduler) -> None:
    """The task is there, and it is asked again."""
    with pytest.raises(TimeUpError):
        scheduler.add_task(Task("t", int, triggers=[Planned()]))

    assert scheduler.get_task(0).quarantine is None


def test_in_a_sensor() -> None:
    """The gate has not failed; the next sample is due as ever."""
    scheduler = Scheduler(1, gates=[background_tasks.Gate(strike, close=2, reopen=1)])

    with pytest.raises(TimeUpError):
        scheduler.run_tasks()

    assert scheduler._gates.readings() == ()
    assert not scheduler._sampling.locked()


def test_in_a_log_handler() -> None:
    """Whatever is raised; the line counts as lost."""

    class Striking(logging.Handler):
        def emit(self, record: object) -> None:
            strike()

    handler = Striking()
    logger.addHandler(handler)
    try:
        with pytest.raises(TimeUpError):
            log(40, "message", {})
    finally:
        logger.removeHandler(handler)


def test_in_the_middle_of_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A value that is interrupted while it is written is no evil value."""
    signal.signal(signal.SIGUSR1, _exit)

    class Slow:
        __repr__ = __str__ = strike

    handler = configure_logging(level=logger.level)
    try:
        with pytest.raises(SystemExit):
            log(40, "message", {"slow": Slow()})
    finally:
        logger.removeHandler(handler)


def test_in_texts_of_the_users() -> None:
    """A repr, the text of an error and what takes secrets out."""
    signal.signal(signal.SIGUSR1, _exit)

    class SlowError(Exception):
        __repr__ = __str__ = strike

    slow = SlowError()

    calls = (partial(shown, slow), partial(error_text, slow), partial(redacted, strike, "text"))
    for call in calls:
        with pytest.raises(SystemExit):
            call()


def test_while_an_executor_is_made() -> None:
    """The run was not begun, so it is not lost."""
    scheduler = Scheduler(1, executor=strike)
    task = scheduler.add_task(Task("t", int))

    with pytest.raises(TimeUpError):
        scheduler.run_task(task.id)

    assert [run.status for run in task.execution_hist] == [Status.FAILED]


def test_while_a_call_is_sent() -> None:
    """The executor is not broken by that."""

    class Slow:
        submit = strike

        def shutdown(self, wait: bool = True) -> None:
            raise AssertionError

    made = Slow()
    outside = Outside(lambda: made, REAL)
    executor = outside.executor()

    with pytest.raises(TimeUpError):
        outside.submit(executor, int)

    assert outside.executor() is executor


def test_while_something_is_mended(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is mended by whoever comes next."""
    task = scheduler.add_task(Task("t", int))
    with monkeypatch.context() as patched:
        patched.setattr(scheduler._engine, "_queue", strike)
        patched.setattr("background_tasks.scheduler.mend", strike)
        with pytest.raises(TimeUpError):
            scheduler.release_task(task.id)
    assert scheduler._whole.is_torn

    assert scheduler.stats().dropped == 1
    assert not scheduler._whole.is_torn


# A turn


def test_a_turn_is_one_threads() -> None:
    """Until that gives it up."""
    turn, mine, other = Turn(), object(), object()
    assert not turn.locked()

    assert turn.setdefault(None, mine) is mine
    assert turn.setdefault(None, other) is mine
    assert turn.locked()
    del turn[None]

    assert turn.setdefault(None, other) is other


# In our own code


def test_in_the_second_attempt_of_run_task(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the function: the run is lost, and nothing waits for it."""
    policy = RetryPolicy(3, delay=0)
    task = scheduler.add_task(Task("t", _fail, retry_policy=policy))
    attempt = scheduler._runner.attempt

    def strike_second(execution: Execution, task: Task) -> Any:
        return strike() if execution.attempts == 2 else attempt(execution, task)

    monkeypatch.setattr(scheduler._runner, "attempt", strike_second)

    with pytest.raises(TimeUpError):
        scheduler.run_task(task.id)

    assert [run.status for run in task.execution_hist] == [Status.LOST]
    assert not scheduler._busy


def test_in_the_second_attempt_of_another_thread(gate: Gate) -> None:
    """It goes on, whatever is mended meanwhile."""
    scheduler = Scheduler(1)
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError
        gate()

    task = scheduler.add_task(Task("t", work, retry_policy=RetryPolicy(1, delay=0)))
    thread = threading.Thread(target=scheduler.run_task, args=[task.id])
    thread.start()
    gate.wait_entered()
    with scheduler._calm, scheduler._lock, scheduler._whole:
        scheduler._mend()
    gate.leave.set()
    thread.join(10)

    assert [run.status for run in task.execution_hist] == [Status.SUCCESS]
    assert not scheduler._busy
    assert scheduler.stop(10)


def _fail() -> None:
    raise OSError("no route")


class Ready(Trigger):
    """One of the user's that is always ready, and counts how often it is asked."""

    def __init__(self) -> None:
        """Start at 0."""
        self.asked = 0

    def is_ready(self) -> bool:
        """Count."""
        self.asked += 1
        return True

    def reset(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("deed", ["add_task", "start", "run_tasks"])
def test_between_the_claim_of_a_trigger_and_the_question(deed: str) -> None:
    """A listener is told there: the trigger is asked at the next tick."""
    scheduler = InlineScheduler(1)
    trigger = Ready()
    task = Task("t", int, triggers=[trigger])
    if deed != "add_task":
        scheduler.add_task(task)
    if deed == "run_tasks":
        timer = OneTimeTrigger(at=scheduler.clock.now())
        scheduler.add_task(Task("timer", int, triggers=[timer]))
    end = scheduler.add_listener(strike)
    arguments = [task] if deed == "add_task" else []

    with pytest.raises(TimeUpError):
        getattr(scheduler, deed)(*arguments)
    assert trigger.asked == 0
    end()
    scheduler.run_tasks()

    assert trigger.asked == 1
    assert task.execution_hist[0].status is Status.SUCCESS


def test_in_the_middle_of_a_slot_of_an_inline_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot is given back, and the lock is not held."""
    scheduler = InlineScheduler(1)
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)
    with monkeypatch.context() as patched:
        patched.setattr(scheduler._engine, "take", strike)
        with pytest.raises(TimeUpError):
            scheduler.run_tasks()

    assert not scheduler._lock.locked()
    scheduler.run_tasks()
    assert scheduler.stats().succeeded == 1


def _raise_runtime_error(*_: object) -> None:
    raise RuntimeError("it is time")


def _spoil() -> None:
    """Do as a Condition that is interrupted does."""
    try:
        strike()
    finally:
        raise RuntimeError("cannot release un-acquired lock")


@pytest.mark.parametrize(("handler", "start"), [(_raise_runtime_error, strike), (_raise, _spoil)])
def test_while_a_thread_is_started(
    handler: Any, start: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread was refused, whatever the handler raises and whatever becomes of that."""
    scheduler = InlineScheduler(1)
    told: list[ChangeKind] = []
    scheduler.add_listener(lambda change: told.append(change.kind))
    task = scheduler.add_task(Task("t", int))
    scheduler.start()
    signal.signal(signal.SIGUSR1, handler)
    with monkeypatch.context() as patched:
        patched.setattr(DaemonPool, "start", lambda *_: start())
        with pytest.raises((TimeUpError, RuntimeError), match="it is time"):
            scheduler.release_task(task.id)
    scheduler.run_tasks()

    assert ChangeKind.THREAD_REFUSED not in told
    assert scheduler.stats().succeeded == 1


def test_after_a_slot_was_taken_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits starts it again, where no thread ticks."""
    scheduler = Scheduler(1)
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)
    take = scheduler._take_unmanned
    monkeypatch.setattr(scheduler_module, "PATIENCE", 0.001)
    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "_take_unmanned", lambda: (take(), strike()))
        with pytest.raises(TimeUpError):
            scheduler.run_tasks()

    assert scheduler.wait_idle(20)

    assert task.execution_hist[0].status is Status.SUCCESS
    assert scheduler._engine.slots == 0
    assert scheduler.stop(10)


def test_before_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of taking the locks: those that were taken are let go in the parent."""
    schedulers = [Scheduler(1), Scheduler(1)]
    monkeypatch.setattr(process, "_all", lambda: schedulers)
    hold = schedulers[1]._hold

    def interrupted(end: float, taken: list[bool]) -> None:
        hold(end, taken)
        strike()

    monkeypatch.setattr(schedulers[1], "_hold", interrupted)

    with pytest.raises(TimeUpError):
        process._before_fork()
    assert all(each._lock.locked() for each in schedulers)
    process._after_fork_in_parent()

    assert not any(each._lock.locked() for each in schedulers)


def test_an_error_of_ours_that_a_handler_raises(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses nothing, so the books are mended: a handler has asked another scheduler, say."""

    def ask(*_: object) -> None:
        scheduler_of_another.get_task(7)

    scheduler_of_another = Scheduler(1)
    signal.signal(signal.SIGUSR1, ask)
    task = scheduler.add_task(Task("t", int))
    with monkeypatch.context() as patched:
        patched.setattr(scheduler._engine, "_queue", strike)
        with pytest.raises(LookupError, match="no task ever had the ID 7"):
            scheduler.release_task(task.id)

    assert (scheduler.stats().released, scheduler.stats().dropped) == (1, 1)


def test_when_a_run_has_ended(scheduler: Scheduler) -> None:
    """It has ended as it did, and is recorded."""

    class Struck(dict[int, Any]):
        def pop(self, *arguments: Any) -> Any:
            strike()

    task = scheduler.add_task(Task("t", int))
    scheduler._engine.live = Struck()

    with pytest.raises(TimeUpError):
        scheduler.run_task(task.id)

    assert [run.status for run in task.execution_hist] == [Status.SUCCESS]
    assert (scheduler.stats().succeeded, scheduler.stats().dropped) == (1, 0)
    assert scheduler.running == {}


# Anywhere

_STORM = """
    import os, random, signal, sys, time
    from background_tasks import Scheduler, Task

    scheduler = Scheduler(2)
    task = scheduler.add_task(Task("t", int, history=1))
    if sys.argv[2] == "running":
        scheduler.start()
    call = {
        "stats": scheduler.stats,
        "tasks": lambda: scheduler.tasks,
        "history": lambda: task.execution_hist,
        "add": lambda: scheduler.remove_task(scheduler.add_task(Task("new", int)).id),
        "release": lambda: scheduler.release_task(task.id),
        "run": lambda: scheduler.run_task(task.id),
        "tick": scheduler.run_tasks,
        "wait": lambda: scheduler.wait_idle(10),
    }[sys.argv[1]]

    def again():
        while True:
            call()
            for _ in range(10):  # where an interrupt may come up, too
                pass

    def until_interrupted():
        try:
            again()
        except KeyboardInterrupt:
            return

    random.seed(1)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for _ in range(300):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001 + random.random() * 0.001)
            until_interrupted()
        except KeyboardInterrupt:
            pass
    turns = scheduler._sampling, scheduler._reporter._telling
    print([turn.locked() for turn in turns], len(scheduler._waiters))
    scheduler.resume()
    print(scheduler.wait_idle(20), scheduler._engine.slots)
    s = scheduler.stats()
    ended = s.succeeded + s.failed + s.missed + s.cancelled + s.dropped
    print(s.released - ended, s.internal_errors, scheduler.stop(20), scheduler._busy)
"""


@pytest.mark.parametrize(
    ("deed", "state"),
    [
        ("stats", "new"),
        ("tasks", "new"),
        ("history", "new"),
        ("run", "new"),
        ("stats", "running"),
        ("add", "running"),
        ("release", "running"),
        ("run", "running"),
        ("tick", "running"),
        ("wait", "running"),
    ],
)
def test_three_hundred_interrupts_anywhere(deed: str, state: str) -> None:
    """By a timer, in a main thread that does nothing but call us: no lock and no slot is lost."""
    result = _run(_STORM, deed, state)

    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout.splitlines() == ["[False, False] 0", "True 0", "0 0 True {}"]


_DEPTHS = """
    import sys
    from background_tasks import Scheduler, Task

    scheduler = Scheduler(2)
    other = scheduler.add_task(Task("other", int))
    calls = [
        lambda: scheduler.tasks,
        lambda: scheduler.running,
        lambda: other.execution_hist,
        lambda: scheduler.get_task(0),
        lambda: scheduler.release_task(0),
        lambda: setattr(other, "enabled", True),
        lambda: scheduler.remove_task(scheduler.add_task(Task("new", int)).id),
        scheduler.stats,
    ]

    def visit(call):
        call()
        one(call)

    def one(call):
        return two(call)

    def two(call):
        return visit(call)

    def begin(call, frames):
        return begin(call, frames - 1) if frames else visit(call)

    if sys.argv[1] == "running":
        scheduler.start()
    for call in calls:
        for frames in range(3):
            walk = scheduler.add_task(Task("walk", begin, args=[call, frames]))
            if sys.argv[1] == "running":
                scheduler.release_task(walk.id)
                assert scheduler.wait_idle(20)
            else:
                scheduler.run_task(walk.id)
            print(walk.execution_hist[0].error.partition(":")[0])
    scheduler.resume()
    assert scheduler.wait_idle(20) and scheduler.stop(20)
    s = scheduler.stats()
    ended = s.succeeded + s.failed + s.missed + s.cancelled + s.dropped
    assert s.released == ended, s
"""


@pytest.mark.parametrize("state", ["new", "running"])
def test_a_recursion_that_ends_inside_a_call_of_ours(state: str) -> None:
    """At whatever depth that is, it is the task's error, and no lock is lost."""
    result = _run(_DEPTHS, state)

    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout.split() == ["RecursionError"] * 24


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
