"""A scheduler without threads on a clock that moves when told: what users test their tasks with."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from queue import Queue

import pytest

from background_tasks import (
    Change,
    ChangeKind,
    EventTrigger,
    MissingExtraError,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
    current_execution,
)
from background_tasks.pytest_plugin import inline_scheduler, scheduler_clock
from background_tasks.testing import Clock, InlineScheduler

__all__ = ["inline_scheduler", "scheduler_clock"]  # fixtures

NEW_YEAR = datetime(2026, 1, 1, tzinfo=timezone.utc)


def test_all_january(inline_scheduler: InlineScheduler, scheduler_clock: Clock) -> None:
    """What a report on workdays would have done all January, by the hand of a calendar."""
    report = Task(
        "report",
        str,
        triggers=[PeriodicTrigger(cron_expr="0 6 * * 1-5", timezone="Europe/Berlin")],
    )
    inline_scheduler.add_task(report)

    scheduler_clock.advance(days=31)

    times = [run.scheduled_at for run in report.execution_hist if run.scheduled_at]
    assert [at.day for at in times] == [
        1, 2, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 19, 20, 21, 22, 23, 26, 27, 28, 29, 30,
    ]  # fmt: skip
    assert {at.hour for at in times} == {5}


def test_each_run_at_its_own_time() -> None:
    """Runs of several tasks come in order, and all of a run happens at the instant it is due."""
    clock, scheduler = _made()
    seen: list[tuple[str, float]] = []
    for name, interval in (("a", 20), ("b", 30)):
        scheduler.add_task(
            Task(name, _noter(clock, seen), args=[name], triggers=[PeriodicTrigger(interval)])
        )

    clock.advance(minutes=1)

    assert seen == [("a", 20), ("b", 30), ("a", 40), ("b", 60), ("a", 60)]
    for task in scheduler.tasks.values():
        for run in task.execution_hist:
            assert run.scheduled_at == run.started_at == run.ended_at
            assert run.lateness == run.queue_time == 0


def test_due_together_urgent_first() -> None:
    """Of what is due at one instant the larger priority goes first."""
    clock, scheduler = _made()
    seen: list[tuple[str, float]] = []
    for name, priority in (("low", 0), ("high", 5)):
        scheduler.add_task(
            Task(
                name,
                _noter(clock, seen),
                args=[name],
                priority=priority,
                triggers=[PeriodicTrigger(60)],
            )
        )

    clock.advance(seconds=60)

    assert seen == [("high", 60), ("low", 60)]


@pytest.mark.parametrize(
    ("step", "passed"),
    [
        ({"days": 2}, 172_800),
        ({"hours": 1.5}, 5400),
        ({"minutes": 2}, 120),
        ({"seconds": 0.25}, 0.25),
        ({"days": 1, "hours": 1, "minutes": 1, "seconds": 1}, 90_061),
        ({"minutes": 1, "seconds": -10}, 50),
        ({}, 0),
    ],
)
def test_advance(step: dict[str, float], passed: float) -> None:
    """The parts add up, on both clocks."""
    clock = Clock()

    clock.advance(**step)

    assert clock.now() == NEW_YEAR + timedelta(seconds=passed)
    assert clock.monotonic() == passed


def test_move_to() -> None:
    """As far as the instant, in whatever zone it is given; what is due there runs."""
    clock, scheduler = _made()
    task = scheduler.add_task(Task("t", str, triggers=[PeriodicTrigger(3600)]))

    clock.move_to(datetime(2026, 1, 1, 4, tzinfo=timezone(timedelta(hours=1))))

    assert clock.now() == datetime(2026, 1, 1, 3, tzinfo=timezone.utc)
    assert len(task.execution_hist) == 3


def test_jump_to_makes_no_run_and_what_was_passed_is_missed() -> None:
    """As a wall clock is set, or a machine wakes up: one late run stands for the rest."""
    clock, scheduler = _made()
    task = scheduler.add_task(Task("t", str, triggers=[PeriodicTrigger(3600)]))

    clock.jump_to(NEW_YEAR + timedelta(hours=10, minutes=30))
    assert task.execution_hist == []
    clock.advance()

    assert [(run.lateness, run.missed) for run in task.execution_hist] == [(1800, 9)]
    assert clock.monotonic() == 0


@pytest.mark.parametrize("hours", [1, -1])
def test_a_jump_is_told_once(hours: int) -> None:
    """A scheduler that was started warns of a clock that was set, once for each time."""
    clock, scheduler = _made()
    told: list[Change] = []
    scheduler.add_listener(told.append)
    with scheduler:
        clock.advance(seconds=10)

        clock.jump_to(clock.now() + timedelta(hours=hours))
        for _ in range(3):
            clock.advance(seconds=1)

    reasons = [change.reason for change in told if change.kind is ChangeKind.CLOCK_JUMPED]
    assert len(reasons) == 1
    assert ("forward" if hours > 0 else "back") in reasons[0]
    assert "3600.0 seconds" in reasons[0]


def test_nothing_runs_until_the_clock_is_moved(inline_scheduler: InlineScheduler) -> None:
    """Neither an event nor a request runs by itself; then they run in the calling thread."""
    event, threads = EventTrigger(), []
    task = Task("t", lambda: threads.append(threading.get_ident()), triggers=[event])
    inline_scheduler.add_task(task)

    assert event.fire("news")
    inline_scheduler.release_task(0)
    assert threads == []
    inline_scheduler.clock.advance()

    assert threads == [threading.get_ident()] * 2
    assert [run.event for run in task.execution_hist] == ["news", None]


def test_no_thread_is_started(inline_scheduler: InlineScheduler) -> None:
    """Not even while it is started and runs."""
    before = threading.enumerate()
    task = Task("t", threading.active_count, triggers=[OneTimeTrigger(delay=0)])
    inline_scheduler.add_task(task)

    inline_scheduler.clock.advance(hours=1)

    assert task.execution_hist[0].results == len(before)


def test_run_tasks_says_how_many_and_they_have_ended() -> None:
    """A tick that returns when its runs have ended."""
    clock, scheduler = _made()
    task = scheduler.add_task(Task("t", str, triggers=[PeriodicTrigger(60)]))
    clock.jump_to(NEW_YEAR + timedelta(seconds=60))

    assert scheduler.run_tasks() == 1
    assert [run.status for run in task.execution_hist] == [Status.SUCCESS]
    assert scheduler.run_tasks() == 0


def test_wait_idle_lets_time_pass_for_retries() -> None:
    """Until a run that fails has used up its retries, and no further."""
    clock, scheduler = _made()
    policy = RetryPolicy(max_retries=2, delay=600, backoff=2)
    task = scheduler.add_task(Task("t", _fail, retry_policy=policy))
    scheduler.release_task(0)

    assert scheduler.wait_idle()

    assert [run.attempts for run in task.execution_hist] == [3]
    assert clock.monotonic() == 1800


def test_wait_idle_gives_up_in_time() -> None:
    """After so many seconds of the clock, the retry that comes later still waiting."""
    clock, scheduler = _made()
    scheduler.add_task(Task("t", _fail, retry_policy=RetryPolicy(max_retries=1, delay=600)))
    scheduler.release_task(0)

    assert not scheduler.wait_idle(timeout=599)
    assert clock.monotonic() == 599
    assert scheduler.wait_idle(timeout=1)


def test_wait_idle_does_not_wait_for_what_cannot_come() -> None:
    """A run that waits for a second one of its own task, which may not start meanwhile."""
    _, scheduler = _made()
    waits = [scheduler.wait_idle, bool]  # by the first run, by the second

    def wait_for_the_second() -> bool:
        return waits.pop(0)()

    task = scheduler.add_task(Task("t", wait_for_the_second))
    for _ in range(2):
        scheduler.release_task(0)
    scheduler.run_tasks()

    assert [run.results for run in task.execution_hist] == [False, False]


@pytest.mark.parametrize("delay", [0.1, 5, 86_400, 1e-7])
def test_run_task_waits_by_the_clock(delay: float) -> None:
    """Its retries come after their delay, and other tasks run meanwhile."""
    clock, scheduler = _made()
    other = scheduler.add_task(Task("other", str, triggers=[PeriodicTrigger(1800)], history=1000))
    scheduler.add_task(Task("t", _fail, retry_policy=RetryPolicy(max_retries=3, delay=delay)))

    execution = scheduler.run_task(1)

    assert execution.attempts == 4
    assert clock.monotonic() == pytest.approx(3 * delay, abs=1e-5)
    assert len(other.execution_hist) == 3 * delay // 1800


def test_a_function_may_take_time() -> None:
    """One that moves the clock on takes that long; others run meanwhile, as slots allow."""
    clock, scheduler = _made()
    seen: list[tuple[str, float]] = []
    note = _noter(clock, seen)

    def slow() -> None:
        note("slow begins")
        clock.advance(seconds=25)
        note("slow ends")

    slow_task = scheduler.add_task(Task("slow", slow, triggers=[OneTimeTrigger(delay=5)]))
    scheduler.add_task(Task("tick", note, args=["tick"], triggers=[PeriodicTrigger(10)]))

    clock.advance(seconds=30)

    assert seen == [
        ("slow begins", 5), ("tick", 10), ("tick", 20), ("tick", 30), ("slow ends", 30),
    ]  # fmt: skip
    assert _length(slow_task) == 25


def test_a_slot_is_taken_while_a_function_takes_time() -> None:
    """With one slot the others wait, and their queue_time says how long."""
    clock, scheduler = _made(slots=1)
    scheduler.add_task(
        Task("slow", lambda: clock.advance(seconds=25), triggers=[OneTimeTrigger(delay=5)])
    )
    tick = scheduler.add_task(Task("tick", str, triggers=[PeriodicTrigger(10)]))

    clock.advance(seconds=40)

    first = tick.execution_hist[0]
    assert (first.queue_time, first.missed) == (20, 2)
    assert clock.monotonic() == 40


def test_a_function_may_move_the_clock_beyond_the_advance() -> None:
    """Then that is where it stands."""
    clock, scheduler = _made()
    scheduler.add_task(
        Task("slow", lambda: clock.advance(hours=1), triggers=[OneTimeTrigger(delay=5)])
    )

    clock.advance(seconds=10)

    assert clock.monotonic() == 3605


def test_a_timeout_is_noticed() -> None:
    """A function that takes longer than its timeout finds itself cancelled."""
    clock, scheduler = _made()
    found: list[object] = []

    def slow() -> None:
        for _ in range(2):
            clock.advance(seconds=3)
            execution = current_execution()
            found.append(execution and execution.cancelled)

    scheduler.add_task(Task("slow", slow, timeout=5))
    scheduler.run_task(0)

    assert found == [False, True]


def test_a_trigger_of_the_users_is_asked_every_tick() -> None:
    """At each tick_interval of the clock."""
    clock = Clock()
    scheduler = InlineScheduler(clock=clock, tick_interval=10)
    trigger = _Counting(clock)
    task = scheduler.add_task(Task("t", str, triggers=[trigger, PeriodicTrigger(25)]))

    clock.advance(minutes=1)

    assert trigger.asked == [0, 10, 20, 25, 35, 45, 50, 60]
    assert len(task.execution_hist) == 2


def test_a_queue_of_the_users_is_looked_at() -> None:
    """A signal put into it makes its run at the next tick."""
    clock, scheduler = _made()
    channel: Queue[object] = Queue()
    task = scheduler.add_task(Task("t", str, triggers=[EventTrigger(channel)]))
    clock.advance(seconds=5)

    channel.put("news")
    clock.advance(seconds=1)

    assert [run.event for run in task.execution_hist] == ["news"]


def test_stopped_nothing_runs() -> None:
    """Until it is resumed."""
    clock, scheduler = _made()
    task = scheduler.add_task(Task("t", str, triggers=[PeriodicTrigger(60)]))
    scheduler.start()
    clock.advance(minutes=1)
    assert scheduler.stop()

    clock.advance(minutes=5)
    assert len(task.execution_hist) == 1
    scheduler.resume()
    clock.advance(seconds=1)

    assert [run.missed for run in task.execution_hist] == [0, 4]
    assert scheduler.stop()


def test_two_schedulers_on_one_clock() -> None:
    """Their runs come in the order of time, and at one instant in that of the schedulers."""
    clock = Clock()
    seen: list[tuple[str, float]] = []
    for name, interval in (("first", 20), ("second", 10)):
        InlineScheduler(clock=clock).add_task(
            Task(name, _noter(clock, seen), args=[name], triggers=[PeriodicTrigger(interval)])
        )

    clock.advance(seconds=20)

    assert seen == [("second", 10), ("first", 20), ("second", 20)]


def test_a_scheduler_has_a_clock_of_its_own() -> None:
    """When none is given."""
    one, other = InlineScheduler(), InlineScheduler()

    one.clock.advance(hours=1)

    assert other.clock.now() == NEW_YEAR


def test_a_signal_from_another_thread_is_taken() -> None:
    """It waits for the clock as any other."""
    clock, scheduler = _made()
    event = EventTrigger()
    task = scheduler.add_task(Task("t", str, triggers=[event]))
    thread = threading.Thread(target=event.fire)
    thread.start()
    thread.join(10)

    clock.advance()

    assert len(task.execution_hist) == 1


def test_it_is_a_scheduler(inline_scheduler: InlineScheduler) -> None:
    """So it may be given to what wants one; entering it returns itself."""
    assert isinstance(inline_scheduler, Scheduler)
    with inline_scheduler as entered:
        assert entered is inline_scheduler
    assert repr(inline_scheduler.clock) == "<Clock at 2026-01-01T00:00:00+00:00>"


@pytest.mark.parametrize("step", [{"seconds": -1}, {"hours": float("inf")}, {"days": float("nan")}])
def test_time_does_not_go_back_or_for_ever(step: dict[str, float]) -> None:
    """Nor by no number."""
    clock = Clock()

    with pytest.raises(ValueError, match=r"advance|days"):
        clock.advance(**step)

    assert clock.now() == NEW_YEAR


def test_move_to_the_past_is_refused() -> None:
    """The message says the time; jump_to does that."""
    with pytest.raises(ValueError, match="must not lie before 2026-01-01 00:00:00"):
        Clock().move_to(NEW_YEAR - timedelta(seconds=1))


def test_a_naive_instant_is_refused() -> None:
    """At each place where one can be given."""
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - to be refused

    for refuse in (Clock, Clock().move_to, Clock().jump_to):
        with pytest.raises(ValueError, match="must have a time zone"):
            refuse(naive)


def test_without_pytest_the_fixtures_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whereas the clock and the scheduler need nothing."""
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.delitem(sys.modules, "background_tasks.pytest_plugin")

    with pytest.raises(MissingExtraError, match=r"pip install 'background-tasks\[testing\]'"):
        import background_tasks.pytest_plugin  # noqa: F401


class _Counting(Trigger):
    """A trigger that is never ready and notes when it was asked."""

    def __init__(self, clock: Clock) -> None:
        self.asked: list[float] = []
        self._clock = clock

    def is_ready(self) -> bool:
        self.asked.append(self._clock.monotonic())
        return False

    def reset(self) -> None:
        pass


def _made(slots: int = 4) -> tuple[Clock, InlineScheduler]:
    clock = Clock()
    return clock, InlineScheduler(slots, clock=clock)


def _noter(clock: Clock, seen: list[tuple[str, float]]) -> Callable[[str], None]:
    return lambda name: seen.append((name, clock.monotonic()))


def _fail() -> None:
    raise ConnectionError("no route")


def _length(task: Task) -> float:
    (run,) = task.execution_hist
    assert run.started_at is not None
    assert run.ended_at is not None
    return (run.ended_at - run.started_at).total_seconds()
