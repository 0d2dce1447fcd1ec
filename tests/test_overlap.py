"""overlap="skip": what becomes of a run that is released while enough of its task run."""

from __future__ import annotations

from queue import Queue
from typing import Any

import pytest

from background_tasks import (
    Change,
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
from background_tasks.engine import Stats
from background_tasks.testing import Clock, InlineScheduler
from tests.driver import Driver, at, taking

SKIPPED = "skipped: max_instances of its task, 1, run already"
MISSED, SUCCESS = Status.MISSED, Status.SUCCESS


# Timers


def test_a_timer_that_comes_round_while_its_task_runs() -> None:
    """Each such occurrence is a record of its own, and none waits."""
    clock = Clock()
    scheduler = InlineScheduler(clock=clock)
    task = scheduler.add_task(
        Task("t", taking(clock, 25), overlap="skip", triggers=[PeriodicTrigger(10)])
    )

    clock.advance(seconds=35)

    assert [(run.status, run.id) for run in task.execution_hist] == [
        (MISSED, 1),
        (MISSED, 2),
        (SUCCESS, 0),
    ]
    assert scheduler.ready() == []
    _adds_up(scheduler.stats())
    assert scheduler.stats().missed == 2


def test_with_queue_one_of_them_waits() -> None:
    """The default, beside it: one run stands for all that came meanwhile."""
    driver = Driver()
    task = driver.add("t", max_instances=1, triggers=[PeriodicTrigger(10)])
    for second in (10, 20, 30):
        driver.go(second)
        driver.start()

    driver.end("t")
    assert driver.start() == ["t"]
    driver.end("t")

    assert [(run.status, run.missed) for run in task.execution_hist] == [(SUCCESS, 0), (SUCCESS, 1)]


def test_what_is_recorded() -> None:
    """When it was due, when that was noticed, no start and no attempt, and the reason is told."""
    driver = Driver()
    task = driver.add("t", max_instances=1, overlap="skip", triggers=[PeriodicTrigger(10)])
    driver.go(10)
    driver.start()
    driver.engine.changes.clear()

    driver.go(20)

    (run,) = task.execution_hist
    assert (run.status, run.attempts, run.started_at, run.ended_at) == (MISSED, 0, None, at(20))
    assert (run.scheduled_at, run.released_at, run.error) == (at(20), at(20), "")
    (change,) = driver.engine.changes
    assert (change.kind, change.reason) == (ChangeKind.RUN_MISSED, SKIPPED)
    assert change.execution is not None
    assert change.execution.id == run.id


def test_a_skip_is_no_release() -> None:
    """It does not count as one in what `release` returns."""
    driver = Driver()
    driver.add("t", max_instances=1, overlap="skip", triggers=[PeriodicTrigger(10)])

    assert driver.engine.release(at(10), 9) == 1
    driver.start()
    assert driver.engine.release(at(20), 9) == 0


def test_one_late_record_stands_for_all_that_were_missed() -> None:
    """With missed="once" it counts the others, as a late run would."""
    driver = Driver()
    task = driver.add("t", max_instances=1, overlap="skip", triggers=[PeriodicTrigger(10)])
    driver.go(10)
    driver.start()

    driver.go(55)

    (run,) = task.execution_hist
    assert (run.status, run.missed, run.scheduled_at) == (MISSED, 3, at(50))
    assert driver.engine.stats().skipped == 3


def test_missed_all() -> None:
    """Each occurrence of the past is one record."""
    driver = Driver()
    task = driver.add(
        "t", max_instances=1, overlap="skip", missed="all", triggers=[PeriodicTrigger(10)]
    )
    driver.go(10)
    driver.start()

    driver.go(45)

    assert [run.scheduled_at for run in task.execution_hist] == [at(20), at(30), at(40)]
    assert driver.engine.next_due() == at(50)
    _adds_up(driver.engine.stats())


def test_missed_skip() -> None:
    """What is late makes no record; what is on time and finds the task running makes one."""
    driver = Driver()
    task = driver.add(
        "t", max_instances=1, overlap="skip", missed="skip", triggers=[PeriodicTrigger(10)]
    )
    driver.go(10)
    driver.start()

    driver.go(25)
    assert task.execution_hist == []
    driver.go(30)

    assert [run.scheduled_at for run in task.execution_hist] == [at(30)]


def test_too_late_is_no_overlap() -> None:
    """What is later than misfire_grace is recorded for that reason."""
    driver = Driver()
    driver.add(
        "t", max_instances=1, overlap="skip", misfire_grace=1, triggers=[PeriodicTrigger(10)]
    )
    driver.go(10)
    driver.start()
    driver.engine.changes.clear()

    driver.go(25)

    assert [change.reason for change in driver.engine.changes] == [""]


def test_mode_delay_counts_from_the_skip() -> None:
    """A timer that counts from ends goes on after a run of another trigger was in its way."""
    driver = Driver()
    task = driver.add(
        "t", max_instances=1, overlap="skip", triggers=[PeriodicTrigger(10, mode="delay")]
    )
    driver.ask(task)
    driver.start()

    driver.go(10)
    assert driver.engine.next_due() == at(20)
    driver.end("t")
    driver.go(20)

    assert driver.start() == ["t"]


def test_a_skipped_one_shot_is_done_with() -> None:
    """Its task goes when the run that was in its way ends, not before."""
    driver = Driver()
    task = driver.add("t", max_instances=1, overlap="skip", triggers=[OneTimeTrigger(5)])
    driver.ask(task)
    driver.start()

    driver.go(5)
    assert list(driver.engine.tasks.values()) == [task]
    driver.end("t")

    assert driver.engine.tasks == {}
    assert [run.status for run in task.execution_hist] == [MISSED, SUCCESS]


# Events


def test_each_signal_is_one_record() -> None:
    """In order, with its payload."""
    clock = Clock()
    scheduler = InlineScheduler(clock=clock)
    changed = EventTrigger()

    def work() -> None:
        for event in ("b", "c"):
            assert changed.fire(event)
        scheduler.run_tasks()

    task = scheduler.add_task(Task("t", work, overlap="skip", triggers=[changed]))
    changed.fire("a")
    scheduler.run_tasks()

    assert [(run.status, run.event) for run in task.execution_hist] == [
        (MISSED, "b"),
        (MISSED, "c"),
        (SUCCESS, "a"),
    ]
    _adds_up(scheduler.stats())


def test_a_skipped_signal_gives_its_place_back() -> None:
    """With maxsize=1, ten that are skipped leave room for an eleventh."""
    driver, changed, task = _with_event(maxsize=1)
    driver.start()

    for number in range(10):
        assert changed.fire(number)
        assert not changed.fire("one too many")
        driver.engine.ring(task._arms[0])
        driver.go(number)

    assert [run.event for run in task.execution_hist] == list(range(10))
    assert changed.fire("still")


def test_merged_signals() -> None:
    """With coalesce, what waits in the channel is one signal and one record."""
    driver, changed, task = _with_event(coalesce=True)
    driver.start()
    changed.fire("b")
    changed.fire("c")
    driver.engine.ring(task._arms[0])

    driver.go(1)

    assert [(run.status, run.event) for run in task.execution_hist] == [(MISSED, "c")]
    driver.end("t")
    changed.fire("d")
    driver.engine.ring(task._arms[0])
    driver.go(2)
    assert driver.start() == ["t"]


def test_a_skipped_run_does_not_stand_in_the_way_of_the_next() -> None:
    """The trigger does not take it for one that waits."""
    driver, changed, task = _with_event()
    driver.start()
    changed.fire("b")
    driver.engine.ring(task._arms[0])
    driver.go(1)

    assert task._arms[0]._arm_run is None


def test_signals_of_a_disabled_task_wait() -> None:
    """Disabled while it runs, it skips none: they wait in the channel."""
    driver, changed, task = _with_event()
    driver.start()
    driver.engine.set_enabled(task, False, at(0))
    changed.fire("b")
    driver.engine.ring(task._arms[0])
    driver.go(1)

    assert task.execution_hist == []
    driver.end("t")
    driver.engine.set_enabled(task, True, at(1))
    driver.go(2)
    assert driver.start() == ["t"]


def test_items_of_a_queue() -> None:
    """A queue of the user's as the channel: one record for each item."""
    items: Queue[str] = Queue()
    clock = Clock()
    scheduler = InlineScheduler(clock=clock)

    def work() -> None:
        items.put("b")
        items.put("c")
        scheduler.run_tasks()

    task = scheduler.add_task(Task("t", work, overlap="skip", triggers=[EventTrigger(items)]))
    items.put("a")
    scheduler.run_tasks()

    assert [(run.status, run.event) for run in task.execution_hist] == [
        (MISSED, "b"),
        (MISSED, "c"),
        (SUCCESS, "a"),
    ]


# Requests and triggers of the user's


def test_requests() -> None:
    """Each is recorded at once, with what it was asked for with."""
    scheduler = InlineScheduler()
    task: Task

    def work() -> None:
        for event in (1, 2):
            scheduler.release_task(task.id, event)

    task = scheduler.add_task(Task("t", work, overlap="skip"))
    scheduler.release_task(task.id)
    scheduler.run_tasks()

    assert [(run.status, run.event) for run in task.execution_hist] == [
        (MISSED, 1),
        (MISSED, 2),
        (SUCCESS, None),
    ]


def test_a_custom_trigger() -> None:
    """What says that it is ready while its task runs is skipped, and is asked again."""
    driver = Driver()
    task = driver.add("t", max_instances=1, overlap="skip", triggers=[_Always()])
    (arm,) = driver.engine.custom_arms([task])
    for _ in range(3):
        driver.engine.answered(arm, at(0))
        driver.engine.rearmed(arm, None, at(0))
        driver.start()
        (arm,) = driver.engine.to_ask(poll=True)

    assert [run.status for run in task.execution_hist] == [MISSED, MISSED]
    assert driver.engine.is_polling is False


# Several instances, retries, run_task


def test_as_many_as_max_instances_run() -> None:
    """The third is skipped, and says how many ran."""
    driver = Driver(slots=4)
    task = driver.add("t", max_instances=2, overlap="skip")
    driver.ask(task, task)
    assert driver.start() == ["t", "t"]

    driver.ask(task)
    assert driver.engine.changes[-1].reason == "skipped: max_instances of its task, 2, run already"
    driver.end("t")
    driver.ask(task)

    assert driver.start() == ["t"]
    assert [run.status for run in task.execution_hist] == [MISSED, SUCCESS]


def test_what_was_released_before_waits() -> None:
    """Runs that came while none ran take their turns: nothing is skipped afterwards."""
    driver = Driver(slots=1)
    task = driver.add("t", max_instances=1, overlap="skip")
    driver.ask(task, task)

    assert driver.start() == ["t"]
    driver.end("t")
    assert driver.start() == ["t"]
    assert driver.engine.stats().missed == 0


def test_a_retry_waits_while_another_runs() -> None:
    """A run that has begun is never skipped: it takes its turn for its next attempt."""
    driver = Driver(slots=4)
    task = driver.add("t", max_instances=1, overlap="skip")
    driver.ask(task)
    driver.start()
    driver.end("t", retry_after=5)
    driver.ask(task)
    assert driver.start() == ["t"]

    driver.go(5)
    assert driver.start() == []
    assert driver.waiting() == ["t: max_instances of its task, 1, run already"]
    driver.end("t")
    assert driver.start() == ["t"]
    driver.end("t")

    assert [(run.id, run.status, run.attempts) for run in task.execution_hist] == [
        (1, SUCCESS, 1),
        (0, SUCCESS, 2),
    ]
    _adds_up(driver.engine.stats())


def test_while_a_retry_waits_nothing_runs() -> None:
    """A release in between is no overlap."""
    clock = Clock()
    scheduler = InlineScheduler(clock=clock)
    policy = RetryPolicy(1, delay=10)
    task = scheduler.add_task(Task("t", _fail, overlap="skip", retry_policy=policy))
    scheduler.release_task(task.id)
    scheduler.run_tasks()
    scheduler.release_task(task.id)
    clock.advance(seconds=60)

    assert [run.status for run in task.execution_hist] == [Status.FAILED] * 2


def test_inline_runs_are_in_the_way_and_never_skipped() -> None:
    """run_task runs beside another, as ever; what is released meanwhile finds it running."""
    driver = Driver()
    task = driver.add("t", max_instances=1, overlap="skip")
    driver.ask(task)
    driver.start()
    inline = driver.engine.take_inline(task, None, at(0))
    driver.end("t")

    driver.ask(task)

    assert [run.status for run in task.execution_hist] == [SUCCESS, MISSED]
    driver.running.append(inline)
    driver.end("t")
    driver.ask(task)
    assert driver.start() == ["t"]


def test_a_task_without_history() -> None:
    """It counts and tells, and keeps nothing."""
    driver = Driver()
    task = driver.add("t", max_instances=1, overlap="skip", history=0)
    driver.ask(task)
    driver.start()
    driver.ask(task)

    assert task.execution_hist == []
    assert driver.engine.stats().missed == 1


# The options


def test_the_decorator_passes_the_options() -> None:
    """overlap, lane and resources, as Task has them."""
    scheduler = Scheduler(2, lanes={"quick": 1}, capacity={"db": 2})

    @scheduler.task(overlap="skip", lane="quick", resources={"db": 1.5})
    def work() -> None:
        """Work."""

    (task,) = scheduler.tasks.values()
    assert (task.overlap, task.lane, task.resources) == ("skip", "quick", {"db": 1.5})


def test_the_defaults() -> None:
    """Nothing is skipped and nothing needed."""
    task = Task("t", int)

    assert (task.overlap, task.lane, task.resources) == ("queue", None, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": "drop"}, "overlap must be"),
        ({"lane": "slow"}, "lane must be one of the scheduler's"),
        ({"resources": {"db": 3}}, "resources must fit into the scheduler's capacity"),
    ],
)
def test_the_decorator_refuses(options: dict[str, Any], message: str) -> None:
    """What a Task and a scheduler refuse."""
    scheduler = Scheduler(2, lanes={"quick": 1}, capacity={"db": 2})

    with pytest.raises(ValueError, match=message):
        scheduler.task(**options)(print)
    assert scheduler.tasks == {}


