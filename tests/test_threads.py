"""Real threads: races forced rather than hoped for, and a little honest stress."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from background_tasks import (
    ChangeKind,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    Scheduler,
    Status,
    Task,
    Trigger,
    current_execution,
    primitives,
)
from background_tasks import pool as pool_module
from background_tasks import scheduler as scheduler_module
from background_tasks.pool import DaemonPool
from background_tasks.primitives import REAL, Primitives
from background_tasks.process import stop_all
from background_tasks.scheduler import _Slot, _Ticker
from tests.conftest import Gate, Watch


@pytest.fixture
def hectic() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_fire_while_the_lock_is_held() -> None:
    """It does not wait; whoever holds the lock sees the signal after letting go."""
    ran = threading.Event()
    changed = EventTrigger()
    with Scheduler(1, tick_interval=3600) as scheduler:
        scheduler.add_task(Task("t", ran.set, triggers=[changed]))

        scheduler._acquire()
        assert changed.fire()
        scheduler._unlock()

        assert ran.wait(10)


def test_fire_in_a_signal_handler_while_the_lock_is_held() -> None:
    """A real signal in the middle of a critical section neither blocks nor gets lost."""
    ran = threading.Event()
    changed = EventTrigger()
    before = signal.signal(signal.SIGUSR1, lambda *_: changed.fire())
    try:
        with Scheduler(1, tick_interval=3600) as scheduler:
            scheduler.add_task(Task("t", ran.set, triggers=[changed]))

            scheduler._acquire()
            os.kill(os.getpid(), signal.SIGUSR1)
            scheduler._unlock()

            assert ran.wait(10)
    finally:
        signal.signal(signal.SIGUSR1, before)


class Storm:
    """Fires, in the main thread, whenever a lock was just taken and is just to be let go.

    Attributes:
        strike: Has `fire` called at once, by a signal or a ``__del__``.
        changed: What it fires at.
        held: Whether the scheduler's own lock was held, for each shot.
    """

    def __init__(self) -> None:
        """Be calm."""
        self.strike: Callable[[], object] = int
        self.changed = EventTrigger()
        self.held: list[bool] = []
        self._shots = itertools.count(1)
        self.scheduler = Scheduler(2, _primitives=Primitives(lock=lambda: _Struck(self)))
        self._is_over_us = False

    def fire(self, *_: object) -> None:
        """Signal, with the number of the shot."""
        self.held.append(self.scheduler._lock.locked())
        assert self.changed.fire(next(self._shots))  # atomic: one shot may interrupt another

    def pass_over(self) -> None:
        """Strike, unless it does already; then `fire` was called."""
        is_elsewhere = threading.current_thread() is not threading.main_thread()
        if is_elsewhere or self._is_over_us or len(self.held) >= _SHOTS:
            return
        self._is_over_us = True
        before = len(self.held)
        self.strike()
        assert self.strike is int or len(self.held) == before + 1
        self._is_over_us = False


class _Struck:
    """A lock in a storm."""

    def __init__(self, storm: Storm) -> None:
        self._lock = threading.Lock()
        self._storm = storm
        self.locked = self._lock.locked

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._storm.pass_over()
        return taken

    def release(self) -> None:
        self._storm.pass_over()
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


_SHOTS = 500


def _use(scheduler: Scheduler) -> None:
    """Call what takes the locks, in the calling thread."""
    task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))
    assert task.id is not None
    scheduler.start()
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    scheduler.run_task(task.id)
    task.enabled = False
    task.priority = 1
    task.enabled = True
    scheduler.add_listener(lambda change: None)()
    assert scheduler.stats().tasks == len(scheduler.tasks)
    assert len(scheduler.upcoming()) > 0
    assert scheduler.running.keys() <= scheduler.tasks.keys()
    assert len(scheduler.ready()) >= 0
    assert scheduler.stop(10)
    assert len(task.execution_hist) > 0
    scheduler.resume()
    scheduler.remove_task(task.id)


def _ride_out(storm: Storm) -> list[int]:
    """Use a scheduler in the storm; return the shots that made a run, in order."""
    ran: list[int] = []
    event = Task("event", lambda: ran.append(int(str(_event()))), triggers=[storm.changed])
    storm.scheduler.add_task(event)

    while len(storm.held) < _SHOTS:
        _use(storm.scheduler)
    storm.strike = int
    assert storm.scheduler.wait_idle(10)
    assert storm.scheduler.stop(10)
    return ran


def test_real_signals_while_each_lock_is_held() -> None:
    """At both ends of every critical section of every method; none blocks and none gets lost."""
    storm = Storm()
    storm.strike = partial(signal.raise_signal, signal.SIGUSR1)
    before = signal.signal(signal.SIGUSR1, storm.fire)
    try:
        ran = _ride_out(storm)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert ran == list(range(1, _SHOTS + 1))
    assert storm.held.count(True) > _SHOTS / 2


def test_collections_while_each_lock_is_held() -> None:
    """The same with garbage that fires when it is collected."""

    class Dying:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            storm.fire()

    def collect() -> None:
        Dying()
        gc.collect(0)

    storm = Storm()
    gc.disable()
    storm.strike = collect
    try:
        ran = _ride_out(storm)
    finally:
        gc.enable()

    assert ran == list(range(1, _SHOTS + 1))
    assert storm.held.count(True) > _SHOTS / 2


def test_a_timer_that_interrupts_anywhere() -> None:
    """Signals of a timer, at whatever line of whatever method; none gets lost."""
    storm = Storm()

    def fire(*_: object) -> None:
        storm.fire()
        if len(storm.held) >= _SHOTS:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, fire)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        ran = _ride_out(storm)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    # Not in order: one handler may interrupt another before that has fired.
    assert sorted(ran) == list(range(1, len(storm.held) + 1))


class Bolt(Storm):
    """Strikes once, at the n-th of the moments at which a storm could."""

    def __init__(self, at: int, answers: list[bool]) -> None:
        """Be calm until `strike` is set."""
        super().__init__()
        self._left = at
        self._answers = answers

    def fire(self, *_: object) -> None:
        """Stop the scheduler."""
        self.held.append(self.scheduler._lock.locked())
        self._answers.append(self.scheduler.stop(10))

    def pass_over(self) -> None:
        """Strike, if it is time."""
        if self.strike is not int and threading.current_thread() is threading.main_thread():
            self._left -= 1
            if self._left == 0:
                self.strike()


_DEEDS: dict[str, Callable[[Scheduler], object]] = {
    "add_task": lambda scheduler: scheduler.add_task(Task("new", int)),
    "release_task": lambda scheduler: scheduler.release_task(0),
    "run_tasks": lambda scheduler: scheduler.run_tasks(),
    "run_task": lambda scheduler: scheduler.run_task(0),
    "cancel": lambda scheduler: scheduler.cancel(0),
    "remove_task": lambda scheduler: scheduler.remove_task(0),
    "enabled": lambda scheduler: setattr(scheduler.tasks[0], "enabled", False),
    "stats": lambda scheduler: scheduler.stats(),
    "wait_idle": lambda scheduler: scheduler.wait_idle(10),
    "stop": lambda scheduler: scheduler.stop(10),
}


def _strike(at: int, deed: Callable[[Scheduler], object], answers: list[bool]) -> Bolt:
    """Stop a scheduler at the n-th moment of what is done with it; see that it has stopped."""
    bolt = Bolt(at, answers)
    scheduler = bolt.scheduler
    scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=3600), bolt.changed]))
    scheduler.start()
    bolt.changed.fire()
    before = signal.signal(signal.SIGUSR1, bolt.fire)
    try:
        bolt.strike = partial(signal.raise_signal, signal.SIGUSR1)
        deed(scheduler)
    finally:
        bolt.strike = int
        signal.signal(signal.SIGUSR1, before)
    assert scheduler.state == ("stopped" if bolt.held or deed is _DEEDS["stop"] else "running")
    assert scheduler.stop(10)
    return bolt


@pytest.mark.parametrize("deed", _DEEDS)
def test_stop_in_a_signal_handler(deed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At both ends of every critical section of a method: it is stopped when that has returned."""
    for module in (scheduler_module, pool_module):
        monkeypatch.setattr(module, "PATIENCE", 0.005)
    answers: list[bool] = []
    held: list[bool] = []

    for at in itertools.count(1):
        bolt = _strike(at, _DEEDS[deed], answers)
        if not bolt.held:
            break
        held += bolt.held

    assert held.count(True) >= 2
    assert len(answers) == len(held)
    assert not any(answer for answer, was_held in zip(answers, held, strict=True) if was_held)


