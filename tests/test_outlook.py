"""What waits and why, what is to come, and by when a run will have started."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import background_tasks
from background_tasks import (
    InvalidTypeError,
    InvalidValueError,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Task,
    Waiting,
)
from background_tasks.engine import Pending
from background_tasks.outlook import Bound, upcoming, waiting
from background_tasks.run import Run
from background_tasks.task import Execution, Status
from background_tasks.testing import Clock, InlineScheduler
from tests.conftest import Gate
from tests.driver import MANY, NOON, Driver, at, known

NEW_YEAR = datetime(2026, 1, 1, tzinfo=timezone.utc)
NO_SLOT = "no slot is free"


# The bound


@pytest.mark.parametrize(
    ("name", "slots", "expected"),
    [
        pytest.param("a", 1, 45.0, id="5 * 3 + (10 + 10) / 1 + 10"),
        pytest.param("a", 2, 35.0, id="5 * 3 + (10 + 10) / 2 + 10"),
        pytest.param("b", 2, 17.0, id="(4 + 10) / 2 + 10"),
        pytest.param("unknown", 2, 27.0, id="5 * 2 + (4 + 10) / 2 + 10"),
    ],
)
def test_bound(name: str, slots: int, expected: float) -> None:
    """Aging times points, the others' longest runs by slots, and the longest; by hand."""
    tasks = _three()

    found = _bound(tasks, slots=slots).latest_start(_pending(tasks[name]))

    assert found == at(expected)


def test_bound_counts_from_when_it_could_have_started() -> None:
    """Not from now."""
    tasks = _three()

    found = _bound(tasks, now=1000.0, slots=2).latest_start(_pending(tasks["b"], since=100.0))

    assert found == at(117)


def test_a_run_that_lasts_longer_than_any_before() -> None:
    """What it has lasted counts in place of the history."""
    tasks = {"a": known(_task("a"), 4.0), "b": known(_task("b"), 10.0)}
    running = _execution(tasks["a"], Status.RUNNING, started=0.0)
    bound = _bound(tasks, running, now=20.0, slots=2)

    assert bound.latest_start(_pending(tasks["b"])) == at(20 / 2 + 20)
    assert bound.latest_start(_pending(tasks["a"])) == at(10 / 2 + 20)


def test_a_run_that_lasts_less_than_before() -> None:
    """The history counts."""
    tasks = {"a": known(_task("a"), 4.0), "b": known(_task("b"), 10.0)}
    running = _execution(tasks["a"], Status.RUNNING, started=19.0)

    found = _bound(tasks, running, now=20.0, slots=2).latest_start(_pending(tasks["b"]))

    assert found == at(4 / 2 + 10)


@pytest.mark.parametrize("status", [Status.RETRYING, Status.PENDING])
def test_what_does_not_run_lasts_no_time(status: Status) -> None:
    """The wait for a retry is no run, however long ago the first attempt began."""
    tasks = {"a": known(_task("a"), 4.0), "b": known(_task("b"), 10.0)}
    live = _execution(tasks["a"], status, started=None if status is Status.PENDING else 0.0)

    found = _bound(tasks, live, now=500.0, slots=2).latest_start(_pending(tasks["b"]))

    assert found == at(4 / 2 + 10)


def test_a_run_of_a_removed_task() -> None:
    """It takes its slot as long as it lasts."""
    tasks = {"a": known(_task("a"), 4.0)}
    gone = Execution(task_id=99, status=Status.RUNNING, started_at=NOON)

    found = _bound(tasks, gone, now=30.0, slots=2).latest_start(_pending(tasks["a"]))

    assert found == at(30 / 2 + 30)


def test_a_short_run_of_a_task_without_a_history() -> None:
    """Half a second counts as that, not as the longest there is."""
    tasks = {"a": _task("a"), "b": known(_task("b"), 10.0)}
    running = _execution(tasks["a"], Status.RUNNING, started=0.0)

    found = _bound(tasks, running, now=0.5, slots=2).latest_start(_pending(tasks["b"]))

    assert found == at(0.5 / 2 + 10)


