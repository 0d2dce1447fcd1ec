"""Who runs next: the released runs that may start, best first; no lock, thread or clock.

The key of a run never changes while it waits: ``stamp - aging * priority``, smallest first, ties
in the order they were put in. *stamp* is when the run could first have started, as the head of
its task's own queue: what waits behind its own backlog earns nothing. So a run with one point of
priority more goes before those that could have started up to *aging* seconds earlier, and before
no others. ``aging=0`` is first come first served, ``math.inf`` strict priority.

How long a run waits at most, with N slots, P the highest priority of all tasks, C the longest
run of a task, and no lanes, resources or gates in its way::

    aging * (P - priority) + sum of the C of the other tasks / N + the longest C of all

After the first ``aging * (P - priority)`` seconds of its wait whatever can start later has a larger
key. What still goes before it is one run of each other task, the heads of that moment, and at most
N runs are under way. No slot is free until it starts, so these are worked off N at a time: the
heads in the second term, what was under way in the third. Where priorities change while it waits,
P is the highest there was, *priority* its own lowest.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from background_tasks.heap import Entry, Heap

__all__ = ["Ready"]

_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
_SECOND = timedelta(seconds=1)
_SET_BACK = 1.0  # seconds; below it a clock was not set


class Ready(Heap):
    """Runs in dispatch order; an entry is ``[key, sequence, run]``."""

    __slots__ = ("_aging", "_latest", "_now")

    def __init__(self, aging: float, number: Callable[[], int] | None = None) -> None:
        """Start empty; *aging* is seconds a point of priority, 0 to infinity; see Heap, too."""
        super().__init__(number)
        self._aging = aging
        self._latest = 0.0  # the last stamp
        self._now = _EPOCH  # the instant that it stands for

    def stamp(self, now: datetime) -> float:
        """Return *now* as a stamp: seconds that go on with the clock, but never back.

        So a clock set back neither puts what comes later in front nor stops the aging. Callers
        that read the clock one after the other may come in another order; that is not going back.
        """
        if now is not self._now:  # a burst asks again and again with the same instant
            step = (now - self._now) / _SECOND
            if step > 0:
                self._latest += step
                self._now = now
            elif step < -_SET_BACK:
                self._now = now
        return self._latest

    def instant_of(self, stamp: float) -> datetime:
        """Return the instant of an earlier stamp, by the clock as it stands now."""
        return self._now - timedelta(seconds=self._latest - stamp)

    def startable(self) -> int:
        """Return how many runs may start: all there are."""
        return len(self)

    def pop_at(self, now: datetime) -> Any:
        """Take out the best run; None when there is none. *now* is for `Admission`."""
        return self.pop()

    def push(self, stamp: float, priority: int, run: object) -> Entry:
        """Put *run* in; return its entry, for `cancel`."""
        key: object = stamp  # the same object for all of a burst: heapq sees that at once
        if self._aging == math.inf:  # inf * 0 is NaN
            key = -priority, stamp
        elif priority:
            key = stamp - self._aging * priority
        entry = [key, self._number(), run]
        heapq.heappush(self._heap, entry)
        return entry
