"""The heap that agenda and ready share: taking out of the middle, sweeping, looking ahead."""

from __future__ import annotations

import heapq

from hypothesis import given
from hypothesis import strategies as st

from background_tasks.heap import Entry, Heap


def test_empty_heap_has_nothing() -> None:
    """Nothing comes out of an empty heap, and asking it is no error."""
    heap = Heap()

    assert len(heap) == 0
    assert heap.pop() is None
    assert heap.head() is None
    assert heap.first(3) == []


def test_smallest_key_comes_out_first() -> None:
    """Items come out by key, however they went in."""
    heap = Heap()
    for key in (3, 1, 2):
        _push(heap, key, f"item {key}")

    assert [heap.pop() for _ in range(3)] == ["item 1", "item 2", "item 3"]


def test_items_are_never_compared() -> None:
    """Equal keys come out in the order they came, though the items know no order."""
    heap = Heap()
    first, second = object(), object()
    _push(heap, 1, first)
    _push(heap, 1, second)

    assert heap.pop() is first
    assert heap.pop() is second


def test_head_stays_in() -> None:
    """Looking at the first entry takes nothing out."""
    heap = Heap()
    entry = _push(heap, 1, "a")

    assert heap.head() is entry
    assert heap.head() is entry
    assert len(heap) == 1


def test_cancelled_item_does_not_come_out() -> None:
    """A cancelled entry is skipped, whether it was first or in the middle."""
    heap = Heap()
    entries = [_push(heap, key, key) for key in (1, 2, 3, 4)]

    heap.cancel(entries[0])
    heap.cancel(entries[2])

    assert len(heap) == 2
    assert [heap.pop(), heap.pop(), heap.pop()] == [2, 4, None]


def test_cancelling_twice_counts_once() -> None:
    """The second cancel of an entry does nothing."""
    heap = Heap()
    entry = _push(heap, 1, "a")
    _push(heap, 2, "b")

    heap.cancel(entry)
    heap.cancel(entry)

    assert len(heap) == 1


def test_cancelling_what_came_out_does_nothing() -> None:
    """An entry whose item was popped is left alone."""
    heap = Heap()
    entry = _push(heap, 1, "a")
    _push(heap, 2, "b")
    heap.pop()

    heap.cancel(entry)

    assert len(heap) == 1
    assert heap.pop() == "b"


def test_cancelled_entry_lets_its_item_go() -> None:
    """The item is not kept alive by the entry that waits to be skipped."""
    heap = Heap()
    entry = _push(heap, 1, "a")

    heap.cancel(entry)

    assert entry[-1] is None


def test_cancelling_for_ever_does_not_grow() -> None:
    """However many entries came and were cancelled, few of them are left lying."""
    heap = Heap()
    _push(heap, 0, "stays")

    for key in range(10_000):
        heap.cancel(_push(heap, key, key))

    assert len(heap._heap) < 200
    assert len(heap) == 1
    assert heap.pop() == "stays"


def test_sweeping_keeps_the_order() -> None:
    """When the cancelled entries are swept out the others still come out by key."""
    heap = Heap()
    entries = [_push(heap, key, key) for key in range(200)]

    for entry in entries[20:]:
        heap.cancel(entry)

    assert [heap.pop() for _ in range(21)] == [*range(20), None]


def test_few_cancelled_entries_are_not_swept() -> None:
    """Up to 64 of them stay where they are: sweeping is not worth its cost."""
    heap = Heap()
    entries = [_push(heap, key, key) for key in range(65)]

    for entry in entries[:64]:
        heap.cancel(entry)

    assert len(heap._heap) == 65
    assert len(heap) == 1


def test_most_must_be_cancelled_to_be_swept() -> None:
    """While half of the entries or more are in use nothing is swept."""
    heap = Heap()
    entries = [_push(heap, key, key) for key in range(200)]

    for entry in entries[:100]:
        heap.cancel(entry)
    assert len(heap._heap) == 200
    heap.cancel(entries[100])

    assert len(heap._heap) == 99


def test_first_leaves_all_in() -> None:
    """Looking at the first entries takes none of them out and gives copies."""
    heap = Heap()
    for key in (2, 1, 3):
        _push(heap, key, f"item {key}")

    first = heap.first(2)
    first[0][-1] = None

    assert [entry[0] for entry in first] == [1, 2]
    assert heap.pop() == "item 1"
    assert len(heap) == 2


def test_first_of_none_is_empty() -> None:
    """None asked for, none given."""
    heap = Heap()
    _push(heap, 1, "a")

    assert heap.first(0) == []


@given(
    keys=st.lists(st.integers(0, 9), max_size=200),
    cancelled=st.sets(st.integers(0, 199)),
    n=st.integers(0, 30),
)
def test_first_is_what_sorting_gives(keys: list[int], cancelled: set[int], n: int) -> None:
    """first(n) are the first n of all entries in use, sorted."""
    heap = Heap()
    entries = [_push(heap, key, number) for number, key in enumerate(keys)]
    for number in cancelled & set(range(len(keys))):
        heap.cancel(entries[number])

    expected = sorted((key, number) for number, key in enumerate(keys) if number not in cancelled)

    assert [(entry[0], entry[-1]) for entry in heap.first(n)] == expected[:n]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(0, 9)),
            st.tuples(st.just("pop"), st.just(0)),
            st.tuples(st.just("cancel"), st.integers(0, 400)),
        ),
        max_size=400,
    )
)
def test_behaves_like_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    """After any steps it holds and gives what a list that is kept sorted would."""
    heap, model = Heap(), list[tuple[int, int]]()
    entries: list[Entry] = []
    for action, value in steps:
        if action == "push":
            model.append((value, len(entries)))
            entries.append(_push(heap, value, len(entries)))
        elif action == "cancel" and value < len(entries):
            heap.cancel(entries[value])
            model = [kept for kept in model if kept[1] != value]
        elif action == "pop":
            model.sort()
            assert heap.pop() == (model.pop(0)[1] if model else None)
        assert len(heap) == len(model)


def _push(heap: Heap, key: int, item: object) -> Entry:
    """Do what the heaps built on it do: put *item* in under *key*, after its equals."""
    entry = [key, heap._number(), item]
    heapq.heappush(heap._heap, entry)
    return entry
