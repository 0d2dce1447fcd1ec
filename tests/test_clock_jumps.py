"""The wall clock is set forward and back: nothing storms, nothing stalls, nothing spins.

Each test is run with the clock under freezegun, under time-machine and injected, and most of them
both through `run_tasks` and with the scheduler's own thread, which is let go one turn at a time.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from queue import SimpleQueue
from typing import Any, Protocol

import pytest
import time_machine
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from background_tasks import (
    ChangeKind,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
)
from background_tasks.primitives import REAL, Primitives
from tests.conftest import Gate, Watch

START = datetime(2026, 1, 15, 2, 0, 30, tzinfo=timezone.utc)
HOUR = 3600
YEAR = 365 * 24 * 3600
TICK = 0.5  # seconds; the tick_interval of most schedulers here
FLOOR = 0.02  # seconds; the least wait while time stands still


# Three clocks


class Clock(Protocol):
    """A wall clock that stands still until it is moved."""

    primitives: Primitives

    def now(self) -> datetime:
        """Return what it shows."""

    def advance(self, seconds: float) -> None:
        """Move it by so much, back when negative."""

    def move_to(self, instant: datetime) -> None:
        """Have it show *instant*."""


class _Freezegun:
    primitives = REAL

    def __init__(self, frozen: FrozenDateTimeFactory) -> None:
        self._frozen = frozen

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def advance(self, seconds: float) -> None:
        self._frozen.tick(timedelta(seconds=seconds))

    def move_to(self, instant: datetime) -> None:
        self._frozen.move_to(instant)


class _TimeMachine:
    primitives = REAL

    def __init__(self, traveller: time_machine.Traveller) -> None:
        self._traveller = traveller

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def advance(self, seconds: float) -> None:
        self._traveller.shift(timedelta(seconds=seconds))

    def move_to(self, instant: datetime) -> None:
        self._traveller.move_to(instant, tick=False)


class _Injected:
    def __init__(self) -> None:
        self._now = START
        self.primitives = dataclasses.replace(REAL, utc_now=self.now)

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)

    def move_to(self, instant: datetime) -> None:
        self._now = instant


@pytest.fixture(params=["freezegun", "time-machine", "injected"])
def clock(request: pytest.FixtureRequest) -> Iterator[Clock]:
    """Return a clock that stands at START, of each of the three kinds."""
    if request.param == "freezegun":
        with freeze_time(START) as frozen:
            assert isinstance(frozen, FrozenDateTimeFactory)
            yield _Freezegun(frozen)
    elif request.param == "time-machine":
        with time_machine.travel(START, tick=False) as traveller:
            yield _TimeMachine(traveller)
    else:
        yield _Injected()


# Two ways to drive a scheduler


class Waits:
    """Makes events whose waits are held while the scheduler thread is the one that waits.

    The thread's wait does not end by itself: the test is told how long it is meant to be, and
    lets the thread go. For the thread it took as long as it was meant to, or no time at all.
    """

    def __init__(self, *, take_time: bool = True) -> None:
        """Hold the thread at its first wait."""
        self._take_time = take_time
        self._asked: SimpleQueue[float] = SimpleQueue()
        self._go = threading.Semaphore(0)
        self._monotonic = 1_000_000.0  # scheduler thread only
        self.is_open = False  # True once the thread waits as any other

    def primitives(self, clock: Clock) -> Primitives:
        """Return the primitives of a scheduler to be held, with its wall clock."""
        return dataclasses.replace(clock.primitives, event=self._event, monotonic=self._now)

    def here(self) -> float:
        """Wait until the thread is at its next wait; return how long that is meant to be."""
        return self._asked.get(timeout=10)

    def step(self) -> float:
        """Let the thread make one turn; return how long it then means to wait."""
        self._go.release()
        return self.here()

    def let_go(self) -> None:
        """Have the thread wait as any other from now on."""
        self.is_open = True
        self._go.release()

    def hold(self, timeout: float) -> None:
        """Be the thread's wait."""
        self._asked.put(timeout)
        assert self._go.acquire(timeout=10)
        if self._take_time:
            self._monotonic += timeout

    def _event(self) -> threading.Event:
        return _HeldEvent(self)

    def _now(self) -> float:
        return self._monotonic if _is_scheduler_thread() else REAL.monotonic()


