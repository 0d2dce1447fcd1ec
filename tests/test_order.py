"""The real scheduler with real threads starts runs in the order that its rules give.

Time stands still until a test moves it, and each run stays until it is let go, so nothing depends
on how fast threads are: first orders worked out by hand, then whole systems made up at random,
of which the pure engine says in virtual time what starts when.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from background_tasks import (
    Change,
    ChangeKind,
    EventTrigger,
    Scheduler,
    Task,
    current_execution,
)
from background_tasks.primitives import Primitives
from tests.conftest import Gate, Watch
from tests.simulation import KINDS, Deed, Step, System, random_system, script

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_SYSTEMS = 4  # of each kind


class Hands:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.seconds = 0

    def primitives(self) -> Primitives:
        """Return real primitives with these clocks."""
        return Primitives(
            utc_now=lambda: _START + timedelta(seconds=self.seconds),
            monotonic=lambda: float(self.seconds),
        )


# Orders worked out by hand


class Queue:
    """One slot, taken by a task that stays until the others wait, and what the others do."""

    def __init__(self, gate: Gate, aging: float) -> None:
        """Take the slot at second 0."""
        self.hands = Hands()
        self.scheduler = Scheduler(1, aging=aging, _primitives=self.hands.primitives())
        self.order: list[str] = []
        self.tasks: dict[str, Task] = {}
        self.triggers: dict[str, EventTrigger] = {}
        self._gate = gate
        self.scheduler.start()
        self.scheduler.release_task(self.scheduler.add_task(Task("gate", gate)).id)
        gate.wait_entered()

    def add(self, name: str, priority: int) -> None:
        """Add a task with an EventTrigger that notes its name when it runs."""
        self.triggers[name] = EventTrigger()
        self.tasks[name] = self.scheduler.add_task(
            Task(
                name,
                lambda: self.order.append(name),
                triggers=[self.triggers[name]],
                priority=priority,
            )
        )

    def do(self, second: int, name: str, what: str | int) -> None:
        """At that second fire, enable or disable a task, or set its priority."""
        self.hands.seconds = second
        if what == "fire":
            assert self.triggers[name].fire()
        elif isinstance(what, int):
            self.tasks[name].priority = what
        else:
            self.tasks[name].enabled = what == "enable"

    def run(self, second: int) -> str:
        """Let all that wait run at that second; return the names in order."""
        self.hands.seconds = second
        self._gate.leave.set()
        assert self.scheduler.wait_idle()
        assert self.scheduler.stop()
        return " ".join(self.order)


_DEEDS = list[tuple[int, str, str | int]]


@pytest.mark.parametrize(
    ("aging", "deeds", "order"),
    [
        pytest.param(5, [(0, "low", "fire"), (4, "high", "fire")], "high low", id="0 and 4 - 5"),
        pytest.param(5, [(0, "low", "fire"), (5, "high", "fire")], "low high", id="0 and 5 - 5"),
        pytest.param(5, [(0, "low", "fire"), (6, "high", "fire")], "low high", id="0 and 6 - 5"),
        pytest.param(
            5,
            [(1, "high", "fire"), (2, "low", "fire"), (3, "top", "fire"), (8, "top", "fire")],
            "top high low top",
            id="3 - 15, 1 - 5, 2, and 20 - 15 after the first of its task",
        ),
        pytest.param(
            0,
            [(1, "low", "fire"), (2, "top", "fire"), (3, "high", "fire")],
            "low top high",
            id="first come, first served",
        ),
        pytest.param(
            math.inf,
            [(1, "low", "fire"), (2, "high", "fire"), (3, "top", "fire"), (4, "high", "fire")],
            "top high high low",
            id="strictly by priority",
        ),
        pytest.param(
            math.inf,
            [(1, "low", "fire"), (2, "other", "fire"), (3, "low", "fire")],
            "low other low",
            id="strictly, by turns among equals",
        ),
        pytest.param(
            5,
            [(0, "low", "fire"), (4, "high", "fire"), (9, "low", 2)],
            "low high",
            id="raised while it waits: 0 - 10 and 4 - 5",
        ),
        pytest.param(
            5,
            [(1, "high", "fire"), (3, "low", "fire"), (9, "high", -1)],
            "low high",
            id="lowered while it waits: 1 + 5 and 3",
        ),
        pytest.param(
            5,
            [(0, "low", "fire"), (1, "low", "fire"), (2, "low", "fire"), (9, "other", "fire")],
            "low other low low",
            id="one run behind a flood: 0, 9, 20, 20",
        ),
        pytest.param(
            5,
            [(at, name, "fire") for name in ("low", "other") for at in (1, 2, 3)],
            "low other low other low other",
            id="two floods",
        ),
        pytest.param(
            5,
            [(at, "low", "fire") for at in range(6)] + [(9, "high", "fire"), (9, "high", "fire")],
            "low high high low low low low low",
            id="a flood and one of higher priority: 0, 9 - 5, 20 - 5, 20",
        ),
        pytest.param(
            5,
            [(0, "low", "fire"), (1, "other", "fire"), (2, "low", "no"), (3, "low", "enable")],
            "other low",
            id="counts anew once it is enabled again: 3 and 1",
        ),
        pytest.param(
            5,
            [(0, "low", "no"), (1, "low", "fire"), (2, "other", "fire"), (3, "low", "enable")],
            "other low",
            id="an event that came while it was disabled: 3 and 2",
        ),
        pytest.param(
            5,
            [(10, "low", "fire"), (2, "high", "fire"), (1, "other", "fire")],
            "high low other",
            id="the clock was set back: 10, 10 - 5, 10",
        ),
    ],
)
def test_order_by_hand(gate: Gate, aging: float, deeds: _DEEDS, order: str) -> None:
    """Least stamp - aging * priority first; the slot is free at second 20."""
    queue = Queue(gate, aging)
    for name, priority in {"low": 0, "other": 0, "high": 1, "top": 3}.items():
        queue.add(name, priority)

    for second, name, what in deeds:
        queue.do(second, name, what)

    assert queue.run(20) == order


# Whole systems, as the engine says


class Live:
    """A system of the simulation on the real scheduler."""

    def __init__(self, system: System) -> None:
        """Start it, with nothing to do."""
        self.hands = Hands()
        self.scheduler = Scheduler(
            system.slots, aging=system.aging, _primitives=self.hands.primitives()
        )
        self.watch = Watch(self.scheduler)
        self._leave: dict[int, threading.Event] = {}  # of each run, by its ID
        self._leaving = threading.Lock()
        self.triggers = [EventTrigger() if plan.has_event else None for plan in system.tasks]
        self.tasks = [
            self.scheduler.add_task(
                Task(
                    "task",
                    self._stay,
                    triggers=[trigger] if trigger else [],
                    priority=plan.priority,
                    max_instances=plan.max_instances,
                )
            )
            for plan, trigger in zip(system.tasks, self.triggers, strict=True)
        ]
        self.scheduler.start()

    def _stay(self) -> None:
        execution = current_execution()
        assert execution is not None
        assert self._end_of(execution.id).wait(10)

    def _end_of(self, run_id: int) -> threading.Event:
        with self._leaving:
            return self._leave.setdefault(run_id, threading.Event())

    def follow(self, steps: list[Step]) -> None:
        """Do each step, and see that the same runs start as in the simulation."""
        expected: list[int] = []
        ended = 0
        for step in steps:
            self.hands.seconds = step.at
            if isinstance(step.what, Deed):
                self._do(step.what)
            else:
                ended += 1
                self._end_of(step.what).set()
                self.watch.wait_for(ChangeKind.RUN_SUCCEEDED, ended)
            expected += step.starts
            self.watch.wait_for(ChangeKind.RUN_STARTED, len(expected))
            assert self.starts() == expected

    def _do(self, deed: Deed) -> None:
        task, trigger = self.tasks[deed.task], self.triggers[deed.task]
        if deed.what == "priority":
            task.priority = deed.value
        elif deed.what == "enable":
            task.enabled = bool(deed.value)
        elif trigger is None:
            assert task.id is not None
            self.scheduler.release_task(task.id)
        else:
            assert trigger.fire()

    def starts(self) -> list[int]:
        """Return the IDs of the runs that have started, in order."""
        changes = self.watch.changes
        return [_run_of(each) for each in changes if each.kind is ChangeKind.RUN_STARTED]

    def stop(self) -> None:
        """Let everybody go."""
        with self._leaving:
            for leave in self._leave.values():
                leave.set()
        assert self.scheduler.stop()


def _run_of(change: Change) -> int:
    assert change.execution is not None
    return change.execution.id


def _system(seed: int) -> System:
    """Return the system of that number, without failures."""
    system = random_system(seed)
    return replace(system, tasks=tuple(replace(task, retry_after=None) for task in system.tasks))


@pytest.fixture
def live() -> Iterator[Callable[[System], Live]]:
    """Return what makes a system live; it is stopped after the test."""
    made: list[Live] = []

    def make(system: System) -> Live:
        made.append(Live(system))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("number", range(_SYSTEMS))
def test_order_of_the_engine(live: Callable[[System], Live], kind: int, number: int) -> None:
    """Floods, priorities that change, tasks that are disabled: the same runs start at each step."""
    seed = kind + number * len(KINDS)
    system = _system(seed)

    live(system).follow(script(system, seed=seed))
