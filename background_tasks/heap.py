"""A heap from which an item can be taken out of the middle; no lock, thread or clock.

An entry is a list, ``[key..., sequence, item]``. The sequence keeps items from being compared and
equals in the order they came. An entry is cancelled where it lies: its item is taken out, and the
rest is skipped when it comes up (as the ``heapq`` documentation suggests). When most entries are
such leftovers they are swept out, so that cancelling for ever does not grow the heap for ever.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

__all__ = ["Entry", "Heap"]

Entry = list[Any]
_ITEM = -1
_FEW = 64  # cancelled entries; not worth sweeping


class Heap:
    """Items, smallest key first. O(log n) to put one in and to take the first out."""

    __slots__ = ("_cancelled", "_heap", "_number")

    def __init__(self, number: Callable[[], int] | None = None) -> None:
        """Start empty; *number* counts the entries, those of other heaps too if it is shared."""
        self._heap: list[Entry] = []
        self._number = itertools.count(1).__next__ if number is None else number
        self._cancelled = 0

    def __len__(self) -> int:
        """Return how many items it holds."""
        return len(self._heap) - self._cancelled

    def push_entry(self, entry: Entry) -> Entry:
        """Put in an entry that has its number already, that of another heap; return it."""
        heapq.heappush(self._heap, entry)
        return entry

    def cancel(self, entry: Entry) -> None:
        """Take out the item of *entry*; one that has come out already is left alone."""
        if entry[_ITEM] is None:
            return
        entry[_ITEM] = None
        self._cancelled += 1
        if self._cancelled > _FEW and self._cancelled * 2 > len(self._heap):
            self.sweep()

    def sweep(self, keep: Callable[[Entry], bool] = lambda _: True) -> set[int]:
        """Throw out what was cancelled, and what *keep* says no to; return the id() of the rest."""
        kept = [entry for entry in self._heap if entry[_ITEM] is not None and keep(entry)]
        heapq.heapify(kept)
        self._heap, self._cancelled = kept, 0
        return set(map(id, kept))

    def pop(self) -> Any:
        """Take out the first item; None when empty."""
        heap = self._heap
        while heap:
            entry = heapq.heappop(heap)
            item, entry[_ITEM] = entry[_ITEM], None
            if item is not None:
                return item
            self._cancelled -= 1
        return None

    def head(self) -> Entry | None:
        """Return the first entry and leave it in; None when empty."""
        heap = self._heap
        while heap and heap[0][_ITEM] is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0] if heap else None

    def first(self, n: int) -> list[Entry]:
        """Return copies of the first *n* entries, in order, and leave them in.

        Walks the heap from its root, so it costs O(n log n) however many items there are.
        """
        found: list[Entry] = []
        heap = self._heap
        near = [(heap[0], 0)] if heap else []
        while near and len(found) < n:
            entry, position = heapq.heappop(near)
            if entry[_ITEM] is not None:
                found.append(list(entry))
            for child in (2 * position + 1, 2 * position + 2):
                if child < len(heap):
                    heapq.heappush(near, (heap[child], child))
        return found
