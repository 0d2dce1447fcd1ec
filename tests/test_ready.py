"""Who runs next: stamps, priorities and what aging makes of them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from background_tasks.ready import Ready

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)


def test_stamp_is_in_seconds() -> None:
    """A minute and a half lies between the stamps of two such instants."""
    ready = Ready(5.0)

    first = ready.stamp(NOON)

    assert ready.stamp(NOON + timedelta(seconds=90)) - first == 90.0


def test_stamp_goes_on_when_the_clock_is_set_back() -> None:
    """It does not fall, and what comes later is as much later as it was by the clock."""
    ready = Ready(aging=5.0)
    latest = ready.stamp(NOON)

    assert ready.stamp(NOON - timedelta(hours=1)) == latest
    assert ready.stamp(NOON - timedelta(minutes=59)) == latest + 60


def test_stamps_of_threads_that_read_the_clock_in_another_order() -> None:
    """A little back is not set back: no second is counted twice."""
    ready = Ready(aging=5.0)
    latest = ready.stamp(NOON)

    assert ready.stamp(NOON - timedelta(seconds=1)) == latest
    assert ready.stamp(NOON) == latest
    assert ready.stamp(NOON + timedelta(seconds=2)) == latest + 2


@given(st.lists(st.integers(-(10**9), 10**9)))
def test_stamps_never_fall(offsets: list[int]) -> None:
    """However the clock jumps about, no stamp is below the one before it."""
    ready = Ready(5.0)

    stamps = [ready.stamp(NOON + timedelta(seconds=offset)) for offset in offsets]

    assert stamps == sorted(stamps)


@pytest.mark.parametrize(
    ("aging", "expected"),
    [
        pytest.param(0.0, ["low, 0 s", "none, 4 s", "high, 8 s"], id="first come first served"),
        pytest.param(2.0, ["low, 0 s", "high, 8 s", "none, 4 s"], id="two seconds a point"),
        pytest.param(5.0, ["high, 8 s", "none, 4 s", "low, 0 s"], id="five seconds a point"),
        pytest.param(math.inf, ["high, 8 s", "none, 4 s", "low, 0 s"], id="strict priority"),
    ],
)
def test_aging_weighs_priority_against_waiting(aging: float, expected: list[str]) -> None:
    """So many seconds of waiting weigh as much as one point, for priorities of both signs."""
    ready = Ready(aging)
    ready.push(0.0, -1, "low, 0 s")
    ready.push(4.0, 0, "none, 4 s")
    ready.push(8.0, 3, "high, 8 s")

    assert [ready.pop() for _ in range(3)] == expected


def test_strict_priority_is_first_come_within_a_priority() -> None:
    """With infinite aging the earlier stamp goes first among equals, at priority 0 too."""
    ready = Ready(math.inf)
    for priority in (0, -1, 2):
        ready.push(2.0, priority, ("later", priority))
        ready.push(1.0, priority, ("earlier", priority))

    assert [ready.pop() for _ in range(6)] == [
        ("earlier", 2),
        ("later", 2),
        ("earlier", 0),
        ("later", 0),
        ("earlier", -1),
        ("later", -1),
    ]


@pytest.mark.parametrize("aging", [0.0, 5.0, math.inf])
def test_ties_go_in_the_order_they_came(aging: float) -> None:
    """Equal stamps and priorities come out as they were put in."""
    ready = Ready(aging)
    for name in "abc":
        ready.push(7.0, -2, name)

    assert [ready.pop() for _ in range(3)] == ["a", "b", "c"]


def test_a_run_is_passed_for_a_bounded_time() -> None:
    """Three points more pass a run for 15 s of stamps, and from the 15th on go behind it."""
    ready = Ready(5.0)
    ready.push(0.0, 1, "low")
    ready.push(14.9, 4, "just in time")
    ready.push(15.0, 4, "too late")

    assert [ready.pop() for _ in range(3)] == ["just in time", "low", "too late"]


def test_largest_priorities_do_not_overflow() -> None:
    """The bounds of a priority still order with a large finite aging."""
    ready = Ready(1e9)
    ready.push(0.0, -1_000_000_000, "least")
    ready.push(1e9, 1_000_000_000, "most")

    assert ready.pop() == "most"


def test_cancelled_run_is_not_next() -> None:
    """A run that was taken out is skipped."""
    ready = Ready(5.0)
    entry = ready.push(0.0, 9, "gone")
    ready.push(0.0, 0, "stays")

    ready.cancel(entry)

    assert len(ready) == 1
    assert ready.pop() == "stays"
    assert ready.pop() is None


@given(
    aging=st.sampled_from([0.0, 0.5, 5.0]),
    pushed=st.lists(st.tuples(st.integers(0, 20), st.integers(-3, 3)), max_size=40),
)
def test_nobody_is_passed_for_long(aging: float, pushed: list[tuple[int, int]]) -> None:
    """Who goes first came first, or came later by *aging* for each point it has more, at most."""
    ready = Ready(aging)
    for stamp, priority in pushed:
        ready.push(stamp, priority, (stamp, priority))

    taken = [ready.pop() for _ in pushed]

    for (stamp, priority), (next_stamp, next_priority) in pairwise(taken):
        assert stamp - next_stamp <= aging * (priority - next_priority)