@pytest.mark.parametrize(("attempts", "expected"), [(1, 60.0), (2, 4.0)])
def test_the_delay_of_a_retry_is_no_length(attempts: int, expected: float) -> None:
    """Of several attempts what they took; of one what passed by the clock, if that is more."""
    task = _task("a")
    task._history = [
        Execution(attempts=attempts, _cost=(4.0, 0.0, 0.0), started_at=at(0), ended_at=at(60))
    ]

    assert _bound({"a": task}).latest_start(_pending(task)) == at(expected)


def test_without_any_length_there_is_no_bound() -> None:
    """Nobody knows how long a run may take."""
    tasks = {"a": _task("a"), "b": _task("b")}

    assert _bound(tasks).latest_start(_pending(tasks["a"])) is None


def test_unknown_lengths_while_one_runs() -> None:
    """One run that has lasted three seconds says nothing of the others."""
    tasks = {"a": _task("a"), "b": _task("b")}
    running = _execution(tasks["a"], Status.RUNNING, started=0.0)

    assert _bound(tasks, running, now=3.0).latest_start(_pending(tasks["b"])) is None


def test_aging_of_zero() -> None:
    """Priorities are no matter: first come, first served."""
    tasks = _three()

    found = _bound(tasks, slots=2, aging=0.0).latest_start(_pending(tasks["a"]))

    assert found == at((10 + 10) / 2 + 10)


def test_strict_priority() -> None:
    """There is no bound but for the highest, which nothing passes."""
    tasks = _three()
    bound = _bound(tasks, slots=2, aging=math.inf)

    assert bound.latest_start(_pending(tasks["a"])) is None
    assert bound.latest_start(_pending(tasks["b"])) == at((4 + 10) / 2 + 10)


def test_alone() -> None:
    """A task that has only itself to wait for."""
    task = known(_task("a"), 4.0)

    assert _bound({"a": task}).latest_start(_pending(task)) == at(4)


@pytest.mark.parametrize(
    ("aging", "since"),
    [
        pytest.param(5.0, datetime.max.replace(tzinfo=timezone.utc), id="the last instant"),
        pytest.param(1e11, NOON, id="in ten thousand years"),
        pytest.param(1e300, NOON, id="no timedelta"),
    ],
)
def test_beyond_the_calendar(aging: float, since: datetime) -> None:
    """No bound, rather than an error."""
    tasks = _three()
    pending = Pending(_pending(tasks["a"]).run, NO_SLOT, since)

    assert _bound(tasks, aging=aging).latest_start(pending) is None


@pytest.mark.parametrize(
    ("reason", "has_bound"),
    [
        ("", True),
        (NO_SLOT, True),
        ("the free slots are reserved for a lane", False),
        ("it needs 1 of resource 'db', 0 of 1 is free", False),
        ("closed gate: queue 31 (closes at 30, opens at 24)", False),
    ],
)
def test_no_bound_for_what_waits_for_more_than_a_slot(reason: str, has_bound: bool) -> None:
    """Nobody knows when a resource is free or a gate opens."""
    tasks = _three()
    pending = Pending(_pending(tasks["a"]).run, reason, NOON)

    assert (_bound(tasks).latest_start(pending) is not None) is has_bound


def test_no_bound_for_what_is_behind_another_run() -> None:
    """Its own wait has not begun."""
    tasks = _three()
    pending = Pending(_pending(tasks["a"]).run, "", None)

    assert _bound(tasks).latest_start(pending) is None


# The entries


def test_waiting_says_what_the_run_is() -> None:
    """Every field, and the obstacle to all in place of the reason."""
    task = known(_task("a"), 4.0)
    task._id = 7
    execution = Execution(id=3, task_id=7, released_at=at(2))
    pending = Pending(Run(task, None, execution), NO_SLOT, at(5))
    entry = Waiting(
        run_id=3,
        task_id=7,
        task_name="a",
        priority=0,
        released_at=at(2),
        reason=NO_SLOT,
        latest_start=at(9),
    )

    assert waiting([pending], _bound({"a": task}), "") == [entry]
    (stopped,) = waiting([pending], None, "stopped")
    assert (stopped.reason, stopped.latest_start) == ("stopped", None)


