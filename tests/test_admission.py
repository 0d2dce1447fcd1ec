"""What may run now: lanes, declared resources and gates, with the time passed by hand."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from background_tasks import InvalidTypeError, InvalidValueError, Scheduler, Task
from background_tasks.admission import Admission, Rules
from background_tasks.changes import ChangeKind
from background_tasks.engine import Engine
from background_tasks.task import Demand, Status
from tests.conftest import Gate
from tests.driver import Driver, at, reading

GATE = "closed gate: queue 31 (closes at 30, opens at 24)"
NO_SLOT = "no slot is free"
RESERVED = "the free slots are reserved for a lane"


# What is refused


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        pytest.param(
            {"lanes": [("quick", 1)]},
            InvalidTypeError,
            "lanes must be a mapping of names to numbers, got [('quick', 1)]",
            id="lanes in a list",
        ),
        pytest.param(
            {"lanes": {1: 1}},
            InvalidTypeError,
            "each name in lanes must be a str, got 1",
            id="lane without a name",
        ),
        pytest.param(
            {"lanes": {"": 1}},
            InvalidValueError,
            "each name in lanes must be 1 to 200 printable characters, got ''",
            id="empty name",
        ),
        pytest.param(
            {"lanes": {"quick": 0}},
            InvalidValueError,
            "lanes['quick'] must be above 0 and finite, got 0",
            id="lane of no slot",
        ),
        pytest.param(
            {"lanes": {"quick": 1.5}},
            InvalidTypeError,
            "lanes['quick'] must be an int, got 1.5",
            id="half a slot",
        ),
        pytest.param(
            {"lanes": {"quick": True}},
            InvalidTypeError,
            "lanes['quick'] must be a number, got True",
            id="bool as slots",
        ),
        pytest.param(
            {"capacity": None},
            InvalidTypeError,
            "capacity must be a mapping of names to numbers, got None",
            id="no capacity",
        ),
        pytest.param(
            {"capacity": {"db": -1}},
            InvalidValueError,
            "capacity['db'] must be above 0 and finite, got -1",
            id="less than nothing",
        ),
        pytest.param(
            {"capacity": {"db": math.inf}},
            InvalidValueError,
            "capacity['db'] must be above 0 and finite, got inf",
            id="infinite",
        ),
        pytest.param(
            {"capacity": {"db": math.nan}},
            InvalidValueError,
            "capacity['db'] must be a number, got nan",
            id="not a number",
        ),
        pytest.param(
            {"capacity": {"db": "2"}},
            InvalidTypeError,
            "capacity['db'] must be a number, got '2'",
            id="text",
        ),
        pytest.param(
            {"ungated_priority": 1.0},
            InvalidTypeError,
            "ungated_priority must be an int, got 1.0",
            id="float as priority",
        ),
        pytest.param(
            {"ungated_priority": 10**9 + 1},
            InvalidValueError,
            "ungated_priority must lie within ±1000000000, got 1000000001",
            id="priority out of bounds",
        ),
    ],
)
def test_refused_rules(rules: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each with the rule and what was given instead."""
    with pytest.raises(error) as caught:
        Rules(**rules)

    assert str(caught.value) == message


def test_lanes_must_leave_a_slot() -> None:
    """One at least, for the tasks that name no lane."""
    rules = Rules(lanes={"quick": 1, "mail": 1})

    rules.check_slots(3)
    with pytest.raises(InvalidValueError) as caught:
        rules.check_slots(2)

    assert str(caught.value) == (
        "lanes must leave one of the 2 slots to tasks without a lane, got {'mail': 1, 'quick': 1}"
    )


def test_a_scheduler_refuses_lanes_that_leave_no_slot() -> None:
    """When it is made."""
    with pytest.raises(InvalidValueError, match=r"^lanes must leave one of the 2 slots"):
        Scheduler(2, lanes={"quick": 1, "mail": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"lane": "slow"},
            "lane must be one of the scheduler's, ['mail', 'quick'], got 'slow'",
            id="unknown lane",
        ),
        pytest.param(
            {"resources": {"gpu": 1}},
            "resources must fit into the scheduler's capacity, {'db': 2, 'mem_mb': 4000},"
            " got 'gpu': 1",
            id="unknown resource",
        ),
        pytest.param(
            {"resources": {"db": 1, "mem_mb": 4000.5}},
            "resources must fit into the scheduler's capacity, {'db': 2, 'mem_mb': 4000},"
            " got 'mem_mb': 4000.5",
            id="more than there is",
        ),
    ],
)
def test_task_that_could_never_start(settings: dict[str, Any], message: str) -> None:
    """It is refused when it is added, and may be added elsewhere."""
    scheduler = Scheduler(4, lanes={"quick": 1, "mail": 1}, capacity={"db": 2, "mem_mb": 4000})
    task = Task("t", int, **settings)

    with pytest.raises(InvalidValueError) as caught:
        scheduler.add_task(task)

    assert str(caught.value) == message
    assert scheduler.tasks == {}
    elsewhere = Scheduler(2, lanes={"slow": 1}, capacity={"gpu": 1, "db": 1, "mem_mb": 5000})
    assert elsewhere.add_task(task) is task


