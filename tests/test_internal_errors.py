"""Errors of the scheduler itself: each costs one run at worst, is told once, and all goes on.

Whatever the engine is asked for fails here once, or again and again, in each place that asks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from background_tasks import (
    ChangeKind,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
)
from background_tasks import mending as mending_module
from background_tasks import reporter as reporter_module
from background_tasks import scheduler as scheduler_module
from background_tasks.pool import DaemonPool
from background_tasks.primitives import Primitives
from background_tasks.scheduler import _Slot
from background_tasks.testing import InlineScheduler
from tests.conftest import Gate

_NO_MEMORY = MemoryError("no memory")


class Fails:
    """Stands in for a function that fails for a while, and works as ever after that."""

    def __init__(self, function: Callable[..., Any], *errors: BaseException | None) -> None:
        """Raise each of *errors* in turn; None is to work once."""
        self._function = function
        self._errors = list(errors)
        self.has_failed = threading.Event()

    def recover(self) -> None:
        """Fail no more."""
        self._errors.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Fail, or do what it stands in for."""
        if self._errors:
            error = self._errors.pop(0)
            if not self._errors:
                self.has_failed.set()
            if error is not None:
                raise error
        return self._function(*args, **kwargs)


def _make_fail(owner: object, name: str, *errors: BaseException | None) -> Fails:
    """Have a method fail; for want of memory, once, by default."""
    fails = Fails(getattr(owner, name), *(errors or (_NO_MEMORY,)))
    setattr(owner, name, fails)
    return fails


def _adds_up(scheduler: Scheduler) -> bool:
    stats = scheduler.stats()
    ended = stats.succeeded + stats.failed + stats.missed + stats.cancelled + stats.dropped
    return stats.released == ended + stats.pending + stats.running


# The scheduler's thread