class _HeldEvent(threading.Event):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        if self._waits.is_open or not _is_scheduler_thread():
            return super().wait(timeout)
        assert timeout is not None
        self._waits.hold(timeout)
        return self.is_set()


def _is_scheduler_thread() -> bool:
    return threading.current_thread().name == "background_tasks"


class Driven:
    """A scheduler that does one turn when told to, and what it released has then run."""

    def __init__(self, scheduler: Scheduler, turn: Callable[[], object]) -> None:
        """Drive *scheduler* by *turn*."""
        self.scheduler = scheduler
        self.turn = turn

    def add(self, trigger: Trigger, function: Callable[[], object] = int, **options: Any) -> Task:
        """Add a task with one trigger; the scheduler then sees it."""
        task = Task("t", function, triggers=[trigger], history=2000, **options)
        self.scheduler.add_task(task)
        self.turn()
        return task

    def go(self) -> None:
        """Do one turn and wait until what it released has run."""
        self.turn()
        assert self.scheduler.wait_idle(10)

    def to_next(self, clock: Clock) -> float:
        """Return the seconds until the next run that is planned."""
        (entry,) = self.scheduler.upcoming(1)
        return (entry.at - clock.now()).total_seconds()


@pytest.fixture
def held(clock: Clock) -> Iterator[tuple[Scheduler, Waits]]:
    """Return a scheduler with its thread held at its first wait, and the hold on it."""
    yield from _held(clock, Waits())


def _held(clock: Clock, waits: Waits, tick: float = TICK) -> Iterator[tuple[Scheduler, Waits]]:
    scheduler = Scheduler(2, tick_interval=tick, _primitives=waits.primitives(clock))
    scheduler.start()
    waits.here()
    yield scheduler, waits
    waits.let_go()
    assert scheduler.stop(timeout=10)


@pytest.fixture(params=["run_tasks", "thread"])
def driven(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Driven]:
    """Return a scheduler that was never started, and one whose thread makes the turns."""
    if request.param == "run_tasks":
        scheduler = Scheduler(2, tick_interval=TICK, _primitives=clock.primitives)
        yield Driven(scheduler, scheduler.run_tasks)
        assert scheduler.stop(timeout=10)
    else:
        started, waits = request.getfixturevalue("held")
        yield Driven(started, waits.step)


# Forward

HOUR_AHEAD = [
    pytest.param({"interval": 0.2}, "03:00:30", 17_999, id="0.2 s"),
    pytest.param({"interval": 60}, "03:00:30", 59, id="60 s"),
    pytest.param({"cron_expr": "* * * * *"}, "03:00:00", 59, id="each minute"),
    pytest.param({"cron_expr": "30 2 * * *"}, "02:30:00", 0, id="02:30"),
    pytest.param({"interval": 60, "mode": "delay"}, "02:01:30", 0, id="delay"),
]


@pytest.mark.parametrize(("what", "at", "missed"), HOUR_AHEAD)
def test_an_hour_ahead_is_one_run(
    clock: Clock, driven: Driven, what: dict[str, Any], at: str, missed: int
) -> None:
    """One late run stands for all that was missed, and says for how many more."""
    task = driven.add(PeriodicTrigger(**what))

    clock.advance(HOUR)
    driven.go()
    driven.go()

    (run,) = task.execution_hist
    assert (run.scheduled_at, run.missed) == (_at(at), missed)