def test_stop_asked_for_in_the_middle_of_fire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fires holds the lock, too; listeners are told of it."""
    monkeypatch.setattr(scheduler_module, "PATIENCE", 0.005)
    changed = EventTrigger()
    answers: list[bool] = []
    scheduler = Scheduler(1)
    watch = Watch(scheduler)
    scheduler.add_task(Task("t", int, triggers=[changed]))
    scheduler.start()
    release = scheduler._engine.release_signals

    def interrupted(*args: Any) -> int:
        answers.append(scheduler.stop())
        return release(*args)

    monkeypatch.setattr(scheduler._engine, "release_signals", interrupted)
    assert changed.fire()

    assert answers == [False]
    assert scheduler.state == "stopped"
    watch.wait_for(ChangeKind.STOPPED)
    assert scheduler.stop(10)


def test_stop_from_del(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may call it anywhere, in the thread of a slot, too; with cancel as well."""
    monkeypatch.setattr(scheduler_module, "PATIENCE", 0.005)
    scheduler = Scheduler(1)
    asked: list[bool] = []
    entered = threading.Event()

    def work() -> bool:
        entered.set()
        execution = current_execution()
        assert execution is not None
        return execution.wait(1000)

    class Dying:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            asked.append(scheduler.stop(0, cancel=True))

    task = scheduler.add_task(Task("t", work))
    scheduler.start()
    scheduler.release_task(task.id)
    assert entered.wait(10)
    scheduler._acquire()
    Dying()
    gc.collect()
    scheduler._unlock()

    assert asked == [False]
    assert scheduler.stop(10)
    assert [run.status for run in task.execution_hist] == [Status.CANCELLED]