def test_upcoming_merges_what_is_due() -> None:
    """Soonest first, a retry once, a disabled task with its own reason; *n* cuts."""
    timer = PeriodicTrigger(10)
    timer.arm(NOON)
    fast, off = _task("fast"), _task("off", enabled=False)
    first = [(at(15), off, None), (at(10), fast, timer)]

    found = upcoming(first, 3, "stopped")

    assert [(each.at, each.task_name, each.is_retry, each.reason) for each in found] == [
        (at(10), "fast", False, "stopped"),
        (at(15), "off", True, "disabled"),
        (at(20), "fast", False, "stopped"),
    ]
    assert [each.task_id for each in found] == [fast.id, off.id, fast.id]


def test_upcoming_at_one_instant() -> None:
    """In the order of the first due times: a task is nothing to sort by."""
    first = [(at(10), _task(name), None) for name in ("b", "c", "a")]

    assert [each.task_name for each in upcoming(first, 3, "")] == ["b", "c", "a"]


def test_upcoming_with_one_of_each_task() -> None:
    """The first due time of each, be it a retry's or a trigger's."""
    a, b = _task("a"), _task("b")
    timer = PeriodicTrigger(10)
    first = [(at(1), a, timer), (at(2), b, None), (at(3), a, None), (at(4), b, timer)]

    found = upcoming(first, 9, "", first_only=True)

    assert [(each.at, each.task_name, each.is_retry) for each in found] == [
        (at(1), "a", False),
        (at(2), "b", True),
    ]


# Scheduler.ready


def test_ready_of_nothing() -> None:
    """An empty list, whatever the state."""
    assert Scheduler(1).ready() == []


def test_ready_names_each_reason() -> None:
    """With nothing but slots: no slot, another run of its task, its own instance, disabled."""
    scheduler, seen = _spying()
    scheduler.start()

    _run_spied(scheduler, *_tasks(scheduler, "a", "b", "b", off=True))

    assert [(each.task_name, each.reason) for each in seen] == [
        ("a", NO_SLOT),
        ("b", NO_SLOT),
        ("b", "another run of its task is first"),
        ("off", "its task is disabled"),
        ("spy", "max_instances of its task, 1, run already"),
    ]


def test_ready_of_lanes_resources_and_gates() -> None:
    """Each with its figures, in the order of their keys."""
    clock = Clock()
    load = [0.0]
    gate = background_tasks.Gate(lambda: load[0], name="queue", close=30, reopen=24)
    scheduler = InlineScheduler(
        4, clock=clock, lanes={"quick": 1}, capacity={"db": 2}, gates=[gate], ungated_priority=5
    )
    scheduler.start()
    seen: list[tuple[str, str]] = []

    def spy() -> None:
        for name, settings in (
            ("plain", {}),
            ("db", {"resources": {"db": 1.5}}),
            ("urgent", {"priority": 5}),
        ):
            task = scheduler.add_task(Task(name, str, **settings))
            scheduler.release_task(task.id)
        seen.extend((each.task_name, each.reason) for each in scheduler.ready())

    def outer() -> None:
        load[0] = 31.0
        clock.advance(seconds=1)

    spied = scheduler.add_task(Task("spy", spy, resources={"db": 1}, priority=9))
    outer_task = scheduler.add_task(Task("outer", outer, priority=9))
    scheduler.release_task(outer_task.id)
    inner = scheduler.add_task(
        Task("timer", lambda: scheduler.release_task(spied.id), triggers=[OneTimeTrigger(1)])
    )
    inner.priority = 9
    clock.advance(seconds=2)

    assert seen == [
        ("urgent", ""),
        ("plain", "closed gate: queue 31 (closes at 30, opens at 24)"),
        ("db", "it needs 1.5 of resource 'db', 1 of 2 is free"),
    ]


@pytest.mark.parametrize(("n", "names"), [(0, []), (1, ["a"]), (3, ["a", "b", "b"])])
def test_ready_cuts_at_n(n: int, names: list[str]) -> None:
    """The first so many, also past the heads of the tasks."""
    scheduler = Scheduler(1)
    for task in _tasks(scheduler, "a", "b", "b", "b"):
        scheduler.release_task(task.id)

    assert [each.task_name for each in scheduler.ready(n)] == names
    assert len(scheduler.ready(10**30)) == 4