@pytest.mark.parametrize(
    ("what", "at", "missed"),
    [
        pytest.param({"interval": 0.2}, "2027-01-15 02:00:30", 157_679_999, id="0.2 s"),
        pytest.param({"interval": 60}, "2027-01-15 02:00:30", 525_599, id="60 s"),
        pytest.param({"cron_expr": "* * * * *"}, "2027-01-15 02:00:00", 999, id="each minute"),
        pytest.param({"cron_expr": "30 2 * * *"}, "2027-01-14 02:30:00", 364, id="02:30"),
        pytest.param({"interval": 60, "mode": "delay"}, "2026-01-15 02:01:30", 0, id="delay"),
    ],
)
def test_a_year_ahead_is_one_run(
    clock: Clock, driven: Driven, what: dict[str, Any], at: str, missed: int
) -> None:
    """A year makes no more runs than an hour; a cron expression counts no further than 1,000."""
    task = driven.add(PeriodicTrigger(**what))

    clock.advance(YEAR)
    driven.go()
    driven.go()

    (run,) = task.execution_hist
    assert (str(run.scheduled_at), run.missed) == (f"{at}+00:00", missed)


@pytest.mark.parametrize("ahead", [HOUR, YEAR], ids=["hour", "year"])
def test_a_one_shot_that_was_jumped_over_runs_once(
    clock: Clock, driven: Driven, ahead: int
) -> None:
    """Late, and then its task is gone."""
    task = driven.add(OneTimeTrigger(delay=60))

    clock.advance(ahead)
    driven.go()
    driven.go()

    (run,) = task.execution_hist
    assert (run.scheduled_at, run.missed) == (_at("02:01:30"), 0)
    assert driven.scheduler.tasks == {}


@pytest.mark.parametrize(
    ("what", "wait"),
    [
        pytest.param({"interval": 0.2}, 0.1, id="0.2 s"),
        pytest.param({"interval": 60}, 59.9, id="60 s"),
        pytest.param({"cron_expr": "* * * * *"}, 29.9, id="each minute"),
        pytest.param({"cron_expr": "30 2 * * *"}, 84_569.9, id="02:30"),
        pytest.param({"interval": 60, "mode": "delay"}, 60, id="delay"),
    ],
)
def test_an_hour_ahead_the_grid_goes_on(
    clock: Clock, driven: Driven, what: dict[str, Any], wait: float
) -> None:
    """The next run after a jump of an hour and a tenth of a second is where it always was."""
    driven.add(PeriodicTrigger(**what))

    clock.advance(HOUR + 0.1)
    driven.go()

    assert driven.to_next(clock) == wait


def test_a_year_ahead_all_tasks_run_once(clock: Clock, driven: Driven) -> None:
    """A hundred tasks make a hundred runs."""
    for number in range(100):
        driven.scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(1 + number / 10)]))

    clock.advance(YEAR)
    driven.go()
    driven.go()

    assert driven.scheduler.stats().released == 100


@pytest.mark.parametrize(
    ("what", "skipped"),
    [
        pytest.param({"interval": 60}, 60, id="60 s"),
        pytest.param({"cron_expr": "*/2 * * * *"}, 30, id="each other minute"),
        pytest.param({"cron_expr": "30 2 * * *"}, 1, id="02:30"),
        pytest.param({"interval": 60, "mode": "delay"}, 1, id="delay"),
    ],
)
def test_what_is_late_after_a_jump_is_skipped(
    clock: Clock, driven: Driven, what: dict[str, Any], skipped: int
) -> None:
    """With missed="skip" and the last occurrence more than a tick ago nothing runs."""
    task = driven.add(PeriodicTrigger(**what), missed="skip")

    clock.advance(HOUR + 35)
    driven.go()

    assert task.execution_hist == []
    assert driven.scheduler.stats().skipped == skipped


def test_what_is_on_time_after_a_jump_is_not_skipped(clock: Clock, driven: Driven) -> None:
    """With missed="skip" the one occurrence that is due just now runs."""
    task = driven.add(PeriodicTrigger(60), missed="skip")

    clock.advance(HOUR)
    driven.go()

    (run,) = task.execution_hist
    assert (run.scheduled_at, run.missed) == (_at("03:00:30"), 59)


def test_a_one_shot_that_was_skipped_is_gone(clock: Clock, driven: Driven) -> None:
    """With missed="skip" it is spent all the same."""
    task = driven.add(OneTimeTrigger(delay=60), missed="skip")

    clock.advance(HOUR)
    driven.go()

    assert task.execution_hist == []
    assert driven.scheduler.tasks == {}