def test_stop_that_gets_the_lock_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was let go just when the stop was asked for, and nobody has looked at that."""
    scheduler = Scheduler(1)
    scheduler.start()
    monkeypatch.setattr(scheduler_module, "looks_free", lambda *_: False)

    assert scheduler.stop(10)
    assert not scheduler._stops


def test_stop_on_an_overloaded_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that did not run for long has another go before it gives up: the lock is free."""
    scheduler = Scheduler(1, _primitives=Primitives(pause=lambda _: scheduler._unlock()))
    monkeypatch.setattr(scheduler_module, "monotonic", lambda: 0.0)
    monkeypatch.setattr(primitives, "monotonic", lambda: 3600.0)
    scheduler._acquire()

    assert scheduler.stop()


def test_stop_that_breaks_off_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, internal_errors: list[str]
) -> None:
    """It is told there, and the scheduler has stopped."""
    scheduler = Scheduler(1)
    scheduler.start()
    monkeypatch.setattr(scheduler_module, "PATIENCE", 0.005)

    def fail(*_: object) -> None:
        raise MemoryError

    scheduler._acquire()
    assert not scheduler.stop(cancel=True)
    monkeypatch.setattr(scheduler._engine, "ask_all_to_end", fail)
    scheduler._unlock()

    assert scheduler.state == "stopped"
    assert internal_errors == ["MemoryError"]
    internal_errors.clear()
    assert scheduler.stop(10)


def test_fire_with_an_idle_worker_needs_no_scheduler_thread() -> None:
    """The second signal is handed to the worker of the first by the firing thread."""
    changed = EventTrigger()
    ran = threading.Semaphore(0)
    with Scheduler(1, tick_interval=3600) as scheduler:
        scheduler.add_task(Task("t", ran.release, triggers=[changed]))
        for _ in range(20):
            changed.fire()
            assert ran.acquire(timeout=10)
            assert scheduler.wait_idle(10)


