"""What is due when: due time, then priority, then the order it was put in."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from background_tasks.agenda import Agenda

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)


def test_earliest_comes_out_first() -> None:
    """Items come out by due time."""
    agenda = Agenda()
    agenda.push(_at(2), 0, "later")
    agenda.push(_at(1), 0, "sooner")

    assert agenda.pop_due(_at(5)) == "sooner"
    assert agenda.pop_due(_at(5)) == "later"
    assert agenda.pop_due(_at(5)) is None


def test_due_time_beats_priority() -> None:
    """What is due earlier comes first, however urgent the other is."""
    agenda = Agenda()
    agenda.push(_at(2), 100, "urgent")
    agenda.push(_at(1), -100, "sooner")

    assert agenda.pop_due(_at(5)) == "sooner"


def test_urgent_first_among_those_due_together() -> None:
    """At one instant the larger priority comes first, negative ones last."""
    agenda = Agenda()
    for priority in (0, -3, 7):
        agenda.push(NOON, priority, priority)

    assert [agenda.pop_due(NOON) for _ in range(3)] == [7, 0, -3]


def test_equals_come_out_as_they_came() -> None:
    """At one instant and priority the order is that of putting in."""
    agenda = Agenda()
    for name in "abc":
        agenda.push(NOON, 5, name)

    assert [agenda.pop_due(NOON) for _ in range(3)] == ["a", "b", "c"]


def test_due_exactly_now_is_due() -> None:
    """The due instant itself counts, a microsecond before it does not."""
    agenda = Agenda()
    agenda.push(NOON, 0, "item")

    assert agenda.pop_due(NOON - timedelta(microseconds=1)) is None
    assert agenda.pop_due(NOON) == "item"


def test_next_due_is_the_earliest() -> None:
    """It is None when empty and leaves the item in."""
    agenda = Agenda()
    assert agenda.next_due() is None
    agenda.push(_at(9), 0, "b")
    agenda.push(_at(4), 0, "a")

    assert agenda.next_due() == _at(4)
    assert agenda.next_due() == _at(4)
    assert len(agenda) == 2


def test_cancelled_is_not_due() -> None:
    """A cancelled entry neither comes out nor is waited for."""
    agenda = Agenda()
    entry = agenda.push(_at(1), 0, "cancelled")
    agenda.push(_at(2), 0, "kept")

    agenda.cancel(entry)

    assert agenda.next_due() == _at(2)
    assert agenda.pop_due(_at(5)) == "kept"
    assert agenda.next_due() is None


def test_cancelling_what_was_due_does_nothing() -> None:
    """An entry whose item has come out is left alone."""
    agenda = Agenda()
    entry = agenda.push(_at(1), 0, "due")
    agenda.push(_at(2), 0, "kept")
    assert agenda.pop_due(_at(1)) == "due"

    agenda.cancel(entry)

    assert len(agenda) == 1
    assert entry[:2] == [_at(1), 0]


def test_cancelled_entries_on_the_way_are_not_counted() -> None:
    """When they are skipped, the agenda knows that they are gone."""
    agenda = Agenda()
    for name in "abc":
        agenda.cancel(agenda.push(_at(1), 0, name))
    agenda.push(_at(2), 0, "kept")

    assert agenda.pop_due(_at(1)) is None
    assert len(agenda) == 1
    assert agenda.pop_due(_at(2)) == "kept"
    assert len(agenda) == 0


def test_entry_tells_its_due_time() -> None:
    """An entry begins with the due time and ends with the item."""
    entry = Agenda().push(_at(3), 2, "item")

    assert entry[0] == _at(3)
    assert entry[-1] == "item"


def test_looking_at_what_is_due_takes_nothing_out() -> None:
    """All that is due is shown, in some order, and stays in; cancelled entries are not shown."""
    agenda = Agenda()
    entries = [agenda.push(_at(due), 0, f"due at {due}") for due in (3, 1, 2, 4)]
    agenda.cancel(entries[2])

    assert sorted(agenda.due_items(_at(3))) == ["due at 1", "due at 3"]
    assert list(agenda.due_items(_at(0))) == []
    assert len(agenda) == 3


@given(st.lists(st.integers(0, 9), max_size=80), st.sets(st.integers(0, 79)), st.integers(0, 9))
def test_all_that_is_due_is_shown(dues: list[int], cancelled: set[int], now: int) -> None:
    """due_items shows each item that is due and not cancelled once."""
    agenda = Agenda()
    entries = [agenda.push(_at(due), 0, number) for number, due in enumerate(dues)]
    for number in cancelled & set(range(len(dues))):
        agenda.cancel(entries[number])

    expected = [n for n, due in enumerate(dues) if due <= now and n not in cancelled]

    assert sorted(agenda.due_items(_at(now))) == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-2, 2)), max_size=60), st.integers(0, 6))
def test_due_items_come_out_sorted(pushed: list[tuple[int, int]], now: int) -> None:
    """Popping until None gives all that is due and nothing else, in order."""
    agenda = Agenda()
    for number, (due, priority) in enumerate(pushed):
        agenda.push(_at(due), priority, number + 1)

    order = sorted((due, -priority, n + 1) for n, (due, priority) in enumerate(pushed))
    expected = [number for due, _, number in order if due <= now]

    assert [agenda.pop_due(_at(now)) for _ in expected] == expected
    assert agenda.pop_due(_at(now)) is None
    assert len(agenda) == len(pushed) - len(expected)


def _at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)