def test_after_a_skip_the_next_is_on_time(clock: Clock, driven: Driven) -> None:
    """It does not stand for those that were skipped."""
    task = driven.add(PeriodicTrigger(60), missed="skip")

    clock.advance(HOUR + 35)
    driven.go()
    clock.advance(25)
    driven.go()

    (run,) = task.execution_hist
    assert (run.scheduled_at, run.missed) == (_at("03:01:30"), 0)


@pytest.mark.parametrize(
    ("what", "first", "last"),
    [
        pytest.param({"interval": 60}, "02:01:30", "03:00:30", id="60 s"),
        pytest.param({"cron_expr": "* * * * *"}, "02:01:00", "03:00:00", id="each minute"),
    ],
)
def test_all_that_was_missed_is_run(
    clock: Clock, driven: Driven, what: dict[str, Any], first: str, last: str
) -> None:
    """With missed="all" an hour makes sixty runs, oldest first, and no more at the next turn."""
    task = driven.add(PeriodicTrigger(**what), missed="all")

    clock.advance(HOUR)
    driven.go()
    driven.go()

    runs = task.execution_hist
    assert (len(runs), runs[0].scheduled_at, runs[-1].scheduled_at) == (60, _at(first), _at(last))
    assert [run.missed for run in runs] == [0] * 60


@pytest.mark.parametrize(
    ("what", "ahead", "missed"),
    [
        pytest.param({"interval": 0.2}, HOUR, 17_000, id="0.2 s, an hour"),
        pytest.param({"interval": 60}, YEAR, 524_600, id="60 s, a year"),
    ],
)
def test_all_that_was_missed_is_bounded(
    clock: Clock, driven: Driven, what: dict[str, Any], ahead: int, missed: int
) -> None:
    """With missed="all" a thousand run, and the last of them stands for the rest."""
    task = driven.add(PeriodicTrigger(**what), missed="all")

    clock.advance(ahead)
    driven.go()
    driven.go()

    assert [run.missed for run in task.execution_hist] == [0] * 999 + [missed]


def test_a_retry_that_was_jumped_over_is_one_attempt(clock: Clock, driven: Driven) -> None:
    """It comes late, once."""
    task = _failing(driven, clock)

    clock.advance(HOUR)
    driven.go()
    driven.go()

    assert [(run.status, run.attempts) for run in task.execution_hist] == [(Status.FAILED, 2)]


# Back


@pytest.mark.parametrize("mode", ["rate", "delay"])
@pytest.mark.parametrize("interval", [0.2, 60.0])
@pytest.mark.parametrize("back", [HOUR, YEAR], ids=["hour", "year"])
def test_an_interval_goes_on_within_one_period(
    clock: Clock, driven: Driven, interval: float, mode: str, back: int
) -> None:
    """Set back, the clock makes it wait for one interval, not for the clock to catch up."""
    task = driven.add(PeriodicTrigger(interval, mode=mode))
    clock.advance(interval / 2)
    driven.go()

    clock.advance(-back)
    driven.go()
    assert driven.to_next(clock) == interval
    clock.advance(interval)
    driven.go()

    assert len(task.execution_hist) == 1


def test_an_interval_that_has_run_goes_on_as_well(clock: Clock, driven: Driven) -> None:
    """Once for each interval since the clock was set back, on a grid from then on."""
    task = driven.add(PeriodicTrigger(60))
    clock.advance(HOUR)
    driven.go()

    clock.advance(-HOUR)
    driven.go()
    for _ in range(3):
        clock.advance(60)
        driven.go()

    runs = [run.scheduled_at for run in task.execution_hist]
    assert runs == [_at("03:00:30"), _at("02:01:30"), _at("02:02:30"), _at("02:03:30")]


def test_a_glitch_of_an_hour_leaves_no_trace(clock: Clock, driven: Driven) -> None:
    """Forward and back between two turns, it was never there."""
    task = driven.add(PeriodicTrigger(60))
    clock.advance(1)
    driven.go()

    clock.advance(HOUR)
    clock.advance(-HOUR)
    driven.go()

    assert task.execution_hist == []
    assert driven.to_next(clock) == 59


