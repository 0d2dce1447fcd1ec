"""Time is frozen and thawed under a scheduler that is at work, and it works on.

freezegun is not made for that: while a freeze is taken down a reader in another thread can get an
IndexError, and what was planned on one clock comes due on another.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import time_machine
from freezegun import freeze_time

from background_tasks import (
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    Scheduler,
    Stats,
    Status,
    Task,
    Trigger,
    current_execution,
)
from background_tasks.clock import utc_now
from tests.conftest import Gate

PAST = datetime(2020, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
FUTURE = datetime(2090, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
MANY = 200  # freezes
SOME = 50

Freeze = Callable[[datetime], AbstractContextManager[Any]]


def _travel(instant: datetime) -> AbstractContextManager[Any]:
    return time_machine.travel(instant, tick=False)


@pytest.fixture(params=[freeze_time, _travel], ids=["freezegun", "time-machine"])
def freeze(request: pytest.FixtureRequest) -> Freeze:
    """Return what freezes time at an instant: a context manager of each library."""
    made: Freeze = request.param
    return made


@pytest.fixture
def hectic() -> Iterator[None]:
    """Have the interpreter switch threads very often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Turns(Trigger):
    """A trigger of the user's, ready each other time it is asked; it reads no clock."""

    def __init__(self) -> None:
        """Be ready the second time."""
        self.asked = 0

    def is_ready(self) -> bool:
        """Count, and say yes when even."""
        self.asked += 1
        return self.asked % 2 == 0

    def reset(self) -> None:
        """Do nothing."""


INTERVALS: list[dict[str, Any]] = [
    {"interval": 0.001},
    {"interval": 0.05},
    {"interval": 0.01, "jitter": 0.005},
]
OTHERS: list[dict[str, Any]] = [
    {"interval": 0.005, "mode": "delay"},
    {"cron_expr": "* * * * *"},
    {"cron_expr": "30 2 * * *", "timezone": "America/New_York"},
]


class Busy:
    """A scheduler with tasks of every kind, most of which are due all the time."""

    def __init__(self) -> None:
        """Start it."""
        self.scheduler = Scheduler(3, tick_interval=0.005)
        self.changed = EventTrigger()
        self.events: list[object] = []
        self._seen = [self._add(PeriodicTrigger(**what)) for what in INTERVALS]
        for what in OTHERS:
            self._add(PeriodicTrigger(**what))
        self._seen.append(self._add(Turns()))
        self._fired = threading.Semaphore(0)
        self.scheduler.add_task(Task("event", self._note, triggers=[self.changed]))
        self.scheduler.start()

    def _add(self, trigger: Trigger) -> threading.Semaphore:
        return _counting(self.scheduler, trigger)

    def _note(self) -> None:
        execution = current_execution()
        assert execution is not None
        self.events.append(execution.event)
        self._fired.release()

    def go_on(self) -> None:
        """Wait until each fixed rate, and the trigger of the user's, has run thrice more."""
        for seen in self._seen:
            while seen.acquire(blocking=False):
                pass
        for seen in self._seen * 3:
            assert seen.acquire(timeout=10)

    def fire(self, event: object) -> None:
        """Fire, and wait until the run that this makes is made."""
        assert self.changed.fire(event)
        assert self._fired.acquire(timeout=10)

    def is_alive(self) -> bool:
        """Return whether the scheduler thread is there."""
        ticker = self.scheduler._ticker
        return ticker is not None and bool(ticker.thread.is_alive())

    def quarantined(self) -> list[str]:
        """Return why tasks were quarantined."""
        reasons = (task.quarantine for task in self.scheduler.tasks.values())
        return [reason for reason in reasons if reason]

    def failed(self) -> list[str]:
        """Return the errors of runs."""
        tasks = self.scheduler.tasks.values()
        return [run.error for task in tasks for run in task.execution_hist if run.error]


@pytest.fixture
def busy(caplog: pytest.LogCaptureFixture) -> Iterator[Busy]:
    """Return a busy scheduler; after the test it stops, and no error was logged."""
    made = Busy()
    yield made
    assert made.scheduler.stop(timeout=10)
    records = caplog.get_records("call") + caplog.get_records("teardown")
    assert [each.getMessage() for each in records if each.levelno >= logging.ERROR] == []


def test_it_lives_through_many_freezes(hectic: None, busy: Busy, freeze: Freeze) -> None:
    """Afterwards its thread is there, a fired event runs, and nothing failed or was disabled."""
    for number in range(MANY):
        with freeze(PAST):
            busy.changed.fire(number)

    assert busy.is_alive()
    busy.fire("after")
    assert busy.quarantined() == []
    assert busy.failed() == []