@pytest.mark.parametrize("method", ["release", "claim_slots", "to_ask", "has_due", "next_due"])
def test_the_thread_lives_on(
    method: str, internal_errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It says so in one line, with where it was, and ticks again after a while."""
    ran = threading.Semaphore(0)
    scheduler = Scheduler(1, tick_interval=0.01)
    scheduler.add_task(Task("t", ran.release, triggers=[PeriodicTrigger(interval=0.01)]))
    fails = _make_fail(scheduler._engine, method)

    with scheduler:
        assert fails.has_failed.wait(10)
        for _ in range(3):
            assert ran.acquire(timeout=10)

    assert internal_errors == ["MemoryError: no memory"]
    assert scheduler.stats().internal_errors == 1
    assert _adds_up(scheduler)
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.getMessage() == "internal error"
    assert vars(line)["event.name"] == "background_tasks.internal_error"
    assert vars(line)["exception.type"] == "MemoryError"
    assert (
        f"in {'_turn' if method == 'next_due' else '_tick_once'}"
        in vars(line)["exception.stacktrace"]
    )
    internal_errors.clear()


def test_the_thread_does_not_spin(internal_errors: list[str]) -> None:
    """However often it fails in a row: it waits a tick after each."""
    waits: list[float | None] = []

    class Counted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread().name == "background_tasks":
                waits.append(timeout)
                timeout = 0
            return super().wait(timeout)

    scheduler = Scheduler(1, tick_interval=7, _primitives=Primitives(event=Counted))
    fails = _make_fail(scheduler._engine, "release", *[ValueError("ours")] * 5)

    with scheduler:
        assert fails.has_failed.wait(10)

    assert waits[:5] == [7] * 5
    assert internal_errors == ["ValueError: ours"] * 5
    internal_errors.clear()


def test_a_trigger_that_cannot_go_on_holds_up_its_task_only(internal_errors: list[str]) -> None:
    """Its own schedule fails whenever it is looked at: the task is quarantined, others go on."""
    scheduler = InlineScheduler()
    bad = scheduler.add_task(Task("bad", int, triggers=[PeriodicTrigger(interval=60)]))
    good = scheduler.add_task(Task("good", int, triggers=[PeriodicTrigger(interval=60)]))

    class Broken:
        is_wildcard = True

        def next_after(self, instant: datetime) -> datetime:
            raise ArithmeticError("beyond us")

    bad.triggers[0]._schedule = Broken()  # type: ignore[attr-defined]
    with pytest.raises(ArithmeticError):
        scheduler.clock.advance(seconds=60)
    scheduler.clock.advance(seconds=60)

    assert bad.quarantine == "an internal error broke off what was done with it"
    assert [run.status for run in good.execution_hist] == [Status.SUCCESS] * 2


# Slots


@pytest.mark.parametrize(
    ("owner", "method", "errors", "lost"),
    [
        ("_engine", "finish", [_NO_MEMORY], 1),
        ("_engine", "take", [_NO_MEMORY], 0),
        ("_engine", "claim_slots", [None, _NO_MEMORY], 1),  # the first is the tick's
        ("_runner", "attempt", [_NO_MEMORY], 1),
        ("_runner", "attempt", [LookupError("ours")], 1),
    ],
)
def test_a_slot_is_given_back(
    owner: str,
    method: str,
    errors: list[BaseException | None],
    lost: int,
    internal_errors: list[str],
) -> None:
    """Its run is lost, if it had one; whoever looks around next has another slot go on."""
    scheduler = InlineScheduler(1)
    task = scheduler.add_task(Task("t", int))
    for _ in range(3):
        scheduler.release_task(task.id)
    _make_fail(getattr(scheduler, owner), method, *errors)

    scheduler.run_tasks()
    assert (scheduler.stats().running, scheduler._engine.slots) == (0, 0)
    assert _adds_up(scheduler)
    scheduler.run_tasks()

    stats = scheduler.stats()
    assert (stats.succeeded, stats.lost, stats.pending) == (3 - lost, lost, 0)
    assert stats.internal_errors == len(internal_errors) == 1
    assert [run.error for run in task.execution_hist if run.status is Status.LOST] == [
        "BackgroundTasksError: an internal error broke off what was done with it"
    ] * lost
    internal_errors.clear()


def test_a_worker_lives_on(internal_errors: list[str], gate: Gate) -> None:
    """The only one of its pool runs what comes after the error."""
    scheduler = Scheduler(1, tick_interval=0.01)
    task = scheduler.add_task(Task("t", gate))
    scheduler.start()
    scheduler.release_task(task.id)
    gate.wait_entered()
    (worker,) = scheduler._pool._workers  # type: ignore[union-attr]
    _make_fail(scheduler._engine, "finish")
    gate.leave.set()

    other = threading.Semaphore(0)
    scheduler.release_task(scheduler.add_task(Task("other", other.release)).id)
    assert other.acquire(timeout=10)

    assert worker.is_alive()
    assert scheduler.wait_idle(10)
    assert (scheduler.stats().lost, scheduler.stats().succeeded) == (1, 1)
    assert scheduler.stop(10)
    internal_errors.clear()


def test_a_slot_is_given_back_once(internal_errors: list[str]) -> None:
    """An error that comes after that gives back no other."""
    scheduler = InlineScheduler(2)
    scheduler.add_listener(lambda change: None)
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)

    def tell() -> None:
        if not scheduler._engine.slots:
            del scheduler._tell
            raise SystemError("ours")

    scheduler._tell = tell  # type: ignore[method-assign]
    scheduler.run_tasks()

    assert scheduler._engine.slots == 0
    assert internal_errors == ["SystemError: ours"]
    internal_errors.clear()


class _Full:
    """A deque that there is no memory to append to."""

    def append(self, _: None) -> None:
        raise MemoryError

    def pop(self) -> None:
        raise IndexError


def test_a_slot_that_another_thread_has_manned() -> None:
    """It is gone when this one looks for it."""
    scheduler = InlineScheduler()
    scheduler._unmanned = _Raced()  # type: ignore[assignment]

    scheduler._man()

    assert scheduler._engine.slots == 0


class _Raced(_Full):
    """A deque that is empty the moment after it was not."""

    def __bool__(self) -> bool:
        return True


def test_a_slot_without_a_pool(scheduler: Scheduler) -> None:
    """It is given back: the scheduler was stopped meanwhile."""
    slot = _claimed(scheduler)
    scheduler._unmanned.append(slot)

    assert scheduler.stats().running == 0

    assert scheduler._engine.slots == 0


def _claimed(scheduler: Scheduler) -> _Slot:
    """Return a slot that was claimed and that nobody will start."""
    slot = _Slot(scheduler)
    scheduler._slots[slot] = None
    scheduler._engine.slots += 1
    return slot


def test_a_slot_that_nobody_starts_is_started_again() -> None:
    """Within two seconds: an interrupt has come up between its claim and its start."""
    scheduler = InlineScheduler(1)
    task = scheduler.add_task(Task("t", int))
    scheduler.start()
    _claimed(scheduler)
    scheduler.release_task(task.id)
    for _ in range(2):
        scheduler.run_tasks()
        assert scheduler.stats().pending == 1
        scheduler.clock.advance(seconds=1)
    scheduler.run_tasks()

    assert (scheduler.stats().succeeded, scheduler._engine.slots) == (1, 0)


def test_a_slot_that_is_started_twice_is_one() -> None:
    """The second call has nothing to do; neither has one that was given back."""
    scheduler = InlineScheduler(2)
    nested: list[int] = []

    def work() -> None:
        slot()
        nested.append(scheduler._engine.slots)

    task = scheduler.add_task(Task("t", work))
    scheduler.release_task(task.id)
    slot = _claimed(scheduler)

    slot()
    slot()

    assert nested == [1]
    assert (scheduler.stats().succeeded, scheduler._engine.slots) == (1, 0)
    assert not scheduler._busy


def test_a_slot_that_has_begun_although_its_start_failed() -> None:
    """An interrupt came up just when it was queued: whoever started it gives back no other."""
    scheduler = InlineScheduler(1)
    slot = _claimed(scheduler)
    slot.thread = 7

    scheduler._give_back(slot, None)

    assert list(scheduler._slots) == [slot]


def test_a_slot_that_cannot_begin_is_given_back(internal_errors: list[str]) -> None:
    """Its run waits for the next one."""
    scheduler = InlineScheduler(1)
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)
    _make_fail(scheduler, "_step", LookupError("ours"))

    scheduler.run_tasks()
    assert (scheduler.stats().pending, scheduler._engine.slots) == (1, 0)
    scheduler.run_tasks()

    assert scheduler.stats().succeeded == 1
    assert internal_errors == ["LookupError: ours"]
    internal_errors.clear()


def test_a_slot_that_breaks_off_as_it_goes_home_is_given_back(internal_errors: list[str]) -> None:
    """Within a second, and its run is lost: no slot is gone for good."""
    scheduler = InlineScheduler(1)
    task = scheduler.add_task(Task("t", int))
    scheduler.start()
    _make_fail(scheduler._runner, "attempt", LookupError("ours"))
    fails = _make_fail(scheduler, "_leave_slot", LookupError("again"))
    scheduler.release_task(task.id)
    scheduler.release_task(task.id)

    with pytest.raises(LookupError, match="again"):
        scheduler.run_tasks()
    assert scheduler._engine.slots == 1
    scheduler.clock.advance(seconds=1)
    scheduler.run_tasks()

    assert fails.has_failed.is_set()
    stats = scheduler.stats()
    assert (stats.lost, stats.succeeded, scheduler._engine.slots) == (1, 1, 0)
    assert not scheduler._busy


def test_no_memory_to_say_what_has_failed(
    internal_errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is counted, at least."""
    scheduler = InlineScheduler()
    task = scheduler.add_task(Task("t", int))
    scheduler.release_task(task.id)
    _make_fail(scheduler._engine, "finish")
    monkeypatch.setattr(scheduler_module, "traceback_text", _raise(MemoryError(), takes=1))

    scheduler.run_tasks()

    assert scheduler.stats().internal_errors == 1
    internal_errors.clear()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_no_memory_for_a_thread(error: BaseException, internal_errors: list[str]) -> None:
    """Its slots are given back, and the next tick tries again."""
    ran: list[int] = []

    class Failing(threading.Thread):
        def start(self) -> None:
            if self.name.startswith("background_tasks-slot") and errors:
                raise errors.pop()
            super().start()

    errors = [error]
    scheduler = Scheduler(3, tick_interval=0.01, _primitives=Primitives(thread=Failing))
    with scheduler:
        for number in range(3):
            once = OneTimeTrigger(delay=0)
            scheduler.add_task(Task("t", ran.append, args=[number], triggers=[once]))
        assert scheduler.wait_idle(10)

    assert sorted(ran) == [0, 1, 2]
    assert scheduler._engine.slots == 0
    assert len(internal_errors) == isinstance(error, MemoryError)
    internal_errors.clear()


def test_a_lack_of_threads_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """In a warning that says what the system says; the runs wait, and take their turn later."""
    scheduler = InlineScheduler(2)
    task = scheduler.add_task(Task("t", int, max_instances=2))
    refused = [RuntimeError("can't start new thread")] * 100
    scheduler._pool = DaemonPool(2, "t", scheduler._primitives)
    fails = _make_fail(scheduler._pool, "_hire", *refused)

    for _ in range(5):
        scheduler.release_task(task.id)
        scheduler.run_tasks()
        scheduler.clock.advance(seconds=29)
    fails.recover()
    scheduler.run_tasks()

    told = [line for line in caplog.records if line.getMessage() == "thread refused"]
    assert len(told) == 2
    assert vars(told[0])["background_tasks.reason"] == "RuntimeError: can't start new thread"
    assert (scheduler.stats().succeeded, scheduler._engine.slots) == (5, 0)


def test_no_memory_for_the_pool(
    internal_errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slots that were claimed for it are given back."""
    scheduler = InlineScheduler(2)
    task = scheduler.add_task(Task("t", int, max_instances=2))
    scheduler.release_task(task.id)
    monkeypatch.setattr(scheduler_module, "DaemonPool", Fails(DaemonPool, _NO_MEMORY))

    with pytest.raises(MemoryError):
        scheduler.run_tasks()
    assert scheduler._engine.slots == 0
    scheduler.run_tasks()

    assert scheduler.stats().succeeded == 1


# What is told, and signals


def test_what_cannot_be_told(internal_errors: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One change is not; the later ones are, and the run is unharmed."""
    scheduler = InlineScheduler()
    heard: list[ChangeKind] = []
    scheduler.add_listener(lambda change: heard.append(change.kind))
    task = scheduler.add_task(Task("t", int))
    heard.clear()
    monkeypatch.setattr(reporter_module, "_log", Fails(reporter_module._log, _NO_MEMORY))

    assert scheduler.run_task(task.id).status is Status.SUCCESS

    assert heard[-1] is ChangeKind.RUN_SUCCEEDED
    assert internal_errors == ["MemoryError: no memory"]
    internal_errors.clear()


def test_a_signal_that_cannot_be_released_at_once(internal_errors: list[str]) -> None:
    """Fire returns as ever: it is taken, and the next tick releases it."""
    ran = threading.Event()
    changed = EventTrigger()
    with Scheduler(1, tick_interval=0.01) as scheduler:
        scheduler.add_task(Task("t", ran.set, triggers=[changed]))
        scheduler._acquire()
        fails = _make_fail(scheduler._engine, "release_signals")
        scheduler._lock.release()

        assert changed.fire()
        assert ran.wait(10)

    assert fails.has_failed.is_set()
    assert scheduler.stats().internal_errors == 1
    internal_errors.clear()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_a_handler_raises_in_the_middle_of_fire(
    error: BaseException, internal_errors: list[str]
) -> None:
    """It goes to the caller; the signal is not lost, and it is no error of ours."""
    changed = EventTrigger()
    ran = threading.Event()
    scheduler = Scheduler(1, tick_interval=0.01)
    scheduler.add_task(Task("t", ran.set, triggers=[changed]))
    with scheduler:
        scheduler._acquire()
        _make_fail(scheduler._engine, "release_signals", error)
        scheduler._lock.release()

        with pytest.raises(type(error)):
            changed.fire()
        assert ran.wait(10)

    assert internal_errors == []
    assert scheduler.stats().internal_errors == 0


# Methods that are called


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_a_method_that_breaks_off_raises(error: BaseException) -> None:
    """Its caller is told; the books add up, and it can be called again."""
    scheduler = InlineScheduler()
    task = scheduler.add_task(Task("t", int))
    _make_fail(scheduler._engine, "_queue", error)

    with pytest.raises(type(error)):
        scheduler.release_task(task.id)
    assert _adds_up(scheduler)
    scheduler.release_task(task.id)
    scheduler.run_tasks()

    stats = scheduler.stats()
    assert (stats.released, stats.dropped, stats.succeeded) == (2, 1, 1)
    assert stats.internal_errors == 0


class Due(Trigger):
    """One of the user's that is ready at once."""

    def is_ready(self) -> bool:
        """Return True."""
        return True

    def reset(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("method", ["_arm_anew", "custom_arms", "note", "ring"])
def test_a_task_whose_addition_breaks_off_is_not_added(method: str) -> None:
    """It can be added again, with its triggers as they were."""
    scheduler = InlineScheduler()
    changed = EventTrigger()
    changed.fire()
    task = Task("t", int, triggers=[OneTimeTrigger(delay=0), changed, Due()])
    _make_fail(scheduler._engine, method)

    with pytest.raises(MemoryError):
        scheduler.add_task(task)
    assert scheduler.tasks == {}
    assert scheduler.run_tasks() == 0
    scheduler.add_task(task)

    assert scheduler.run_tasks() == 3
    assert task.id == 1


def test_a_trigger_whose_answer_is_lost_is_asked_again(internal_errors: list[str]) -> None:
    """Though the call that asked it broke off."""
    scheduler = InlineScheduler()
    task = scheduler.add_task(Task("t", int, triggers=[Due()]))
    _make_fail(scheduler._engine, "answered")

    with pytest.raises(MemoryError):
        scheduler.run_tasks()

    assert scheduler.run_tasks() == 1
    assert len(task.execution_hist) == 1


def test_a_trigger_that_was_not_armed_is_asked_all_the_same(internal_errors: list[str]) -> None:
    """Though the call that was to arm it broke off."""
    scheduler = InlineScheduler()
    task = Task("t", int, triggers=[Due()])
    _make_fail(scheduler._engine, "rearmed")

    with pytest.raises(MemoryError):
        scheduler.add_task(task)

    assert scheduler.run_tasks() == 1
    assert len(task.execution_hist) == 1


@pytest.mark.parametrize("method", ["arm_all", "note", "custom_arms", "let_go"])
def test_a_start_that_breaks_off(method: str) -> None:
    """The scheduler is as it was, and can be started."""
    scheduler = Scheduler(1)
    ran = threading.Event()
    scheduler.add_task(Task("t", ran.set, triggers=[OneTimeTrigger(delay=0)]))
    threads = threading.active_count()
    _make_fail(scheduler._engine, method)

    with pytest.raises(MemoryError):
        scheduler.start()
    assert repr(scheduler).startswith("<Scheduler new:")
    assert threading.active_count() == threads
    with scheduler:
        assert ran.wait(10)


@pytest.mark.parametrize("method", ["note", "ask_all_to_end"])
def test_a_stop_that_breaks_off_has_stopped(method: str) -> None:
    """Nothing starts any more, and no thread is left."""
    scheduler = Scheduler(1)
    scheduler.start()
    (thread,) = [each for each in threading.enumerate() if each.name == "background_tasks"]
    _make_fail(scheduler._engine, method)

    with pytest.raises(MemoryError):
        scheduler.stop(cancel=True)

    thread.join(10)
    assert not thread.is_alive()
    assert scheduler.stop(10)
    assert repr(scheduler).startswith("<Scheduler stopped:")


def test_ctrl_c_while_run_task_waits_for_its_retry() -> None:
    """The run ends, since nobody comes back to it; nothing waits for ever."""
    scheduler = Scheduler(1)
    policy = RetryPolicy(max_retries=1, delay=3600)
    task = scheduler.add_task(Task("t", _raise(OSError("no route")), retry_policy=policy))
    _make_fail(scheduler, "_wait_until", KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        scheduler.run_task(task.id)

    assert [run.status for run in task.execution_hist] == [Status.DROPPED]
    assert task.execution_hist[0].error == "OSError: no route"
    assert scheduler.wait_idle(10)
    assert scheduler.stop(10)


def test_run_task_that_breaks_off() -> None:
    """The run is lost, and its thread is free again."""
    scheduler = InlineScheduler()
    task = scheduler.add_task(Task("t", int))
    _make_fail(scheduler._engine, "finish")

    with pytest.raises(MemoryError):
        scheduler.run_task(task.id)

    assert [run.status for run in task.execution_hist] == [Status.LOST]
    assert scheduler._busy == {}
    assert scheduler.stop(10)


# Mending


def test_what_cannot_be_mended_at_once_is_mended_by_whoever_comes_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is as short then as when the change broke off."""
    scheduler = InlineScheduler()
    task = scheduler.add_task(Task("t", int))
    monkeypatch.setattr(scheduler_module, "mend", Fails(mending_module.mend, _NO_MEMORY))
    _make_fail(scheduler._engine, "_queue")

    with pytest.raises(MemoryError):
        scheduler.release_task(task.id)
    assert scheduler._whole.is_torn

    assert (scheduler.stats().pending, scheduler.stats().dropped) == (0, 1)


def test_no_memory_to_look_at_a_trigger_is_no_fault_of_it(internal_errors: list[str]) -> None:
    """The task is not quarantined: that is tried again at the next tick."""
    scheduler = InlineScheduler()
    task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))
    _make_fail(scheduler._engine, "_come_round")
    take = PeriodicTrigger.take
    fails = Fails(take, _NO_MEMORY)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PeriodicTrigger, "take", lambda *args: fails(*args))
        with pytest.raises(MemoryError):
            scheduler.clock.advance(seconds=60)
        scheduler.clock.advance(seconds=60)

    assert task.quarantine is None
    assert len(task.execution_hist) == 1


def _raise(error: BaseException, takes: int = 0) -> Callable[..., None]:
    def fail(*args: object) -> None:
        raise error

    return (lambda _: fail()) if takes else (lambda: fail())