@pytest.mark.parametrize(
    ("back", "wait"),
    [
        pytest.param("02:59:00", 84_660, id="by minutes"),
        pytest.param("01:00:30", 91_770, id="by two hours"),
        pytest.param("00:00:30", 95_370, id="by three hours"),
        pytest.param("00:00:29", 8_971, id="by more than three hours"),
    ],
)
def test_a_fixed_time_that_has_been(clock: Clock, driven: Driven, back: str, wait: int) -> None:
    """Up to three hours back 02:30 does not come again, and above that it does."""
    task = driven.add(PeriodicTrigger(cron_expr="30 2 * * *"))
    clock.advance(HOUR)
    driven.go()

    clock.move_to(_at(back))
    driven.go()
    assert driven.to_next(clock) == wait
    clock.advance(wait)
    driven.go()

    assert len(task.execution_hist) == 2


def test_a_fixed_time_that_is_to_come_is_kept(clock: Clock, driven: Driven) -> None:
    """It runs when the clock shows it, and once."""
    task = driven.add(PeriodicTrigger(cron_expr="30 2 * * *"))

    clock.advance(-HOUR)
    driven.go()
    for _ in range(4):
        clock.advance(HOUR)
        driven.go()

    assert [run.scheduled_at for run in task.execution_hist] == [_at("02:30:00")]


def test_a_wildcard_goes_by_the_clock(clock: Clock, driven: Driven) -> None:
    """Set back an hour, each minute of it is run again."""
    task = driven.add(PeriodicTrigger(cron_expr="* * * * *"))
    clock.advance(60)
    driven.go()

    clock.advance(-HOUR)
    driven.go()
    clock.advance(60)
    driven.go()

    assert [run.scheduled_at for run in task.execution_hist] == [_at("02:01:00"), _at("01:02:00")]


@pytest.mark.parametrize("back", [HOUR, YEAR], ids=["hour", "year"])
def test_a_delay_is_waited_for_no_longer_than_it_is(
    clock: Clock, driven: Driven, back: int
) -> None:
    """Set back, the clock makes a one-shot wait for its whole delay, and it runs once."""
    task = driven.add(OneTimeTrigger(delay=60))
    clock.advance(30)
    driven.go()

    clock.advance(-back)
    driven.go()
    assert driven.to_next(clock) == 60
    clock.advance(60)
    driven.go()

    assert len(task.execution_hist) == 1


def test_an_instant_stays_that_instant(clock: Clock, driven: Driven) -> None:
    """Set back an hour, a one-shot *at* an instant waits an hour longer."""
    driven.add(OneTimeTrigger(at=_at("02:01:30")))

    clock.advance(-HOUR)
    driven.go()

    assert driven.to_next(clock) == 3660


def test_a_retry_is_waited_for_no_longer_than_its_delay(clock: Clock, driven: Driven) -> None:
    """Set back, the clock makes it wait for its whole delay, and it comes once."""
    task = _failing(driven, clock)

    clock.advance(-HOUR)
    driven.turn()
    assert driven.to_next(clock) == 30
    clock.advance(30)
    driven.go()

    assert [(run.status, run.attempts) for run in task.execution_hist] == [(Status.FAILED, 2)]


@pytest.mark.parametrize(
    ("seconds", "cancelled"), [(9.9, False), (10.0, True)], ids=["before", "after"]
)
def test_a_timeout_is_no_longer_than_it_is(
    clock: Clock, driven: Driven, gate: Gate, seconds: float, cancelled: bool
) -> None:
    """Set back while a task runs, the clock gives it its whole timeout and no more."""
    task = driven.add(OneTimeTrigger(delay=0), gate, timeout=10)
    gate.wait_entered()
    clock.advance(5)
    driven.turn()

    clock.advance(-HOUR)
    driven.turn()
    clock.advance(seconds)
    driven.turn()

    (run,) = driven.scheduler.running[task.id]
    assert run.cancelled is cancelled