def test_ready_refuses() -> None:
    """A negative number, and what is no whole number."""
    scheduler = Scheduler(1)

    with pytest.raises(InvalidValueError, match=r"^n must be at least 0, got -1$"):
        scheduler.ready(-1)
    for wrong in (True, 1.0, None):
        with pytest.raises(InvalidTypeError, match=r"^n must be an int, got "):
            scheduler.ready(wrong)  # type: ignore[arg-type] # on purpose


def test_ready_is_in_the_order_of_starts() -> None:
    """By priority and wait, not by release."""
    clock = Clock()
    scheduler = InlineScheduler(1, clock=clock, aging=5.0)
    started: list[str] = []
    for name, priority, wait in (("low", 0, 0), ("high", 3, 4), ("late", 0, 4), ("top", 4, 8)):
        clock.jump_to(NEW_YEAR + timedelta(seconds=wait))
        task = Task(name, started.append, args=[name], priority=priority)
        scheduler.release_task(scheduler.add_task(task).id)

    expected = [each.task_name for each in scheduler.ready()]
    scheduler.run_tasks()

    assert expected == started == ["top", "high", "low", "late"]


def test_ready_while_not_started_and_stopped() -> None:
    """The obstacle to all, and no bound."""
    scheduler = Scheduler(1)
    (task,) = _tasks(scheduler, "a")
    known(task, 4.0)
    scheduler.release_task(task.id)

    assert [(each.reason, each.latest_start) for each in scheduler.ready()] == [
        ("not started", None)
    ]
    scheduler.stop()
    assert [(each.reason, each.latest_start) for each in scheduler.ready()] == [("stopped", None)]


def test_retries_are_not_ready() -> None:
    """They are to come, not waiting for their turn, until they are due."""
    clock = Clock()
    scheduler = InlineScheduler(1, clock=clock)
    task = Task("t", _fail, retry_policy=RetryPolicy(1, delay=10))
    scheduler.release_task(scheduler.add_task(task).id)
    scheduler.run_tasks()

    assert scheduler.ready() == []
    assert [each.is_retry for each in scheduler.upcoming()] == [True]


def test_latest_start_of_a_scheduler(gate: Gate) -> None:
    """Slots that are reserved for lanes are no help to the bound: here it has one of two."""
    with Scheduler(2, lanes={"quick": 1}, aging=5.0) as scheduler:
        busy = known(scheduler.add_task(Task("busy", gate)), 1000.0)
        scheduler.release_task(busy.id)
        gate.wait_entered()
        quick = scheduler.add_task(Task("quick", gate, lane="quick"))
        scheduler.release_task(quick.id)
        gate.wait_entered()
        known(quick, 400.0)
        task = known(scheduler.add_task(Task("t", int)), 4.0)
        scheduler.release_task(task.id)

        (found,) = scheduler.ready()
        gate.leave.set()

    assert found.released_at is not None
    assert found.reason == NO_SLOT
    assert found.latest_start == found.released_at + timedelta(seconds=1000 + 400 + 1000)