def test_it_lives_through_many_freezes_at_the_usual_pace(busy: Busy, freeze: Freeze) -> None:
    """The same while threads are switched as seldom as they usually are."""
    for number in range(SOME):
        with freeze(PAST):
            busy.changed.fire(number)

    assert busy.is_alive()
    busy.fire("after")
    assert busy.quarantined() == []
    assert busy.failed() == []


def test_no_event_is_lost_or_doubled(hectic: None, busy: Busy, freeze: Freeze) -> None:
    """Each fire in and after a freeze makes one run, in order."""
    for number in range(0, SOME, 2):
        with freeze(PAST):
            busy.fire(number)
        busy.fire(number + 1)

    assert busy.events == list(range(SOME))


def test_the_counters_add_up(hectic: None, busy: Busy, freeze: Freeze) -> None:
    """While time is frozen and thawed, and after the stop."""
    for _ in range(SOME):
        with freeze(PAST):
            assert _adds_up(busy.scheduler.stats())

    assert busy.scheduler.stop(timeout=10)
    stats = busy.scheduler.stats()
    assert _adds_up(stats)
    assert (stats.running, stats.failed, stats.missed, stats.dropped) == (0, 0, 0, 0)


def test_intervals_go_on_after_many_freezes(hectic: None, busy: Busy, freeze: Freeze) -> None:
    """Though the clock went back and forth by decades, each runs again within its interval."""
    for number in range(SOME):
        with freeze(FUTURE if number % 2 else PAST):
            busy.fire(number)

    busy.go_on()


def test_ticks_and_moves_of_a_frozen_clock(hectic: None, busy: Busy) -> None:
    """A frozen clock that the test moves about under the live thread is as harmless."""
    with freeze_time(PAST) as frozen:
        for number in range(MANY):
            frozen.tick(timedelta(seconds=0.01))
            frozen.move_to(PAST + timedelta(hours=number % 5))
            busy.fire(number)

    assert busy.is_alive()
    assert busy.quarantined() == []
    assert busy.events == list(range(MANY))


def test_nested_freezes(hectic: None, busy: Busy) -> None:
    """The inner one ends and the outer one goes on."""
    with freeze_time(PAST):
        for number in range(MANY):
            with freeze_time(PAST + timedelta(hours=1)):
                busy.fire(number)

    assert busy.is_alive()
    assert busy.quarantined() == []


def test_start_and_stop_in_a_freeze_and_out_of_it(freeze: Freeze) -> None:
    """Started frozen and stopped thawed, and the other way round, it works and ends each time."""
    scheduler = Scheduler(2, tick_interval=0.005)
    seen = _counting(scheduler, PeriodicTrigger(60, run_immediately=True))

    for _ in range(10):
        with freeze(PAST):
            scheduler.start()
        assert seen.acquire(timeout=10)
        assert scheduler.stop(timeout=10)
        scheduler.start()
        with freeze(PAST):
            assert seen.acquire(timeout=10)
            assert scheduler.stop(timeout=10)


# A freeze that begins while the thread waits, and ends while it runs a task


def test_frozen_while_it_waits_and_thawed_while_a_task_runs(freeze: Freeze, gate: Gate) -> None:
    """The run is recorded, and what is fired then runs beside it."""
    changed = EventTrigger()
    with Scheduler(2, tick_interval=0.01) as scheduler:
        slow = scheduler.add_task(Task("slow", gate, triggers=[changed]))
        with freeze(PAST):
            changed.fire("in the freeze")
            gate.wait_entered()
        seen = _counting(scheduler, OneTimeTrigger(delay=0))
        assert seen.acquire(timeout=10)
        gate.leave.set()
        assert scheduler.wait_idle(10)

    (run,) = slow.execution_hist
    assert (run.status, run.event) == (Status.SUCCESS, "in the freeze")
    assert (run.scheduled_at, run.started_at) == (PAST, PAST)
    assert 0 <= run.resources.wall < 60


def test_thawed_while_the_scheduler_thread_asks_a_trigger(freeze: Freeze) -> None:
    """What the thread has begun in a freeze it ends out of it, and ticks on."""
    asked, go_on = threading.Event(), threading.Event()

    class Slow(Turns):
        def is_ready(self) -> bool:
            asked.set()
            assert go_on.wait(10)
            return super().is_ready()

    with Scheduler(1, tick_interval=0.001) as scheduler:
        with freeze(PAST):
            seen = _counting(scheduler, Slow())
            assert asked.wait(10)
        go_on.set()

        assert seen.acquire(timeout=10)
        assert seen.acquire(timeout=10)