# The thread's waits


@pytest.fixture
def quick(clock: Clock) -> Iterator[tuple[Scheduler, Waits]]:
    """Return a held scheduler that ticks 64 times a second."""
    yield from _held(clock, Waits(), tick=1 / 64)


def test_nothing_to_do_is_waited_for_a_tick(held: tuple[Scheduler, Waits]) -> None:
    """With no task at all the clock is looked at every tick_interval."""
    _, waits = held

    assert [waits.step() for _ in range(3)] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("delay", "wait"),
    [
        pytest.param(0.25, 0.25, id="within a tick"),
        pytest.param(3600, 0.5, id="in an hour"),
        pytest.param(10**9, 0.5, id="in thirty years"),
    ],
)
def test_no_wait_is_longer_than_a_tick(
    held: tuple[Scheduler, Waits], delay: float, wait: float
) -> None:
    """What is due later than that is waited for in several waits, so that jumps are noticed."""
    scheduler, waits = held
    scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay)]))

    assert [waits.step() for _ in range(3)] == [wait] * 3


@pytest.mark.parametrize("jump", [HOUR, -HOUR, YEAR, -YEAR])
def test_no_wait_is_longer_than_a_tick_after_a_jump(
    clock: Clock, held: tuple[Scheduler, Waits], jump: int
) -> None:
    """Whichever way it went, with tasks of all kinds to wait for."""
    scheduler, waits = held
    for trigger in _each_kind():
        scheduler.add_task(Task("t", int, triggers=[trigger]))
    waits.step()

    clock.advance(jump)
    after = [waits.step() for _ in range(3)]

    assert max(after) <= TICK
    assert min(after) >= FLOOR


def test_a_jump_forward_is_noticed_after_one_wait(
    clock: Clock, held: tuple[Scheduler, Waits]
) -> None:
    """Nobody wakes the thread, which has nothing else to do: its own next turn sees it."""
    scheduler, waits = held
    task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(60)]))
    waits.step()

    clock.advance(HOUR)
    waits.step()

    assert scheduler.wait_idle(10)
    assert len(task.execution_hist) == 1


def test_a_jump_back_is_noticed_after_one_wait(clock: Clock, held: tuple[Scheduler, Waits]) -> None:
    """The same for a clock that was set back."""
    scheduler, waits = held
    scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(60)]))
    waits.step()

    clock.advance(-HOUR)
    waits.step()

    assert scheduler.upcoming(1)[0].at == _at("01:01:30")


@pytest.mark.parametrize("jump", [HOUR, -HOUR, YEAR, -YEAR])
def test_a_trigger_of_the_users_is_asked_at_every_tick(
    clock: Clock, held: tuple[Scheduler, Waits], jump: int
) -> None:
    """A jump makes it asked neither more nor less often."""
    scheduler, waits = held
    trigger = Never()
    scheduler.add_task(Task("t", int, triggers=[trigger]))
    asked = []

    for _ in range(3):
        clock.advance(jump)
        waits.step()
        asked.append(trigger.asked)

    assert asked == [1, 2, 3]


def test_a_trigger_of_the_users_is_asked_once_a_tick(
    clock: Clock, held: tuple[Scheduler, Waits]
) -> None:
    """Also while the thread looks at a clock that stands still many times a tick."""
    scheduler, waits = held
    trigger = Never()
    soon = OneTimeTrigger(at=_microseconds_ahead(clock))
    scheduler.add_task(Task("t", int, triggers=[trigger, soon]))
    asked = []

    for _ in range(4):
        waits.step()
        asked.append(trigger.asked)

    assert asked == [1, 1, 1, 1]


def test_the_thread_does_not_spin_before_what_is_due_at_once(
    clock: Clock, held: tuple[Scheduler, Waits]
) -> None:
    """While the clock stands 10 us before it, the thread looks 50 times a second at most."""
    scheduler, waits = held
    scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(at=_microseconds_ahead(clock))]))
    waits.step()

    assert all(FLOOR <= waits.step() <= TICK for _ in range(5))