def test_a_signal_from_del() -> None:
    """The collector may call fire anywhere."""
    changed = EventTrigger()
    ran = threading.Event()

    class Dying:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            changed.fire("last words")

    with Scheduler(1, tick_interval=3600) as scheduler:
        scheduler.add_task(Task("t", ran.set, triggers=[changed]))
        scheduler._acquire()
        Dying()
        gc.collect()
        scheduler._unlock()

        assert ran.wait(10)


def test_every_method_can_be_called_from_a_task() -> None:
    """None of them deadlocks, removing itself and stopping included."""
    said: dict[str, object] = {}

    def call_all() -> None:
        other = scheduler.add_task(Task("other", int, triggers=[PeriodicTrigger(interval=60)]))
        said["get"] = scheduler.get_task(other.id) is other
        said["run"] = scheduler.run_task(other.id).status
        scheduler.release_task(other.id)
        said["ticks"] = scheduler.run_tasks() >= 0
        other.enabled = False
        other.priority = 3
        said["history"] = len(other.execution_hist) >= 1
        said["tasks"] = len(scheduler.tasks)
        said["running"] = list(scheduler.running) == [itself.id]
        said["upcoming"] = [entry.task_name for entry in scheduler.upcoming(1)]
        said["count"] = scheduler.running_tasks_count()
        said["repr"] = repr(scheduler)
        scheduler.add_listener(lambda change: None)()
        scheduler.remove_task(other.id)
        scheduler.start()
        scheduler.remove_task(itself.id)
        said["idle"] = scheduler.wait_idle(10)
        said["stop"] = scheduler.stop()
        scheduler.resume()

    scheduler = Scheduler(1)
    with scheduler:
        itself = scheduler.add_task(Task("itself", call_all))
        scheduler.release_task(itself.id)
        assert scheduler.wait_idle(10)

    assert itself.execution_hist[0].error == ""
    assert said == {
        "get": True,
        "run": Status.SUCCESS,
        "ticks": True,
        "history": True,
        "tasks": 2,
        "running": True,
        "upcoming": ["other"],
        "count": 1,
        "repr": "<Scheduler running: 2 tasks, 1 of 1 running, 1 pending>",
        "idle": True,
        "stop": False,
    }


@pytest.mark.parametrize("method", ["wait_idle", "stop"])
def test_interrupted_while_it_waits(gate: Gate, method: str) -> None:
    """Ctrl-C during a wait goes to the caller; the scheduler works on."""

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread() is threading.main_thread() and interrupts:
                interrupts.pop()
                raise KeyboardInterrupt
            return super().wait(timeout)

    interrupts = [True]
    scheduler = Scheduler(1, _primitives=Primitives(event=Interrupted))
    task = scheduler.add_task(Task("t", gate))
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    gate.wait_entered()

    with pytest.raises(KeyboardInterrupt):
        getattr(scheduler, method)()
    assert not scheduler._lock.locked()
    gate.leave.set()

    assert scheduler.wait_idle(10)
    assert scheduler.stop(10)


def test_starting_from_many_threads_makes_one_ticker() -> None:
    """However many start it at once."""
    scheduler = Scheduler(1)
    before = threading.active_count()
    _together(8, scheduler.start)

    assert threading.active_count() == before + 1
    assert scheduler.stop(10)


def test_stopping_from_many_threads(gate: Gate) -> None:
    """All of them are told once the task has ended."""
    scheduler = Scheduler(1)
    scheduler.start()
    scheduler.add_task(Task("t", gate, triggers=[OneTimeTrigger(delay=0)]))
    gate.wait_entered()
    gate.leave.set()

    assert _together(8, lambda: scheduler.stop(10)) == [True] * 8