def test_looking_changes_nothing() -> None:
    """What was looked at starts as it would have."""
    driver = Driver(slots=2, capacity={"db": 2}, max_defer=10.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    driver.start()
    driver.go(9.5)
    driver.ask(small)

    assert driver.waiting() == driver.waiting()
    assert driver.start() == ["small"]


# That it holds


@pytest.mark.parametrize("seed", range(30))
def test_latest_start_holds(seed: int) -> None:
    """In systems made up at random, in which each task always takes as long as ever."""
    system = _Simulation(seed)

    for _ in range(150):
        system.step()

    assert system.late == []
    assert system.promised > 0


class _Simulation:
    """An engine whose runs take the time that is known of them, and what was promised of each."""

    def __init__(self, seed: int) -> None:
        draw = self.draw = random.Random(seed)
        slots = draw.randint(1, 4)
        lanes = {"quick": 1} if slots > 1 and draw.random() < 0.3 else {}
        self.aging = draw.choice([0.0, 1.0, 5.0])
        self.slots = slots - sum(lanes.values())
        self.driver = Driver(slots=slots, aging=self.aging, lanes=lanes)
        self.lengths: dict[int, float] = {}
        for _ in range(draw.randint(2, 6)):
            length = draw.choice([0.5, 1.0, 3.0, 10.0])
            task = self.driver.add(
                "t",
                priority=draw.randint(0, 3),
                max_instances=draw.randint(1, 2),
                lane=draw.choice([None, *lanes]),
            )
            self.lengths[known(task, length).id] = length
        self.ends: list[tuple[float, Run]] = []
        self.promises: dict[int, datetime] = {}
        self.promised = 0
        self.late: list[tuple[int, datetime]] = []

    def step(self) -> None:
        """Let some runs be asked for or the next one end; start what may; note the promises."""
        driver = self.driver
        self.ends.sort(key=lambda each: each[0])
        if self.ends and self.draw.random() < 0.6:
            now, run = self.ends.pop(0)
            driver.now = now
            driver.engine.release(at(now), MANY)
            driver.running.remove(run)
            driver.running.insert(0, run)
            driver.end("t", cost=self.lengths[run.task.id])
        else:
            soon = self.ends[0][0] if self.ends else driver.now + 1
            driver.go(min(soon, driver.now + self.draw.choice([0.0, 0.25, 1.0])))
            driver.ask(*self.draw.choices(list(driver.engine.tasks.values()), k=2))
        self.note()
        before = len(driver.running)
        driver.start()
        for run in driver.running[before:]:
            self.ends.append((driver.now + self.lengths[run.task.id], run))
            promise = self.promises.pop(run.execution.id, None)  # or it was not first before
            if promise is not None and at(driver.now) > promise:
                self.late.append((run.execution.id, promise))
        self.note()

    def note(self) -> None:
        """Note the earliest that is ever said of each run that waits."""
        driver = self.driver
        engine = driver.engine
        running = [run.execution for run in engine.live.values()]
        now = at(driver.now)
        bound = Bound(engine.tasks.values(), running, now=now, slots=self.slots, aging=self.aging)
        for each in waiting(engine.waiting(MANY, now), bound, ""):
            if each.latest_start is not None:
                self.promised += 1
                before = self.promises.get(each.run_id, each.latest_start)
                self.promises[each.run_id] = min(before, each.latest_start)


def _three() -> dict[str, Task]:
    """Return a task that takes 4 s, one that takes 10 s and one that nobody knows."""
    return {
        "a": known(_task("a", _id=0), 2.0, 4.0, 3.0),
        "b": known(_task("b", _id=1, priority=3), 10.0),
        "unknown": _task("unknown", _id=2, priority=1),
    }


def _task(name: str, *, _id: int | None = None, **settings: Any) -> Task:
    task = Task(name, int, **settings)
    task._id = ord(name[0]) if _id is None else _id
    return task


def _execution(task: Task, status: Status, *, started: float | None) -> Execution:
    return Execution(
        task_id=task.id, status=status, started_at=None if started is None else at(started)
    )


def _bound(
    tasks: dict[str, Task],
    *running: Execution,
    now: float = 0.0,
    slots: int = 1,
    aging: float = 5.0,
) -> Bound:
    return Bound(tasks.values(), running, now=at(now), slots=slots, aging=aging)


def _pending(task: Task, since: float = 0.0) -> Pending:
    return Pending(Run(task, None, Execution(task_id=task.id)), NO_SLOT, at(since))


def _tasks(scheduler: Scheduler, *names: str, off: bool = False) -> list[Task]:
    """Add a task for each name; return it as often as the name is given."""
    tasks = {name: Task(name, str, enabled=True) for name in names}
    for task in tasks.values():
        scheduler.add_task(task)
    found = [tasks[name] for name in names]
    if off:
        found.append(scheduler.add_task(Task("off", str, enabled=False)))
    return found


def _spying() -> tuple[InlineScheduler, list[Waiting]]:
    """Return a scheduler of one slot and where its task "spy" puts what it sees waiting."""
    scheduler = InlineScheduler(1, aging=0.0)
    seen: list[Waiting] = []

    def spy() -> None:
        if not seen:
            seen.extend(scheduler.ready())

    scheduler.add_task(Task("spy", spy))
    return scheduler, seen


def _run_spied(scheduler: InlineScheduler, *tasks: Task) -> None:
    """Let "spy" look while a run of each of *tasks* and a second one of its own wait."""
    for task_id in (0, *(task.id for task in tasks), 0):
        scheduler.release_task(task_id)
    scheduler.run_tasks()


def _fail() -> None:
    raise ValueError("no")