def test_a_listener_is_told_of_a_skip() -> None:
    """As run.missed with its reason, and of no release."""
    scheduler = InlineScheduler()
    told: list[Change] = []
    scheduler.add_listener(told.append)
    task: Task
    task = scheduler.add_task(Task("t", lambda: scheduler.release_task(task.id), overlap="skip"))
    scheduler.release_task(task.id)
    scheduler.run_tasks()

    assert [(change.kind, change.reason) for change in told[1:]] == [
        (ChangeKind.RUN_RELEASED, ""),
        (ChangeKind.RUN_STARTED, ""),
        (ChangeKind.RUN_MISSED, SKIPPED),
        (ChangeKind.RUN_SUCCEEDED, ""),
    ]


class _Always(Trigger):
    """A trigger that is always ready."""

    def is_ready(self) -> bool:
        """Return True."""
        return True

    def reset(self) -> None:
        """Do nothing."""


def _with_event(**settings: Any) -> tuple[Driver, EventTrigger, Task]:
    """Return a task of one instance that one signal has made a run of, which may start."""
    driver = Driver()
    changed = EventTrigger(**settings)
    task = driver.add("t", max_instances=1, overlap="skip", triggers=[changed])
    changed.fire("a")
    driver.engine.ring(task._arms[0])
    driver.go(0)
    return driver, changed, task


def _adds_up(stats: Stats) -> None:
    ended = stats.succeeded + stats.failed + stats.missed + stats.cancelled + stats.dropped
    assert stats.released == ended + stats.pending + stats.running


def _fail() -> None:
    raise ValueError("no")