def test_start_and_stop_in_turns(hectic: None) -> None:
    """Threads that start and stop it by turns leave it in one piece."""
    scheduler = Scheduler(2)
    ran = threading.Semaphore(0)
    scheduler.add_task(Task("t", ran.release, triggers=[PeriodicTrigger(interval=0.001)]))

    def turn() -> None:
        for _ in range(20):
            scheduler.start()
            scheduler.stop(10)

    _together(4, turn)
    scheduler.start()
    assert ran.acquire(timeout=10)
    assert scheduler.stop(10)


def test_no_run_is_lost_or_doubled(hectic: None) -> None:
    """Eight threads add, fire, disable, remove and ask: each accepted signal is one run."""
    scheduler = Scheduler(4)
    seen: list[object] = []
    channels = [EventTrigger() for _ in range(8)]
    tasks = [
        Task("t", lambda: seen.append(_event()), triggers=[channel], priority=number, history=1000)
        for number, channel in enumerate(channels)
    ]
    numbers = iter(range(8))

    def work() -> None:
        number = next(numbers)
        task, channel = scheduler.add_task(tasks[number]), channels[number]
        for signal_number in range(100):
            assert channel.fire((number, signal_number))
            task.enabled = signal_number % 7 != 0
            task.priority = signal_number % 5
            scheduler.remove_task(scheduler.add_task(Task("passing", int)).id)
        task.enabled = True

    with scheduler:
        _together(8, work)
        assert scheduler.wait_idle(30)

    assert sorted(seen, key=str) == sorted(((n, s) for n in range(8) for s in range(100)), key=str)
    for number in range(8):
        order = [event for event in seen if isinstance(event, tuple) and event[0] == number]
        assert order == sorted(order)
    stats = scheduler.stats()
    assert stats.released == stats.succeeded == 800


def test_a_slot_that_comes_upon_a_trigger_of_the_users() -> None:
    """What a slot finds due while the scheduler thread is busy is asked by that thread."""

    class Once(Trigger):
        def __init__(self) -> None:
            self.due: datetime | None = datetime.now(timezone.utc) + timedelta(seconds=0.05)

        def is_ready(self) -> bool:
            return self.due is not None

        def reset(self) -> None:
            if self.due is not None and self.due <= datetime.now(timezone.utc):
                self.due = None

        def next_fire_time(self) -> datetime | None:
            return self.due

    ran = threading.Event()
    with Scheduler(2, tick_interval=3600) as scheduler:
        busy = scheduler.add_task(Task("busy", int, triggers=[PeriodicTrigger(interval=0.001)]))
        scheduler.add_task(Task("t", ran.set, triggers=[Once()]))

        assert ran.wait(10)
        scheduler.remove_task(busy.id)
        assert scheduler.wait_idle(10)


def test_stop_and_resume_under_load_lose_nothing(hectic: None) -> None:
    """Runs released before, while and after stops all run, once."""
    scheduler = Scheduler(3)
    count = [0]
    lock = threading.Lock()

    def bump() -> None:
        with lock:
            count[0] += 1

    task = scheduler.add_task(Task("t", bump, max_instances=3))
    scheduler.start()

    def release() -> None:
        for _ in range(100):
            scheduler.release_task(task.id)

    def interrupt() -> None:
        for _ in range(30):
            scheduler.stop(10)
            scheduler.resume()

    works = iter([release, release, interrupt])
    _together(3, lambda: next(works)())
    assert scheduler.wait_idle(30)
    assert scheduler.stop(10)

    assert count == [200]


def test_no_thread_for_the_ticker() -> None:
    """When the system gives none, start says so and the scheduler is as it was."""
    scheduler = Scheduler(1, _primitives=Primitives(thread=_NoThread))

    with pytest.raises(RuntimeError, match="can't start new thread"):
        scheduler.start()

    assert repr(scheduler).startswith("<Scheduler new:")
    assert scheduler.stop()


def test_stopped_while_it_fails_to_start() -> None:
    """A stop in between is not undone."""

    class Interrupted(_NoThread):
        def start(self) -> None:
            assert scheduler.stop()
            super().start()

    scheduler = Scheduler(1, _primitives=Primitives(thread=Interrupted))

    with pytest.raises(RuntimeError, match="can't start new thread"):
        scheduler.start()

    assert repr(scheduler).startswith("<Scheduler stopped:")