def test_task_that_needs_all_there_is() -> None:
    """It is taken: the whole capacity fits."""
    rules = Rules(capacity={"db": 2, "mem_mb": 0.3})

    rules.check_task(Task("t", int, resources={"db": 2, "mem_mb": 0.3}))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lane": ""}, ValueError, "lane must be 1 to 200 printable characters, got ''"),
        ({"lane": 3}, TypeError, "lane must be a str, got 3"),
        (
            {"resources": ["db"]},
            TypeError,
            "resources must be a mapping of names to numbers, got ['db']",
        ),
        (
            {"resources": {"db": 0}},
            ValueError,
            "resources['db'] must be above 0 and finite, got 0",
        ),
        ({"overlap": "drop"}, ValueError, """overlap must be "queue" or "skip", got 'drop'"""),
        ({"overlap": None}, TypeError, "overlap must be a str, got None"),
    ],
)
def test_refused_demands(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    """A task says at once what it cannot be given."""
    with pytest.raises(error) as caught:
        Task("t", int, **settings)

    assert str(caught.value) == message


def test_rules_keep_copies() -> None:
    """What is done to the mappings later changes nothing."""
    lanes, capacity = {"quick": 1}, {"db": 2.0}

    rules = Rules(lanes=lanes, capacity=capacity)
    lanes["quick"], capacity["db"] = 7, 7.0

    assert (rules.lanes, rules.capacity) == ({"quick": 1}, {"db": 2.0})


@pytest.mark.parametrize(
    ("rules", "is_trivial"),
    [
        ({}, True),
        ({"ungated_priority": 5, "max_defer": 1.0}, True),
        ({"lanes": {"quick": 1}}, False),
        ({"capacity": {"db": 1}}, False),
        ({"has_gates": True}, False),
    ],
)
def test_trivial_rules(rules: dict[str, Any], is_trivial: bool) -> None:
    """Without lanes, resources and gates there is nothing to obey."""
    assert Rules(**rules).is_trivial is is_trivial


def test_what_a_task_says_of_its_demand() -> None:
    """The lane and a dict of its own, whose changes change nothing."""
    task = Task("t", int, lane="quick", resources={"mem_mb": 10, "db": 1})

    task.resources["db"] = 7

    assert task.lane == "quick"
    assert task.resources == {"db": 1, "mem_mb": 10}
    assert task._demand == Demand("quick", (("db", 1), ("mem_mb", 10)))


def test_a_task_that_needs_nothing_costs_nothing() -> None:
    """No lane and no resources is no demand at all."""
    task = Task("t", int)

    assert (task.lane, task.resources, task._demand) == (None, {}, None)


# Slots and lanes


def test_no_more_than_there_are_slots() -> None:
    """Rules that say nothing leave the number of slots."""
    driver = Driver(slots=2)
    driver.ask(*[driver.add("t")] * 3)

    assert driver.start() == ["t", "t"]
    assert driver.waiting() == [f"t: {NO_SLOT}"]


def test_reserved_slots_stay_free() -> None:
    """Tasks without the lane leave them alone, and those of the lane get them at once."""
    driver = Driver(slots=3, lanes={"quick": 1})
    plain, quick = driver.add("plain"), driver.add("quick", lane="quick")
    driver.ask(plain, plain, plain)

    assert driver.start() == ["plain", "plain"]
    assert driver.waiting() == [f"plain: {RESERVED}"]
    driver.ask(quick)
    assert driver.start() == ["quick"]
    assert driver.waiting() == [f"plain: {NO_SLOT}"]


def test_lane_tasks_use_common_slots_too() -> None:
    """All slots there are, its own first."""
    driver = Driver(slots=3, lanes={"quick": 1})
    driver.ask(*[driver.add("quick", lane="quick")] * 4)

    assert driver.start() == ["quick"] * 3
    assert driver.waiting() == [f"quick: {NO_SLOT}"]


def test_lanes_do_not_lend_their_slots() -> None:
    """A slot of one lane is no use to another."""
    driver = Driver(slots=3, lanes={"quick": 1, "mail": 1})
    driver.ask(*[driver.add("quick", lane="quick")] * 3)

    assert driver.start() == ["quick", "quick"]
    assert driver.waiting() == [f"quick: {RESERVED}"]
    driver.ask(driver.add("mail", lane="mail"))
    assert driver.start() == ["mail"]


@pytest.mark.parametrize("order", list(itertools.permutations(["quick", "quick", "mail", "plain"])))
def test_lanes_count_right_in_every_order_of_ends(order: tuple[str, ...]) -> None:
    """A lane task that ends leaves the common slot first: what is left moves to its lane."""
    driver = Driver(slots=5, lanes={"quick": 1, "mail": 1})
    tasks = {
        "plain": driver.add("plain"),
        "quick": driver.add("quick", lane="quick"),
        "mail": driver.add("mail", lane="mail"),
    }
    driver.ask(*(tasks[name] for name in order))
    assert sorted(driver.start()) == sorted(order)

    left = list(order)
    for name in order:
        driver.end(name)
        left.remove(name)
        common = 3 - left.count("plain") - max(0, left.count("quick") - 1)
        more = driver.add("more")
        driver.ask(*[more] * 4)
        assert driver.start() == ["more"] * common
        driver.end(*["more"] * common)
        driver.engine.remove(more.id, at(0))


def test_best_first_whatever_the_lane() -> None:
    """A lane is where a run may go, not when: the key decides."""
    driver = Driver(slots=2, lanes={"quick": 1})
    quick, plain = driver.add("quick", lane="quick"), driver.add("plain", priority=1)
    driver.ask(quick, plain)

    assert driver.start() == ["plain", "quick"]


def test_a_wait_for_a_retry_holds_nothing() -> None:
    """Neither the slot of its lane nor its resources; the next attempt takes both again."""
    driver = Driver(slots=2, lanes={"quick": 1}, capacity={"db": 1})
    first = driver.add("first", lane="quick", resources={"db": 1})
    second = driver.add("second", lane="quick", resources={"db": 1})
    plain = driver.add("plain")
    driver.ask(plain, first, second)
    assert driver.start() == ["plain", "first"]

    driver.end("first", retry_after=10)
    assert driver.start() == ["second"]
    driver.go(10)

    assert driver.start() == []
    driver.end("second")
    assert driver.start() == ["first"]
    assert driver.running[-1].execution.attempts == 2


# Resources


def test_what_does_not_fit_steps_aside() -> None:
    """A later run that fits goes first; the reason says what is missing."""
    driver = Driver(slots=4, capacity={"db": 2, "mem_mb": 4000})
    two = driver.add("two", resources={"db": 2})
    one, none = driver.add("one", resources={"db": 1}), driver.add("none")
    driver.ask(one, two, none, one)

    assert driver.start() == ["one", "none", "one"]
    assert driver.waiting() == ["two: it needs 2 of resource 'db', 0 of 2 is free"]
    driver.end("one")
    assert driver.start() == []
    assert driver.waiting() == ["two: it needs 2 of resource 'db', 1 of 2 is free"]
    driver.end("one")
    assert driver.start() == ["two"]


def test_every_resource_must_fit() -> None:
    """One that lacks is enough to wait."""
    driver = Driver(slots=4, capacity={"db": 2, "mem_mb": 4000})
    driver.ask(driver.add("big", resources={"db": 1, "mem_mb": 3000}))
    driver.ask(driver.add("other", resources={"db": 1, "mem_mb": 1500}))

    assert driver.start() == ["big"]
    assert driver.waiting() == ["other: it needs 1500 of resource 'mem_mb', 1000 of 4000 is free"]


def test_sums_of_floats_are_rounded() -> None:
    """0.1 + 0.2 is no more than 0.3, and nothing is left of it in the end."""
    driver = Driver(slots=4, capacity={"share": 0.3})
    driver.ask(driver.add("a", resources={"share": 0.1}), driver.add("b", resources={"share": 0.2}))

    assert driver.start() == ["a", "b"]
    driver.end("a", "b")
    driver.ask(driver.add("all", resources={"share": 0.3}))
    assert driver.start() == ["all"]


def test_many_floats_leave_nothing_behind() -> None:
    """A thousand runs that overlap, and the whole capacity is there."""
    driver = Driver(slots=4, capacity={"share": 1})
    third = driver.add("third", resources={"share": 1 / 3})
    driver.ask(third, third, third)
    assert driver.start() == ["third"] * 3

    for _ in range(1000):
        driver.end("third")
        driver.ask(third)
        assert driver.start() == ["third"]
    driver.end("third", "third", "third")
    driver.ask(driver.add("all", resources={"share": 1}))

    assert driver.start() == ["all"]


def test_a_failure_frees_what_it_used() -> None:
    """An attempt that fails for good is an end as any other."""
    driver = Driver(slots=2, capacity={"db": 1})
    task = driver.add("t", resources={"db": 1})
    driver.ask(task, task)
    assert driver.start() == ["t"]

    driver.end("t", retry_after=5)
    assert driver.start() == ["t"]
    assert driver.running[0].execution.attempts == 1


def test_a_task_removed_while_it_runs_frees_what_it_used() -> None:
    """When its run ends, not before."""
    driver = Driver(slots=3, lanes={"quick": 1}, capacity={"db": 1})
    gone = driver.add("gone", lane="quick", resources={"db": 1})
    other = driver.add("other", lane="quick", resources={"db": 1})
    driver.ask(gone, other)
    assert driver.start() == ["gone"]

    driver.engine.remove(gone.id, at(0))
    assert driver.start() == []
    driver.end("gone")
    assert driver.start() == ["other"]


def test_nothing_passes_after_max_defer() -> None:
    """Before that second small ones do; from it on the free part is kept."""
    driver = Driver(slots=4, capacity={"db": 2}, max_defer=300.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    assert driver.start() == ["small"]

    driver.go(299.999)
    driver.ask(small)
    assert driver.start() == ["small"]
    driver.end("small")
    driver.go(300)
    driver.ask(small, driver.add("none"))

    assert driver.start() == ["none"]
    assert driver.waiting() == [
        "big: it needs 2 of resource 'db', 1 of 2 is free",
        "small: resource 'db' is kept for 'big', which waited too long",
    ]
    driver.end("small")
    assert driver.start() == ["big"]
    driver.end("big")
    assert driver.start() == ["small"]


def test_max_defer_counts_from_when_it_was_passed_over() -> None:
    """Not from its release, as long as there was no slot either."""
    driver = Driver(slots=2, capacity={"db": 2}, max_defer=300.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(driver.add("none"), small, big)
    assert driver.start() == ["none", "small"]

    driver.go(200)
    driver.end("none")
    driver.ask(small)
    assert driver.start() == ["small"]  # the first look at "big"
    driver.go(499)
    driver.end("small")
    driver.ask(small)
    assert driver.start() == ["small"]
    driver.go(500)
    driver.end("small")
    driver.ask(small)

    assert driver.start() == []


def test_max_defer_of_zero() -> None:
    """Nothing passes what is known not to fit."""
    driver = Driver(slots=4, capacity={"db": 2}, max_defer=0.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    assert driver.start() == ["small"]
    driver.ask(small)

    assert driver.start() == []
    driver.end("small")
    assert driver.start() == ["big"]


def test_several_that_waited_too_long_go_in_turn() -> None:
    """First the one that was passed over first, whatever its priority."""
    driver = Driver(slots=4, capacity={"db": 3}, max_defer=10.0)
    small = driver.add("small", resources={"db": 1})
    first = driver.add("first", resources={"db": 3})
    second = driver.add("second", resources={"db": 2.5}, priority=100)
    driver.ask(small, small, first)
    assert driver.start() == ["small", "small"]
    driver.go(1)
    driver.ask(second)
    assert driver.start() == []

    driver.go(20)
    assert driver.start() == []
    driver.end("small")
    driver.ask(small)
    assert driver.start() == []
    driver.end("small")

    assert driver.start() == ["first"]
    driver.end("first")
    assert driver.start() == ["second"]


def test_kept_resources_are_named_with_those_they_are_kept_for() -> None:
    """Each with its own, when several waited too long."""
    driver = Driver(slots=4, capacity={"db": 2, "gpu": 2}, max_defer=10.0)
    both = driver.add("both", resources={"db": 1, "gpu": 1})
    db, gpu = driver.add("db", resources={"db": 2}), driver.add("gpu", resources={"gpu": 2})
    driver.ask(both, db, gpu)
    assert driver.start() == ["both"]
    driver.go(10)
    driver.ask(driver.add("small db", resources={"db": 1}))
    driver.ask(driver.add("small gpu", resources={"gpu": 1}))

    assert driver.waiting()[2:] == [
        "small db: resource 'db' is kept for 'db', which waited too long",
        "small gpu: resource 'gpu' is kept for 'gpu', which waited too long",
    ]


def test_one_that_waited_too_long_may_not_be_the_first_of_its_kind() -> None:
    """It is shown first all the same, and another of its kind, which is more urgent, after it."""
    driver = Driver(slots=4, capacity={"db": 2}, max_defer=10.0)
    driver.ask(driver.add("holds", resources={"db": 1}), driver.add("old", resources={"db": 2}))
    assert driver.start() == ["holds"]
    driver.go(10)
    driver.ask(driver.add("urgent", resources={"db": 2}, priority=100))

    found = [driver.engine.waiting(n, at(10)) for n in (1, 2)]

    assert [[each.run.task.name for each in some] for some in found] == [["old"], ["old", "urgent"]]


def test_a_slot_is_no_resource_to_wait_too_long_for() -> None:
    """What waited for a resource is done; one that then waits for a slot alone is not overdue."""
    driver = Driver(slots=2, capacity={"db": 2}, max_defer=10.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    plain = driver.add("plain")
    driver.ask(small, big)
    assert driver.start() == ["small"]
    driver.end("small")
    assert driver.start() == ["big"]
    driver.end("big")
    driver.ask(plain, plain)
    assert driver.start() == ["plain", "plain"]
    driver.ask(big)
    driver.go(20)
    driver.engine.set_priority(small, 50)
    driver.ask(small)
    driver.end("plain")

    assert driver.start() == ["small"]


def test_of_those_it_is_kept_for_only_its_resources() -> None:
    """What needs none of them goes on as before."""
    driver = Driver(slots=4, capacity={"db": 1, "gpu": 1}, max_defer=10.0)
    db = driver.add("db", resources={"db": 1})
    driver.ask(db, db)
    driver.start()
    driver.go(10)
    driver.ask(driver.add("gpu", resources={"gpu": 1}))

    assert driver.start() == ["gpu"]


def test_strict_priority_does_not_starve_either() -> None:
    """With aging=math.inf, too, max_defer is the end of it."""
    driver = Driver(slots=4, capacity={"db": 2}, aging=math.inf, max_defer=10.0)
    big = driver.add("big", resources={"db": 2})
    small = driver.add("small", resources={"db": 1}, priority=5)
    driver.ask(small, big)
    assert driver.start() == ["small"]
    driver.go(10)
    driver.ask(small)

    assert driver.start() == []
    driver.end("small")
    assert driver.start() == ["big"]


def test_a_change_of_priority_keeps_its_turn() -> None:
    """What waited too long did so whatever its priority is now."""
    driver = Driver(slots=4, capacity={"db": 2}, max_defer=10.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    assert driver.start() == ["small"]
    driver.go(10)
    driver.engine.set_priority(big, -50)
    driver.ask(small)

    assert driver.start() == []
    driver.end("small")
    assert driver.start() == ["big"]


def test_a_new_priority_decides_before_that() -> None:
    """A deferred run that is moved up goes first as soon as it fits."""
    driver = Driver(slots=4, capacity={"db": 2})
    big = driver.add("big", resources={"db": 2})
    other = driver.add("other", resources={"db": 2}, priority=1)
    small = driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    driver.start()
    driver.ask(other)
    assert driver.start() == []
    driver.engine.set_priority(big, 2)
    driver.end("small")

    assert driver.start() == ["big"]


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda engine, task: engine.remove(task.id, at(10)), id="removed"),
        pytest.param(lambda engine, task: engine.set_enabled(task, False, at(10)), id="disabled"),
    ],
)
def test_what_is_gone_keeps_nothing(leave: Callable[[Any, Task], None]) -> None:
    """A run that waited too long and then was dropped or held is in nobody's way."""
    driver = Driver(slots=4, capacity={"db": 2}, max_defer=10.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    driver.start()
    driver.go(10)
    driver.ask(small)
    assert driver.start() == []

    leave(driver.engine, big)

    assert driver.start() == ["small"]
    assert not any(kind.places for kind in _admission(driver)._kinds.values())


def test_enabled_again_it_counts_anew() -> None:
    """The time in which it was disabled is no time in which others passed it."""
    driver = Driver(slots=4, capacity={"db": 2}, max_defer=10.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    driver.start()
    driver.engine.set_enabled(big, False, at(1))
    assert driver.start() == []
    driver.go(100)
    driver.engine.set_enabled(big, True, at(100))
    driver.ask(small)

    assert driver.start() == ["small"]


def test_removing_what_others_stepped_aside_for_lets_them_start(gate: Gate) -> None:
    """At once, in live threads, without waiting for a tick."""
    ran = threading.Event()
    settings: dict[str, Any] = {"capacity": {"db": 2}, "max_defer": 0}
    with Scheduler(3, tick_interval=3600, **settings) as scheduler:
        small = scheduler.add_task(Task("small", gate, resources={"db": 1}))
        scheduler.release_task(small.id)
        gate.wait_entered()
        big = scheduler.add_task(Task("big", int, resources={"db": 2}))
        scheduler.release_task(big.id)
        other = scheduler.add_task(Task("other", ran.set, resources={"db": 1}))
        scheduler.release_task(other.id)
        assert [each.task_name for each in scheduler.ready()] == ["big", "other"]

        scheduler.remove_task(big.id)

        assert ran.wait(10)
        gate.leave.set()


# Gates


def test_a_closed_gate_holds_runs() -> None:
    """But for one when none runs; it opens and they start."""
    driver = Driver(slots=4, has_gates=True)
    driver.ask(driver.add("a"), driver.add("b"), driver.add("c"))
    driver.close()

    assert driver.start() == ["a"]
    assert driver.waiting() == [f"b: {GATE}", f"c: {GATE}"]
    driver.end("a")
    assert driver.start() == ["b"]
    driver.open()
    assert driver.start() == ["c"]


def test_the_readings_of_all_closed_gates_are_named() -> None:
    """In the order of the gates."""
    driver = Driver(has_gates=True)
    driver.ask(*[driver.add("t")] * 2)
    driver.start(1)
    closed: list[Any] = ["load 3", "memory 0.1"]
    driver.engine.set_gates([], closed, at(0))

    assert driver.waiting() == ["t: closed gate: load 3; memory 0.1"]


def test_ungated_priority_passes() -> None:
    """That priority and above; one below waits."""
    driver = Driver(slots=4, has_gates=True, ungated_priority=5)
    tasks = [driver.add(f"{priority}", priority=priority) for priority in (4, 5, 6)]
    driver.ask(*tasks, *tasks)
    driver.close()

    assert driver.start() == ["6", "6", "5", "5"]
    driver.end("5")
    assert driver.start() == []


def test_no_priority_passes_by_default() -> None:
    """Not the highest either."""
    driver = Driver(slots=4, has_gates=True)
    driver.ask(*[driver.add("t", priority=10**9)] * 2)
    driver.close()

    assert driver.start() == ["t"]


@pytest.mark.parametrize(("before", "after"), [(0, 5), (5, 0)])
def test_a_change_of_priority_at_a_gate(before: int, after: int) -> None:
    """What waits passes from then on, or does so no longer."""
    driver = Driver(slots=3, has_gates=True, ungated_priority=5)
    task = driver.add("t", priority=before)
    driver.ask(driver.add("other", priority=9), task, task)
    driver.close()
    assert driver.start(1) == ["other"]

    driver.engine.set_priority(task, after)

    assert driver.start() == (["t", "t"] if after == 5 else [])


def test_held_too_long_it_is_let_through() -> None:
    """max_defer seconds after the gate closed, for what was ready before."""
    driver = Driver(slots=4, has_gates=True, max_defer=300.0)
    task = driver.add("t")
    driver.ask(task)
    driver.start()
    driver.go(50)
    driver.close()
    driver.ask(task)
    assert driver.engine.claim_slots() == 1  # for what runs
    driver.go(349.999)
    assert driver.start() == []
    assert driver.engine.claim_slots() == 0

    driver.go(350)

    assert driver.engine.claim_slots() == 1
    assert driver.start() == ["t"]


def test_held_too_long_counts_from_when_it_was_ready() -> None:
    """For what came after the gate closed: each has its own time."""
    driver = Driver(slots=4, has_gates=True, max_defer=300.0)
    driver.ask(driver.add("t"))
    driver.start()
    driver.close()
    driver.go(100)
    driver.ask(driver.add("a"))
    driver.go(200)
    driver.ask(driver.add("b"))

    driver.go(399)
    assert driver.start() == []
    driver.go(400)
    assert driver.start() == ["a"]
    driver.go(500)
    assert driver.start() == ["b"]


def test_what_waited_too_long_for_a_resource_still_minds_a_gate() -> None:
    """The gate has its own max_defer, from when it closed."""
    driver = Driver(slots=4, capacity={"db": 1}, has_gates=True, max_defer=10.0)
    db = driver.add("db", resources={"db": 1})
    driver.ask(driver.add("other"), db, db)
    assert driver.start() == ["other", "db"]
    driver.go(10)
    assert driver.start() == []
    driver.close()
    driver.end("db")

    driver.go(19)
    assert driver.start() == []
    driver.go(20)
    assert driver.start() == ["db"]


def test_a_gate_that_opened_in_between_begins_anew() -> None:
    """And one that closes while another is closed does not."""
    driver = Driver(slots=2, has_gates=True, max_defer=300.0)
    task = driver.add("t")
    driver.ask(task, task, task)
    driver.start()
    driver.close()
    driver.go(200)
    driver.open()
    driver.close()
    driver.end("t")
    driver.go(300)
    assert driver.start() == []
    driver.close()
    driver.go(499)
    assert driver.start() == []

    driver.go(500)

    assert driver.start() == ["t"]


def test_gates_are_no_matter_to_rules_without() -> None:
    """What an engine is told of gates while it has none holds nothing."""
    driver = Driver(slots=2, capacity={"db": 1})
    driver.ask(*[driver.add("t")] * 2)
    driver.close()

    assert driver.start() == ["t", "t"]


def test_what_waits_at_a_gate_may_still_be_disabled_and_removed() -> None:
    """It is found where it was put, also after its priority has passed the gate's."""
    driver = Driver(slots=3, has_gates=True, ungated_priority=5)
    one, other = driver.add("one"), driver.add("other", priority=7)
    driver.ask(one, one, other)
    driver.close()
    assert driver.start() == ["other"]
    driver.engine.set_priority(one, 5)
    driver.engine.set_enabled(one, False, at(0))
    driver.engine.set_priority(one, 0)

    assert driver.start() == []
    driver.engine.remove(one.id, at(0))
    assert [run.status for run in one.execution_hist] == [Status.DROPPED] * 2


# Runs in the caller of run_task


def test_inline_runs_count_for_nothing() -> None:
    """They take no slot, no resource, and no gate takes them for a run."""
    driver = Driver(slots=2, lanes={"quick": 1}, capacity={"db": 1}, has_gates=True)
    task = driver.add("t", lane="quick", resources={"db": 1})
    inline = driver.engine.take_inline(task, None, at(0))
    driver.close()
    driver.ask(task)

    assert driver.start() == ["t"]
    driver.running.append(inline)
    driver.running.reverse()
    driver.end("t")
    driver.ask(task)
    assert driver.start() == []
    driver.end("t")
    assert driver.start() == ["t"]


# The order


def test_the_key_decides_across_kinds() -> None:
    """Whatever they need, priorities and waits weigh as ever: here 5 seconds a point."""
    driver = Driver(slots=9, lanes={"quick": 1}, capacity={"db": 9}, aging=5.0)
    db = driver.add("db", resources={"db": 1})
    quick = driver.add("quick", lane="quick", priority=1)
    plain = driver.add("plain", priority=2)
    driver.ask(db)
    driver.go(4)
    driver.ask(quick)
    driver.go(11)
    driver.ask(plain)

    assert driver.start() == ["quick", "db", "plain"]


def test_ties_across_kinds_in_the_order_of_release() -> None:
    """As without rules: first released, first started."""
    driver = Driver(slots=9, lanes={"quick": 1}, capacity={"db": 9})
    tasks = [
        driver.add("plain"),
        driver.add("db", resources={"db": 1}),
        driver.add("quick", lane="quick"),
    ]
    order = [tasks[digit] for digit in (2, 0, 1, 1, 0, 2, 0)]
    driver.ask(*order)

    assert [line.partition(":")[0] for line in driver.waiting()[:3]] == ["quick", "plain", "db"]
    assert driver.start(3) == ["quick", "plain", "db"]


def test_the_order_of_release_holds_within_and_across_kinds() -> None:
    """With a task for each run nothing but the release decides."""
    driver = Driver(slots=20, lanes={"quick": 1}, capacity={"db": 20})
    demands: list[dict[str, Any]] = [{}, {"resources": {"db": 1}}, {"lane": "quick"}]
    names = [f"{number}" for number in range(12)]
    driver.ask(*(driver.add(name, **demands[int(name) * 7 % 3]) for name in names))

    assert [line.partition(":")[0] for line in driver.waiting()] == names
    assert driver.start() == names


def test_each_reason_in_order() -> None:
    """One list with all there is: by key, then what stands behind another run or is disabled."""
    driver = Driver(slots=4, lanes={"quick": 1}, capacity={"db": 1}, has_gates=True)
    running = driver.add("running", resources={"db": 1})
    single = driver.add("single", max_instances=1)
    driver.ask(running, single)
    driver.start()
    driver.close()
    held = driver.add("held", enabled=False)
    driver.ask(driver.add("db", resources={"db": 1}), single, driver.add("gated"), held, held)

    assert driver.waiting() == [
        "db: it needs 1 of resource 'db', 0 of 1 is free",
        f"gated: {GATE}",
        "single: max_instances of its task, 1, run already",
        "held: its task is disabled",
        "held: its task is disabled",
    ]
    driver.open()
    driver.ask(driver.add("free"))
    assert driver.waiting()[2] == "free: "
    driver.ask(driver.add("another"), driver.add("more"))
    assert driver.start(1) == ["gated"]
    assert driver.waiting()[1] == f"free: {RESERVED}"


def test_the_first_obstacle_is_named() -> None:
    """The slot before the resource, the resource before the gate."""
    driver = Driver(slots=2, capacity={"db": 1}, has_gates=True)
    task = driver.add("t", resources={"db": 1})
    plain = driver.add("plain", priority=1)
    driver.ask(task, plain)
    driver.start()
    driver.close()
    driver.ask(task)
    assert driver.waiting() == [f"t: {NO_SLOT}"]
    driver.end("plain")
    assert driver.waiting() == ["t: it needs 1 of resource 'db', 0 of 1 is free"]
    driver.ask(plain)
    driver.end("t")
    assert driver.waiting() == ["plain: ", "t: "]
    driver.start(1)
    assert driver.waiting() == [f"t: {GATE}"]


def test_behind_another_run_of_its_task() -> None:
    """Of one task one run is in the race at a time; n cuts the list."""
    driver = Driver(slots=2)
    driver.ask(*[driver.add("a")] * 3, *[driver.add("b")] * 2)

    assert driver.waiting() == [
        "a: ",
        "b: ",
        "a: another run of its task is first",
        "b: another run of its task is first",
        "a: another run of its task is first",
    ]
    found = driver.engine.waiting(3, at(0))
    assert [each.run.task.name for each in found] == ["a", "b", "a"]
    assert [each.since for each in found] == [at(0), at(0), None]
    assert driver.engine.waiting(0, at(0)) == []


def test_slots_are_claimed_only_for_what_may_start() -> None:
    """None while all that waits is held up."""
    driver = Driver(slots=3, capacity={"db": 1})
    db = driver.add("db", resources={"db": 1})
    driver.ask(db)
    assert driver.engine.claim_slots() == 1
    assert driver.start() == ["db"]
    driver.ask(db)
    assert driver.engine.claim_slots() == 0
    driver.ask(driver.add("plain"))

    assert driver.engine.claim_slots() > 0


def test_slots_are_claimed_for_all_that_may_start() -> None:
    """At once, not one after the other."""
    driver = Driver(slots=4, capacity={"db": 1})
    driver.ask(driver.add("a"), driver.add("b"), driver.add("c"))

    assert driver.engine.claim_slots() == 3


def test_slots_are_claimed_for_as_many_as_there_is_room_for() -> None:
    """Of each kind, beside what runs; 0.1 three times is no more than 0.3."""
    driver = Driver(slots=9, capacity={"db": 10, "share": 0.3})
    db, share = driver.add("db", resources={"db": 3}), driver.add("share", resources={"share": 0.1})
    driver.ask(db)
    assert driver.start() == ["db"]
    assert driver.engine.claim_slots() == 1
    for task in (db, share):
        others = [driver.add(task.name, resources=task.resources) for _ in range(5)]
        driver.ask(*others)

    assert driver.engine.claim_slots() == 2 + 3


def test_slots_are_claimed_for_all_that_open_gates_let_through() -> None:
    """One for each, and for what passes closed gates too; of what they hold one is tried."""
    driver = Driver(slots=9, has_gates=True, ungated_priority=5)
    driver.ask(*[driver.add("held") for _ in range(3)])
    assert driver.engine.claim_slots() == 3
    driver.close()
    driver.ask(*[driver.add("urgent", priority=5) for _ in range(3)])

    assert driver.engine.claim_slots() == 1
    driver.open()
    assert driver.engine.claim_slots() == 2


def test_nothing_is_kept_from_the_one_it_is_kept_for() -> None:
    """What waited too long and fits now is about to start, and says so."""
    driver = Driver(slots=4, capacity={"db": 2}, max_defer=10.0)
    big, small = driver.add("big", resources={"db": 2}), driver.add("small", resources={"db": 1})
    driver.ask(small, big)
    driver.start()
    driver.go(10)
    driver.end("small")

    assert driver.waiting() == ["big: "]


def test_without_rules_there_are_slots_alone() -> None:
    """Runs in callers of run_task take none, and gates are told of and hold nothing."""
    engine = Engine(max_running_tasks=1, aging=5.0, on_time=timedelta(seconds=1))
    task = Task("t", int, max_instances=9)
    engine.add(task, at(0))
    engine.take_inline(task, None, at(0))
    engine.request(task, None, at(0))
    engine.set_gates([replace(reading(31.0), news="closed")], [reading(31.0)], at(0))

    assert engine.changes[-1].kind is ChangeKind.GATE_CLOSED
    assert [each.reason for each in engine.waiting(9, at(0))] == [""]
    assert engine.take(at(0)) is not None


# What is left behind


def test_what_came_out_is_not_taken_out_again() -> None:
    """To cancel an entry whose run was started, or was cancelled before, does nothing."""
    driver = Driver(slots=4, capacity={"db": 1})
    admission = _admission(driver)
    task = driver.add("t")
    driver.ask(task)
    entry = task._head.entry
    driver.start()

    admission.cancel(entry)

    assert len(admission) == 0


def test_kinds_that_nobody_waits_in_are_forgotten() -> None:
    """A thousand demands, each of its own, leave no thousand queues."""
    driver = Driver(slots=1, capacity={"mem_mb": 5000})
    for number in range(1000):
        task = driver.add("t", resources={"mem_mb": number + 1})
        driver.ask(task)
        driver.start()
        driver.end("t")
        driver.engine.remove(task.id, at(0))

    assert len(_admission(driver)._kinds) <= 64


@pytest.mark.parametrize(("stay", "most"), [(0, 64), (40, 80)])
def test_kinds_are_forgotten_when_there_are_twice_as_many(stay: int, most: int) -> None:
    """As there were after the last time, or 64: looking at all of them costs little then."""
    driver = Driver(slots=1, capacity={"mem_mb": 5000})
    seen = []
    for number in range(200):
        task = driver.add("t", resources={"mem_mb": number + 1})
        driver.ask(task)
        if number >= stay:
            driver.engine.remove(task.id, at(0))
        seen.append(len(_admission(driver)._kinds))

    assert max(seen[64:]) == most


def _admission(driver: Driver) -> Admission:
    admission = driver.engine._admission
    assert admission is not None
    return admission
