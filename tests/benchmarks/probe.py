"""What the measured functions do, and how their times become figures.

The same functions are given to every contestant. They note wall time, since that is what due
instants are in, and use nothing that takes a lock.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence

__all__ = ["Finish", "Grid", "Work", "percentile", "wait_for"]

Work = Callable[[], object]


class Finish:
    """Notes when the first of *total* calls of `work` begins and when the last of them ends.

    Calls may come from any thread: ``next`` of an ``itertools.count`` is atomic. Nobody polls,
    the last call sets the time itself.
    """

    def __init__(self, total: int, turns: int = 0) -> None:
        """Have each call go *turns* times through an empty loop."""
        self.first = self.last = math.nan
        self._total = total
        self._begun, self._ended = itertools.count(), itertools.count()
        self._done = threading.Event()
        self.work = self._make_work(turns)

    def _make_work(self, turns: int) -> Work:
        begun, ended, final, clock = self._begun, self._ended, self._total - 1, time.time
        loop = range(turns)

        def work() -> None:
            if next(begun) == 0:
                self.first = clock()
            for _ in loop:
                pass
            if next(ended) == final:
                self.last = clock()
                self._done.set()

        return work

    @property
    def is_done(self) -> bool:
        """Whether all calls have ended."""
        return self._done.is_set()

    @property
    def ended(self) -> int:
        """How many calls have ended."""
        return int(repr(self._ended)[len("count(") : -1])  # reading it with next would change it

    def wait(self, patience: float = 5.0) -> int:
        """Wait until all calls have ended, or none did for *patience* seconds; return how many."""
        before = -1
        while not self._done.wait(patience) and self.ended > before:
            before = self.ended
        return self.ended


class Grid:
    """Collects when each of *tasks* functions was called, *count* times each if none is lost."""

    def __init__(self, tasks: int, count: int) -> None:
        self._count = count
        self._starts: list[list[float]] = [[] for _ in range(tasks)]
        self.works = [_noting(starts) for starts in self._starts]
        self.asked = tasks * count

    @property
    def ran(self) -> int:
        """How many calls there were."""
        return sum(map(len, self._starts))

    def lateness(self, start: float, interval: float) -> list[float]:
        """Return the seconds from ``start + k * interval`` to each call, sorted.

        Of a function that was called each time, the k-th call belongs to the k-th instant. Where
        calls were lost each belongs to the latest instant before it, which flatters who loses.
        """
        late: list[float] = []
        for starts in self._starts:
            if len(starts) == self._count:
                late.extend(at - start - k * interval for k, at in enumerate(sorted(starts)))
            else:
                late.extend((at - start) % interval for at in starts)
        return sorted(late)

    def mean_periods(self) -> list[float]:
        """Return for each function the mean of the seconds from one call to the next."""
        return [(max(s) - min(s)) / (len(s) - 1) for s in self._starts]

    def last_starts(self, start: float, interval: float, until: float) -> list[float]:
        """Return for each instant the seconds to the last of the calls that belong to it.

        A call that did not come counts as if it had come at *until*.
        """
        padded = [sorted(s) + [until] * (self._count - len(s)) for s in self._starts]
        return [max(s[k] for s in padded) - start - k * interval for k in range(self._count)]


def _noting(starts: list[float]) -> Work:
    append, clock = starts.append, time.time

    def work() -> None:
        append(clock())

    return work


def wait_for(progress: Callable[[], int], goal: int, patience: float, end: float) -> int:
    """Wait until *progress* reaches *goal*, stands still for *patience* s, or wall time *end*.

    Returns what it reached. For use once the schedule is over: looks ten times a second.
    """
    seen, changed_at = -1, time.time()
    while True:
        reached, now = progress(), time.time()
        if reached > seen:
            seen, changed_at = reached, now
        if reached >= goal or now - changed_at > patience or now > end:
            return reached
        time.sleep(0.1)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of *ordered* values; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