def test_no_thread_for_a_slot_at_first() -> None:
    """A run for which no thread can be started waits for one, and runs once."""
    refused = [True, True]

    def scarce(**options: Any) -> threading.Thread:
        if "slot" in options["name"] and refused:
            refused.pop()
            return _NoThread()
        return threading.Thread(**options)

    ran: list[int] = []
    primitives = Primitives(thread=scarce)
    with Scheduler(1, tick_interval=0.001, _primitives=primitives) as scheduler:
        scheduler.add_task(Task("t", ran.append, args=[1], triggers=[OneTimeTrigger(delay=0)]))
        assert scheduler.wait_idle(10)

    assert ran == [1]
    assert refused == []


def test_no_thread_for_a_second_slot_at_first(gate: Gate) -> None:
    """A run does not wait behind one that goes on for longer than no thread can be had."""
    refused = [True]

    def scarce(**options: Any) -> threading.Thread:
        if options["name"].endswith("slot-1") and refused:
            refused.pop()
            return _NoThread()
        return threading.Thread(**options)

    ran = threading.Event()
    primitives = Primitives(thread=scarce)
    with Scheduler(2, tick_interval=0.001, _primitives=primitives) as scheduler:
        scheduler.release_task(scheduler.add_task(Task("stays", gate)).id)
        gate.wait_entered()

        scheduler.release_task(scheduler.add_task(Task("other", ran.set)).id)

        assert ran.wait(10)
        gate.leave.set()

    assert refused == []


class _Number(int):
    """An ID whose repr asks the scheduler."""

    asks: Callable[[], object]

    def __repr__(self) -> str:
        """Ask."""
        return f"<{self.asks()}>"


class _Job:
    """What somebody takes for an ID, with the scheduler in its repr."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Keep it."""
        self.scheduler = scheduler

    def __repr__(self) -> str:
        """Show it."""
        return f"<_Job of {self.scheduler!r}>"


class _Counted(Task):
    """A task that shows how often it ran."""

    def __repr__(self) -> str:
        """Count."""
        return f"<_Counted {len(self.execution_hist)}>"


def test_what_is_refused_is_shown_with_no_lock_held() -> None:
    """Its repr may call the scheduler."""
    scheduler = Scheduler(1)
    number = _Number(7)
    number.asks = scheduler.stats
    methods = (
        scheduler.get_task,
        scheduler.remove_task,
        scheduler.cancel,
        scheduler.release_task,
        scheduler.run_task,
    )

    for method in methods:
        with pytest.raises(TypeError, match="task_id must be an int, got <_Job of <Scheduler new"):
            method(_Job(scheduler))  # type: ignore[arg-type]
        with pytest.raises(LookupError, match="no task ever had the ID 7"):
            method(number)
    task = scheduler.add_task(_Counted("t", int))
    with pytest.raises(ValueError, match="a task can be added once, got <Task 0 't'"):
        scheduler.add_task(task)


def test_a_slot_that_is_given_back_while_another_thread_starts_the_next() -> None:
    """Each is counted by the one that has it: the other thread has taken the last just before."""
    scheduler = Scheduler(1)
    mine, other = _Slot(scheduler), _Slot(scheduler)
    scheduler._slots.update({mine: None, other: None})

    scheduler._give_back(mine, None)

    assert list(scheduler._slots) == [other]
    assert scheduler._engine.slots == 1


def test_the_ticking_thread_that_has_just_ended_its_wait_is_not_woken() -> None:
    """It looks around by itself, without the lock; whoever lets that go has just seen it wait."""

    class Awake(_Ticker):
        def wake(self) -> None:
            raise AssertionError

    scheduler = Scheduler(1)
    scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=0)]))

    scheduler._wake_in_time(Awake(REAL, lambda _: None, "awake"))


