"""The limit "heap+": about what a library in Python can hope for.

A heap of due times, a heap by priority, a registry, a lock, counters, time stamps and workers on
a `SimpleQueue`. No retries, history, resource accounting, listeners or limits a task; nothing is
checked. Not meant for use.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["HeapPlus"]

_BATCH = 64  # released in one hold of the lock


class _Item:
    __slots__ = ("ask", "due", "ended", "function", "interval", "left", "number", "rank", "started")

    def __init__(self, number: int, function: Callable[[], object], rank: int) -> None:
        self.number, self.function, self.rank = number, function, rank
        self.due = self.started = self.ended = 0.0
        self.interval, self.left = 0.0, 0
        self.ask: Callable[[], float] | None = None


class HeapPlus:
    """Calls functions at their due times, *slots* at a time, those of the least rank first."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._wake = threading.Condition(threading.Lock())  # guards all below but the tokens
        self._agenda: list[tuple[float, int, _Item]] = []
        self._ready: list[tuple[int, int, float, _Item]] = []
        self._items: dict[int, _Item] = {}
        self._numbers, self._order = itertools.count(), itertools.count()
        self._tokens: SimpleQueue[bool] = SimpleQueue()  # one for each ready run
        self.is_over = False
        self.released = self.succeeded = self.failed = 0

    def start(self) -> None:
        """Start the workers and the thread that releases."""
        for target in [self._release_on, *[self._work] * self._slots]:
            threading.Thread(target=target, daemon=True).start()

    def add(
        self,
        function: Callable[[], object],
        due: float | None = None,
        *,
        interval: float = 0.0,
        ask: Callable[[], float] | None = None,
        count: int = 1,
        rank: int = 0,
    ) -> int:
        """Have *function* called *count* times from *due* on; return the number to `fire`.

        The next due time is one *interval* later, or what *ask* answers.
        """
        with self._wake:
            item = _Item(next(self._numbers), function, rank)
            item.interval, item.ask, item.left = interval, ask, count
            self._items[item.number] = item
            if due is not None:
                heapq.heappush(self._agenda, (due, next(self._order), item))
                if self._agenda[0][2] is item:
                    self._wake.notify()
        return item.number

    def fire(self, number: int) -> None:
        """Have the function with that number called now."""
        with self._wake:
            self._make_ready(self._items[number], time.time())
        self._tokens.put(True)

    def _make_ready(self, item: _Item, due: float) -> None:
        heapq.heappush(self._ready, (item.rank, next(self._order), due, item))
        self.released += 1

    def _release_on(self) -> None:
        while True:
            with self._wake:
                while not self.is_over and not self._is_due():
                    wait = self._agenda[0][0] - time.time() if self._agenda else None
                    self._wake.wait(wait)
                if self.is_over:
                    return
                released = self._release(time.time())
            for _ in range(released):
                self._tokens.put(True)

    def _is_due(self) -> bool:
        return bool(self._agenda) and self._agenda[0][0] <= time.time()

    def _release(self, now: float) -> int:
        released = 0
        while released < _BATCH and self._agenda and self._agenda[0][0] <= now:
            due, _, item = self._agenda[0]
            self._make_ready(item, due)
            released += 1
            item.left -= 1
            if item.left:
                following = item.ask() if item.ask else due + item.interval
                heapq.heapreplace(self._agenda, (following, next(self._order), item))
            else:
                heapq.heappop(self._agenda)
        return released

    def _work(self) -> None:
        run: tuple[int, int, float, _Item] | None = None
        is_ok = True
        while self._tokens.get():
            with self._wake:
                run = heapq.heappop(self._ready)
            item, started = run[3], time.time()
            try:
                item.function()
            except Exception:
                is_ok = False
            self._record(item, run[2], started, is_ok)
            is_ok = True

    def _record(self, item: _Item, due: float, started: float, is_ok: bool) -> None:
        with self._wake:
            item.due, item.started, item.ended = due, started, time.time()
            if is_ok:
                self.succeeded += 1
            else:
                self.failed += 1
            if not item.left:
                self._items.pop(item.number, None)