def test_a_deadline_from_before_a_freeze(freeze: Freeze, gate: Gate) -> None:
    """A timeout that was set on the real clock passes on none: it is counted anew when frozen."""
    changed = EventTrigger()
    with Scheduler(2, tick_interval=0.001) as scheduler:
        task = scheduler.add_task(Task("slow", gate, triggers=[changed], timeout=3600))
        changed.fire()
        gate.wait_entered()
        with freeze(PAST):
            seen = _counting(scheduler, PeriodicTrigger(60, run_immediately=True))
            assert seen.acquire(timeout=10)
            (run,) = scheduler.running[task.id]
            gate.leave.set()
            assert scheduler.wait_idle(10)

    assert not run.cancelled


def test_the_thread_ends_its_wait_while_another_lets_the_lock_go() -> None:
    """Whoever lets the lock go compares with what the thread waited for, though it has gone on."""
    scheduler = Scheduler(1, tick_interval=3600)
    scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(7200)]))
    scheduler.start()
    ticker, next_due = scheduler._ticker, scheduler._engine.next_due
    assert ticker is not None
    ticker.until = utc_now() + timedelta(hours=1)

    def end_the_wait() -> datetime | None:
        ticker.until = None  # as the scheduler thread does, with no lock
        return next_due()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler._engine, "next_due", end_the_wait)
        try:
            assert scheduler.stats().tasks == 1
        finally:
            if scheduler._lock.locked():  # it would never be let go, and the test never end
                scheduler._lock.release()
    assert scheduler.stop(timeout=10)


# Started inside a freeze


def test_started_in_a_freeze_of_the_past_and_used_after_it(freeze: Freeze) -> None:
    """The thaw is a clock set forward: one run, and from then on one an interval."""
    scheduler = Scheduler(1, tick_interval=0.001)
    with freeze(PAST):
        seen = _counting(scheduler, PeriodicTrigger(0.02))
        scheduler.start()

    for _ in range(3):
        assert seen.acquire(timeout=10)
    assert scheduler.stop(timeout=10)

    (task,) = scheduler.tasks.values()
    assert [run.missed > 1_000_000_000 for run in task.execution_hist[:3]] == [True, False, False]


def test_started_in_a_freeze_of_the_future_and_used_after_it(freeze: Freeze) -> None:
    """The thaw is a clock set back, once the thread has seen the future: no wait for 2090."""
    scheduler = Scheduler(1, tick_interval=0.001)
    with freeze(FUTURE):
        seen = _counting(scheduler, PeriodicTrigger(0.02))
        at_once = _counting(scheduler, OneTimeTrigger(delay=0))
        scheduler.start()
        assert at_once.acquire(timeout=10)

    for _ in range(3):
        assert seen.acquire(timeout=10)
    assert scheduler.stop(timeout=10)


def test_an_event_fired_after_the_freeze_it_was_started_in(freeze: Freeze) -> None:
    """The trigger, made in the freeze too, works on the real clock."""
    scheduler = Scheduler(1, tick_interval=3600)
    changed = EventTrigger()
    ran = threading.Event()
    with freeze(PAST):
        task = scheduler.add_task(Task("t", ran.set, triggers=[changed]))
        scheduler.start()

    before = utc_now()
    changed.fire()
    assert ran.wait(10)
    assert scheduler.stop(timeout=10)

    (run,) = task.execution_hist
    assert run.scheduled_at is not None
    assert before <= run.scheduled_at <= utc_now()


def test_what_it_knows_of_times_after_a_freeze(freeze: Freeze) -> None:
    """Instants from a freeze and real ones can be compared, subtracted and printed."""
    with Scheduler(1, tick_interval=0.001) as scheduler:
        with freeze(PAST):
            task = scheduler.add_task(Task("t", int))
            scheduler.release_task(task.id)
            assert scheduler.wait_idle(10)
        scheduler.release_task(task.id)
        assert scheduler.wait_idle(10)

    frozen, real = task.execution_hist
    assert (frozen.scheduled_at, str(frozen.ended_at)) == (PAST, "2020-02-03 04:05:06+00:00")
    assert frozen.ended_at is not None
    assert real.started_at is not None
    assert frozen.ended_at < real.started_at
    assert real.lateness >= 0


# What the tests share


def _counting(scheduler: Scheduler, trigger: Trigger) -> threading.Semaphore:
    """Add a task; return a semaphore that is released at each of its runs."""
    seen = threading.Semaphore(0)
    scheduler.add_task(Task("counting", seen.release, triggers=[trigger]))
    return seen


def _adds_up(stats: Stats) -> bool:
    ended = stats.succeeded + stats.failed + stats.missed + stats.cancelled + stats.dropped
    return stats.released == ended + stats.pending + stats.running