def test_a_slot_releases_what_is_due() -> None:
    """It does not wait for the scheduler thread, which sleeps through this test."""
    scheduler = Scheduler(1, _primitives=Primitives(thread=_Asleep))
    scheduler.start()
    task = scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=0)]))

    scheduler._acquire()
    run = scheduler._next_run()
    scheduler._unlock()

    assert run is not None
    assert run.task is task
    assert not scheduler.stop(timeout=0)


def _interrupted(monkeypatch: pytest.MonkeyPatch, *meanwhile: Callable[[], object]) -> None:
    """Have each of *meanwhile* called between the claim of a slot and its start, in turn."""
    calls = list(meanwhile)

    class Interrupted(DaemonPool):
        def start(self, fn: Callable[[], object]) -> None:
            if calls:
                calls.pop(0)()
            super().start(fn)

    monkeypatch.setattr(scheduler_module, "DaemonPool", Interrupted)


def test_a_slot_runs_before_it_starts_what_another_thread_has_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the first of several runs that are due at once would wait for all threads to start."""
    ran, all_started = threading.Event(), threading.Event()
    starters: list[int] = []

    class Watched(DaemonPool):
        def start(self, fn: Callable[[], object]) -> None:
            if starters:
                assert ran.wait(10)  # the first slot does, while the others are only claimed
            super().start(fn)
            starters.append(threading.get_ident())
            if len(starters) == 3:
                all_started.set()

    monkeypatch.setattr(scheduler_module, "DaemonPool", Watched)
    scheduler = Scheduler(3)
    for _ in range(3):
        scheduler.release_task(scheduler.add_task(Task("t", ran.set)).id)
    with scheduler:
        assert all_started.wait(10)

    assert len(set(starters)) == 1


def test_stopped_between_the_claim_of_a_slot_and_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slot is given back; its run waits and runs after the resume."""
    scheduler = Scheduler(1)
    scheduler.start()
    task = scheduler.add_task(Task("t", int))
    stopped: list[bool] = []
    _interrupted(monkeypatch, lambda: stopped.append(scheduler.stop(10)))

    scheduler.release_task(task.id)

    assert stopped == [True]
    assert scheduler.stats().pending == 1
    assert scheduler._engine.slots == 0
    scheduler.resume()
    assert scheduler.wait_idle(10)
    assert scheduler.stop(10)
    assert [run.status for run in task.execution_hist] == [Status.SUCCESS]


def test_fired_between_a_tick_and_the_wait_after_it() -> None:
    """The scheduler thread, told meanwhile that a slot is to be started, does not wait first."""

    class Fired(Scheduler):
        def _plan_wait(self, *args: Any) -> Any:
            if shots:
                assert shots.pop().fire()
            return super()._plan_wait(*args)

    ran = threading.Event()
    changed = EventTrigger()
    shots = [changed]
    scheduler = Fired(1, tick_interval=3600)
    scheduler.add_task(Task("t", ran.set, triggers=[changed]))

    with scheduler:
        assert ran.wait(10)


def test_resumed_between_the_claim_of_a_slot_and_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slot is given back, and the new thread, which waits already, is told."""

    class Told(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread().name == "background_tasks":
                waits.release()
            return super().wait(timeout)

    def stop_and_resume() -> None:
        assert scheduler.stop(10)
        while waits.acquire(blocking=False):
            pass
        scheduler.resume()
        assert waits.acquire(timeout=10)

    waits = threading.Semaphore(0)
    scheduler = Scheduler(1, tick_interval=3600, _primitives=Primitives(event=Told))
    task = scheduler.add_task(Task("t", int))
    scheduler.start()
    assert waits.acquire(timeout=10)
    _interrupted(monkeypatch, stop_and_resume)

    scheduler.release_task(task.id)

    assert scheduler.wait_idle(10)
    assert scheduler.stop(10)


def test_nothing_of_a_run_is_kept_alive() -> None:
    """Arguments, results and a failed function's locals go with the task, without the collector."""
    gc.collect()
    gc.disable()
    try:
        with Scheduler(1) as scheduler:
            kept = [weakref.ref(thing) for thing in _run_once(scheduler)]
            assert scheduler.wait_idle(10)

        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()