def test_the_thread_waits_no_longer_than_needed_while_time_passes(
    clock: Clock, held: tuple[Scheduler, Waits]
) -> None:
    """The least wait is for a clock that stands still only."""
    scheduler, waits = held
    clock.advance(1)
    scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(at=_microseconds_ahead(clock))]))

    assert waits.step() == 0.00001


def test_the_least_wait_is_no_longer_than_a_tick(
    clock: Clock, quick: tuple[Scheduler, Waits]
) -> None:
    """With a tick_interval of 1/64 s the thread looks that often, frozen or not."""
    scheduler, waits = quick
    scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(at=_microseconds_ahead(clock))]))
    waits.step()

    assert [waits.step() for _ in range(3)] == [1 / 64] * 3


def test_a_frozen_clock_is_thawed_and_the_run_is_made(
    clock: Clock, held: tuple[Scheduler, Waits]
) -> None:
    """What was 10 us ahead all the time runs once the clock moves."""
    scheduler, waits = held
    trigger = OneTimeTrigger(at=_microseconds_ahead(clock))
    task = scheduler.add_task(Task("t", int, triggers=[trigger]))
    waits.step()
    waits.step()
    assert task.execution_hist == []

    clock.advance(0.00001)
    waits.step()

    assert scheduler.wait_idle(10)
    assert len(task.execution_hist) == 1


# Suspend and resume: the wall clock goes on while the monotonic one stood still


@pytest.fixture
def suspended(clock: Clock) -> Iterator[tuple[Scheduler, Waits]]:
    """Return a held scheduler for whose thread no time passes but on the wall."""
    yield from _held(clock, Waits(take_time=False))


@pytest.mark.parametrize(("what", "at", "missed"), HOUR_AHEAD)
def test_after_a_suspend_one_run_is_made(
    clock: Clock,
    suspended: tuple[Scheduler, Waits],
    what: dict[str, Any],
    at: str,
    missed: int,
) -> None:
    """At the first turn after it, without a wait for the monotonic clock to catch up."""
    scheduler, waits = suspended
    task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(**what)]))
    waits.step()

    clock.advance(HOUR)
    waits.step()

    assert scheduler.wait_idle(10)
    (run,) = task.execution_hist
    assert (run.scheduled_at, run.missed) == (_at(at), missed)


def test_the_waits_around_a_suspend(clock: Clock, suspended: tuple[Scheduler, Waits]) -> None:
    """None is longer than a tick, and what was slept is not taken off the next."""
    scheduler, waits = suspended
    scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(60)]))
    before = waits.step()

    clock.advance(HOUR)

    assert (before, waits.step(), waits.step()) == (TICK, TICK, TICK)


# What the tests share


def _at(time: str) -> datetime:
    """Return that time of the day of START."""
    return datetime.fromisoformat(f"{START.date()} {time}+00:00")


def _microseconds_ahead(clock: Clock) -> datetime:
    return clock.now() + timedelta(microseconds=10)


class Never(Trigger):
    """Counts how often it is asked."""

    asked = 0

    def is_ready(self) -> bool:
        """Count, and say no."""
        self.asked += 1
        return False

    def reset(self) -> None:
        """Do nothing."""


def _each_kind() -> list[Trigger]:
    return [
        PeriodicTrigger(0.2),
        PeriodicTrigger(60),
        PeriodicTrigger(60, mode="delay"),
        PeriodicTrigger(cron_expr="* * * * *"),
        PeriodicTrigger(cron_expr="30 2 * * *"),
        OneTimeTrigger(delay=60),
    ]


def _fail() -> None:
    raise OSError("not there")


def _failing(driven: Driven, clock: Clock) -> Task:
    """Add a task that has failed and waits 30 seconds for its one retry, 10 of them gone."""
    watch = Watch(driven.scheduler)
    policy = RetryPolicy(1, delay=30)
    task = driven.add(OneTimeTrigger(delay=0), _fail, retry_policy=policy)
    watch.wait_for(ChangeKind.RUN_RETRYING)
    clock.advance(10)
    driven.turn()
    return task
