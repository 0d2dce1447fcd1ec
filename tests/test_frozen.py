"""With frozen time: tick, run_tasks in the test's own thread, wait_idle: just what was due."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory, StepTickTimeFactory, TickingDateTimeFactory

from background_tasks import (
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    Trigger,
    current_execution,
)

_Clock = FrozenDateTimeFactory | StepTickTimeFactory | TickingDateTimeFactory
START = "2026-03-01T12:00:00Z"


@pytest.fixture(params=["never started", "started before the freeze", "started in the freeze"])
def frozen_scheduler(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[Scheduler, _Clock]]:
    """Return a scheduler in each relation to a freeze, and the frozen clock."""
    scheduler = Scheduler(4)
    if request.param == "started before the freeze":
        scheduler.start()
    with freeze_time(START) as frozen:
        if request.param == "started in the freeze":
            scheduler.start()
        yield scheduler, frozen
        assert scheduler.stop(timeout=10)


def test_interval(frozen_scheduler: tuple[Scheduler, _Clock]) -> None:
    """An interval of a minute runs once a minute."""
    scheduler, frozen = frozen_scheduler
    seen: list[datetime] = []
    task = Task("t", lambda: seen.append(_scheduled()), triggers=[PeriodicTrigger(interval=60)])
    scheduler.add_task(task)

    for _ in range(3):
        frozen.tick(60)
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)

    assert seen == [_at(12, 1), _at(12, 2), _at(12, 3)]


def test_nothing_before_it_is_due(
    frozen_scheduler: tuple[Scheduler, _Clock],
) -> None:
    """A microsecond early is too early."""
    scheduler, frozen = frozen_scheduler
    task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))

    frozen.tick(timedelta(seconds=59.999999))
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)

    assert task.execution_hist == []


def test_cron(frozen_scheduler: tuple[Scheduler, _Clock]) -> None:
    """A cron expression runs at the times it names."""
    scheduler, frozen = frozen_scheduler
    task = Task("t", int, triggers=[PeriodicTrigger(cron_expr="*/15 * * * *")])
    scheduler.add_task(task)

    for _ in range(4):
        frozen.tick(timedelta(minutes=10))
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)

    assert [run.scheduled_at for run in task.execution_hist] == [_at(12, 15), _at(12, 30)]


def test_one_time(frozen_scheduler: tuple[Scheduler, _Clock]) -> None:
    """A one-shot runs once, and its task is gone."""
    scheduler, frozen = frozen_scheduler
    task = scheduler.add_task(Task("t", int, triggers=[OneTimeTrigger(delay=5)]))

    for _ in range(3):
        frozen.tick(5)
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)

    assert [run.scheduled_at for run in task.execution_hist] == [_at(12, 0, 5)]
    assert scheduler.tasks == {}


def test_event(frozen_scheduler: tuple[Scheduler, _Clock]) -> None:
    """Each signal makes one run, in order, whatever the clock does."""
    scheduler, frozen = frozen_scheduler
    changed = EventTrigger()
    seen: list[object] = []
    scheduler.add_task(Task("t", lambda: seen.append(_event()), triggers=[changed]))

    for number in range(3):
        changed.fire(number)
        frozen.tick(0)
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)

    assert seen == [0, 1, 2]


def test_retry(frozen_scheduler: tuple[Scheduler, _Clock]) -> None:
    """A retry comes when its delay has passed on the frozen clock, and not before."""
    scheduler, frozen = frozen_scheduler
    task = Task(
        "t", _fail_once, triggers=[OneTimeTrigger(delay=0)], retry_policy=RetryPolicy(1, 30)
    )
    scheduler.add_task(task)

    scheduler.run_tasks()
    assert not scheduler.wait_idle(0.2)
    assert [run.status for run in scheduler.running[task.id]] == [Status.RETRYING]
    frozen.tick(30)
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)

    assert [(run.status, run.attempts) for run in task.execution_hist] == [(Status.SUCCESS, 2)]


def test_trigger_of_the_users(frozen_scheduler: tuple[Scheduler, _Clock]) -> None:
    """A Trigger with only is_ready and reset is asked by run_tasks."""
    scheduler, frozen = frozen_scheduler
    task = scheduler.add_task(Task("t", int, triggers=[AtNight()]))

    for _ in range(3):
        frozen.tick(timedelta(hours=6))
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)

    assert [run.status for run in task.execution_hist] == [Status.SUCCESS]


def test_moved_far_ahead_makes_one_run(
    frozen_scheduler: tuple[Scheduler, _Clock],
) -> None:
    """A month later one late run stands for all that were missed."""
    scheduler, frozen = frozen_scheduler
    task = scheduler.add_task(Task("t", int, triggers=[PeriodicTrigger(interval=60)]))

    frozen.move_to("2026-04-01T12:00:30Z")
    scheduler.run_tasks()
    assert scheduler.wait_idle(10)

    runs = [(run.scheduled_at, run.missed, run.lateness) for run in task.execution_hist]
    assert runs == [(datetime(2026, 4, 1, 12, 0, tzinfo=timezone.utc), 31 * 24 * 60 - 1, 30.0)]


def test_run_tasks_says_how_many() -> None:
    """On a scheduler that was never started nobody else releases, so the number is exact."""
    scheduler = Scheduler(1)
    changed = EventTrigger()
    with freeze_time(START) as frozen:
        scheduler.add_task(Task("a", int, triggers=[PeriodicTrigger(interval=10)]))
        scheduler.add_task(Task("b", int, triggers=[OneTimeTrigger(delay=10), changed]))
        changed.fire()
        changed.fire()

        frozen.tick(10)

        assert scheduler.run_tasks() == 4
        assert scheduler.run_tasks() == 0
        assert scheduler.wait_idle(10)
        assert scheduler.stop(timeout=10)


class AtNight(Trigger):
    """Ready once a night, from midnight on."""

    def __init__(self) -> None:
        """Wait for the next night."""
        self._night = datetime(2026, 3, 2, tzinfo=timezone.utc)

    def is_ready(self) -> bool:
        """Return True from midnight on."""
        return datetime.now(timezone.utc) >= self._night

    def reset(self) -> None:
        """Wait for another night, once this one has come."""
        if self.is_ready():
            self._night += timedelta(days=1)


def _at(hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2026, 3, 1, hour, minute, second, tzinfo=timezone.utc)


def _scheduled() -> datetime:
    execution = current_execution()
    assert execution is not None
    assert execution.scheduled_at is not None
    return execution.scheduled_at


def _event() -> object:
    execution = current_execution()
    assert execution is not None
    return execution.event


def _fail_once() -> None:
    execution = current_execution()
    assert execution is not None
    if execution.attempt == 1:
        raise OSError("not there yet")