def test_a_removed_task_is_not_kept_alive() -> None:
    """Nor is its trigger, by circles of references."""
    gc.collect()
    gc.disable()
    try:
        scheduler = Scheduler(1)
        task = scheduler.add_task(Task("t", int, triggers=[EventTrigger(), OneTimeTrigger(60)]))
        scheduler.run_task(task.id)
        scheduler.remove_task(task.id)
        gone = weakref.ref(task)
        del task

        assert gone() is None
    finally:
        gc.enable()


def test_the_end_of_the_process_names_what_it_leaves(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """What runs on after the grace is in one line each; a scheduler that is done in none."""
    done = Scheduler(1)
    scheduler = Scheduler(1, exit_grace=0)
    task = scheduler.add_task(Task("hanging", gate))
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    gate.wait_entered()

    stop_all()

    lines = [record for record in caplog.records if "abandoned" in record.getMessage()]
    names = [vars(line)["background_tasks.task.name"] for line in lines]
    assert names.count("hanging") == 1  # other tests may have left schedulers in mid-run
    gate.leave.set()
    assert scheduler.stop(10)
    assert done.stop()


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("raise ValueError('uncaught')", 1, "ValueError: uncaught"),
    ],
    ids=["falls off", "exits with 7", "raises"],
)
def test_a_program_that_forgets_to_stop(ending: str, code: int, said: str) -> None:
    """It ends with its own exit status, and a task that runs meanwhile may finish."""
    result = _program(
        f"""
        entered = threading.Event()
        def work():
            entered.set()
            threading.Event().wait(0.2)
            print("finished", flush=True)
        s.add_task(Task("work", work, triggers=[OneTimeTrigger(delay=0)]))
        s.start()
        entered.wait(10)
        {ending}
        """
    )

    assert (result.returncode, result.stdout) == (code, "finished\n")
    assert said in result.stderr
    assert "background_tasks" not in result.stderr


def test_a_program_with_a_task_that_hangs() -> None:
    """The exit waits for the grace and no longer, and the task is named."""
    result = _program(
        """
        entered = threading.Event()
        def hang():
            entered.set()
            threading.Event().wait()
        s = Scheduler(1, exit_grace=0.1)
        s.add_task(Task("hanging", hang, triggers=[OneTimeTrigger(delay=0)]))
        s.start()
        entered.wait(10)
        """
    )

    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "run abandoned at exit" in line
    assert "hanging" in line


def _program(body: str) -> subprocess.CompletedProcess[str]:
    """Run a program that makes a scheduler `s` and then does *body*."""
    head = """
    import logging, sys, threading
    from background_tasks import *
    logging.basicConfig(
        format="%(levelname)s %(message)s %(background_tasks.task.name)s",
        level=logging.ERROR,
    )
    s = Scheduler(2)
    """
    code = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _run_once(scheduler: Scheduler) -> list[Any]:
    """Run a task that fails with a big local and a big argument; return both."""
    watch = Watch(scheduler)
    local, argument = Thing(), Thing()
    locals_ = [local]

    def fail(_argument: Thing) -> None:
        _local = locals_.pop()
        raise ValueError("with a big local")

    once = OneTimeTrigger(delay=0)
    scheduler.add_task(Task("t", fail, args=[argument], triggers=[once]))
    watch.wait_for(ChangeKind.RUN_FAILED)
    watch.changes.clear()
    return [local, argument]


def _together(count: int, work: Callable[[], Any]) -> list[Any]:
    """Call *work* in so many threads that start together; return what the calls returned."""
    barrier = threading.Barrier(count)
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        barrier.wait(10)
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    return results


def _event() -> object:
    execution = current_execution()
    assert execution is not None
    return execution.event


class Thing:
    """Something that can be referred to weakly."""


class _NoThread(threading.Thread):
    """What a system without threads left gives."""

    def __init__(self, **options: object) -> None:
        super().__init__()

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


class _Asleep(threading.Thread):
    """A thread that was started and never gets its turn."""

    def __init__(self, **options: object) -> None:
        super().__init__()

    def start(self) -> None:
        pass
