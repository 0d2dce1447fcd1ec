"""No run waits for ever: how long it may wait at most, in thousands of systems made up at random.

The bound, with N slots and each task's runs of one length::

    aging * (highest - lowest) + sum of the other tasks' lengths / N + longest length

The wait counts from when the run was the first of its own task's queue and could have run. Where
priorities are changed meanwhile, *highest* is the highest that any task had while the run waited
and *lowest* the lowest that its own had. Where no two runs of one task run at once, the longest
length is not needed.

Why: from ``aging * (highest - lowest)`` seconds into the wait on, what becomes ready has a later
key. So at most one run of each other task, the one that is ready then, still goes first, and N
runs at most are under way, each with no more than the longest length to go. No slot is free
meanwhile. A task that does not overlap has one or the other: a run under way or one that is ready.

BOUND_SYSTEMS is for more systems than the suite has time for.
"""

from __future__ import annotations

import os

import pytest

from background_tasks.engine import Engine
from tests.simulation import (
    KINDS,
    Deed,
    Findings,
    StampedAtRelease,
    System,
    TaskPlan,
    Wait,
    random_system,
    simulate,
    study,
)

_SYSTEMS = int(os.environ.get("BOUND_SYSTEMS", "3000"))
_FEW = 60  # of each kind are more than enough to find what the re-stamp is good for


@pytest.fixture(scope="module")
def found() -> Findings:
    """Return what the systems came to with the engine as it is."""
    return study(range(_SYSTEMS))


def test_no_run_waits_longer_than_promised(found: Findings) -> None:
    """Whatever the load, the lengths, the priorities and their changes."""
    assert found.systems == _SYSTEMS
    assert found.broken[:1] == []


def test_without_overlap_the_longest_run_does_not_count(found: Findings) -> None:
    """The bound is shorter by that where no task has two runs at once."""
    assert found.broken_without_overlap[:1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_reached(found: Findings, kind: str) -> None:
    """Or nearly, by each kind of system: an engine that is a little worse would be found out."""
    assert found.worst[kind] > 0.9
    assert found.worst_without_overlap[kind] > 0.9


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_without_the_re_stamp_runs_wait_longer(kind: int) -> None:
    """With the time of release for a stamp, each kind of system has a run that breaks the bound."""
    seeds = range(kind, _FEW * len(KINDS), len(KINDS))

    assert study(seeds, StampedAtRelease).broken


def test_a_backlog_of_another_task() -> None:
    """The counter-example: 20 events at once, and a run of another task that comes later.

    With the re-stamp it goes next. Without it every event goes first, since all are older.
    """
    flood, mouse = TaskPlan(length=2, has_event=True), TaskPlan(length=1)
    events = (Deed(0, "release", 0),) * 20
    system = System(
        name="backlog",
        slots=1,
        aging=5,
        tasks=(flood, mouse),
        deeds=(*events, Deed(1, "release", 1)),
    )

    (wait,) = [wait for wait in simulate(system) if wait.task == 1]
    (longer,) = [wait for wait in simulate(system, StampedAtRelease) if wait.task == 1]

    assert (wait.since, wait.until, wait.bound(system)) == (1, 2, 4)
    assert (longer.since, longer.until, longer.bound(system)) == (1, 40, 4)


# The simulation itself


def test_the_same_number_gives_the_same_system_and_the_same_waits() -> None:
    """So that what was found can be found again."""
    one, other = random_system(4), random_system(4)

    assert one == other
    assert simulate(one, seed=4) == simulate(other, seed=4)


def test_a_flood_is_three_times_what_the_slots_can_do() -> None:
    """The work that its events ask for, in the forty seconds in which they come."""
    flood = random_system(KINDS.index("flood"))

    events = [deed for deed in flood.deeds if deed.what == "release"]
    work = sum(
        flood.tasks[deed.task].length for deed in events if flood.tasks[deed.task].length > 1
    )

    assert 2.9 < work / flood.slots / 40 < 3.1


_LONG = TaskPlan(length=9)
_SHORT = TaskPlan(length=3)


@pytest.mark.parametrize(
    ("tasks", "deeds", "waits"),
    [
        pytest.param(
            (_LONG, _SHORT),
            [Deed(0, "release", 0), Deed(2, "release", 1)],
            [Wait(1, since=2, until=9, lowest=0, highest=0)],
            id="for the slot",
        ),
        pytest.param(
            (_LONG,),
            [Deed(0, "release", 0), Deed(2, "release", 0)],
            [],
            id="behind its own task is no wait",
        ),
        pytest.param(
            (_LONG, TaskPlan(length=3, retry_after=4)),
            [Deed(0, "release", 1), Deed(5, "release", 0)],
            [Wait(1, since=7, until=14, lowest=0, highest=0)],
            id="of a retry",
        ),
        pytest.param(
            (_LONG, TaskPlan(length=3, retry_after=0), _SHORT),
            [Deed(0, "release", 1), Deed(1, "release", 2)],
            [
                Wait(2, since=1, until=3, lowest=0, highest=0),
                Wait(1, since=3, until=6, lowest=0, highest=0),
            ],
            id="of a retry without delay",
        ),
        pytest.param(
            (_LONG, _SHORT),
            [
                Deed(0, "release", 0),
                Deed(1, "priority", 1, 8),
                Deed(2, "release", 1),
                Deed(3, "priority", 1, -2),
                Deed(4, "priority", 0, 6),
                Deed(5, "priority", 1, 5),
                Deed(6, "priority", 0, 1),
            ],
            [Wait(1, since=2, until=9, lowest=-2, highest=8)],
            id="while priorities change",
        ),
        pytest.param(
            (_LONG, _SHORT),
            [
                Deed(0, "release", 0),
                Deed(2, "release", 1),
                Deed(4, "enable", 1, 0),
                Deed(6, "enable", 1, 1),
            ],
            [
                Wait(1, since=2, until=4, lowest=0, highest=0),
                Wait(1, since=6, until=9, lowest=0, highest=0),
            ],
            id="while it may run",
        ),
        pytest.param(
            (_LONG, TaskPlan(length=3, has_event=True)),
            [
                Deed(0, "release", 0),
                Deed(1, "enable", 1, 0),
                Deed(2, "release", 1),
                Deed(6, "enable", 1, 1),
            ],
            [Wait(1, since=6, until=9, lowest=0, highest=0)],
            id="of an event that came while it was disabled",
        ),
    ],
)
def test_what_is_a_wait(tasks: tuple[TaskPlan, ...], deeds: list[Deed], waits: list[Wait]) -> None:
    """From when a run was first of its queue and could have run, until it did."""
    system = System(name="by hand", slots=1, aging=5, tasks=tasks, deeds=tuple(deeds))

    assert simulate(system, Engine) == waits


def test_a_bound_by_hand() -> None:
    """In seconds times slots: 2 * 5 * (3 + 2), the other two tasks, twice the longest."""
    tasks = (TaskPlan(length=3), TaskPlan(length=9), TaskPlan(length=4))
    system = System(name="by hand", slots=2, aging=5, tasks=tasks, deeds=())
    wait = Wait(task=0, since=10, until=17, lowest=-2, highest=3)

    assert wait.in_slots(system) == 14
    assert wait.bound_without_overlap(system) == 50 + 13
    assert wait.bound(system) == 50 + 13 + 18
