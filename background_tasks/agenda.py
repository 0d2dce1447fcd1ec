"""What is due when: a heap of instants, with no lock, thread or clock in it.

The key is due time, then priority, then sequence, so that what is due at one instant comes out
with the urgent first and, among equals, in the order it was put in.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from background_tasks.heap import Entry, Heap

__all__ = ["Agenda"]


class Agenda(Heap):
    """Items with a due time each; an entry is ``[due, -priority, sequence, item]``."""

    __slots__ = ()

    def push(self, due: datetime, priority: int, item: object) -> Entry:
        """Put *item* in; return its entry, for `cancel`."""
        entry = [due, -priority, self._number(), item]
        heapq.heappush(self._heap, entry)
        return entry

    def next_due(self) -> datetime | None:
        """Return the earliest due time, None when empty."""
        head = self.head()
        return None if head is None else head[0]

    def due_items(self, now: datetime) -> Iterator[Any]:
        """Yield what is due at or before *now*, in no order; costs nothing for the rest."""
        heap, below = self._heap, [0]
        while below:
            position = below.pop()
            if position < len(heap) and heap[position][0] <= now:
                if heap[position][-1] is not None:
                    yield heap[position][-1]
                below += (2 * position + 1, 2 * position + 2)

    def pop_due(self, now: datetime) -> Any:
        """Take out the first item whose due time is at or before *now*; None if there is none."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            entry = heapq.heappop(heap)
            item, entry[-1] = entry[-1], None
            if item is not None:
                return item
            self._cancelled -= 1
        return None
