"""What the threaded part is built from, in one place, so that a simulation can put in its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from background_tasks.clock import monotonic, utc_now

__all__ = ["PATIENCE", "REAL", "Event", "Primitives", "Turn", "looks_free"]

PATIENCE = 1.0  # seconds; far above any hold of a lock: a guess
_GOES = 20  # looks at a lock, however late it is; a guess


class Event:
    """What one or more threads wait for, as with ``threading.Event``; `set` may be called anywhere.

    In a signal handler and in ``__del__``, too, which may interrupt any other call: that of
    `threading` takes a lock which the code that was interrupted may hold.
    """

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        """Start cleared."""
        self._gate = threading.Lock()  # held while it is not set
        self._gate.acquire()

    def set(self) -> None:
        """End all waits, those to come included."""
        try:
            self._gate.release()
        except RuntimeError:  # it was set already
            return

    def clear(self) -> None:
        """Let waits wait again."""
        self._gate.acquire(False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most so many seconds; return whether it was."""
        if not self._gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        self.set()  # for the others that wait
        return True


class Turn(dict[None, object]):
    """Whose turn it is at what one thread does at a time: a lock that is tried, not waited for.

    An exception of a signal handler cannot leave it taken, as it can a Lock that is acquired: it
    comes up between two calls, and whose turn it is changes in the middle of one, or of none::

        mine = object()
        try:
            if turn.setdefault(None, mine) is mine:
                ...
        finally:
            if turn[None] is mine:
                del turn[None]
    """

    def __missing__(self, key: None) -> None:
        """It is nobody's."""
        return

    def locked(self) -> bool:
        """Return whether it is somebody's."""
        return self[None] is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitives:
    """The makers of locks, events, threads and queues, and the clocks, of one scheduler.

    Attributes:
        lock: Makes a lock that is not re-entrant.
        event: Makes an event whose ``set`` may be called from a signal handler.
        thread: Makes a thread, as ``threading.Thread`` does.
        queue: Makes an unbounded queue whose ``put`` may be called from a signal handler.
        get_ident: Returns a number for the calling thread.
        pause: Lets other threads run; called with 0.
        utc_now: The wall clock.
        monotonic: The clock for durations, in seconds.
    """

    lock: Callable[[], Any] = threading.Lock
    event: Callable[[], Any] = Event
    thread: Callable[..., Any] = threading.Thread
    queue: Callable[[], Any] = queue.SimpleQueue
    get_ident: Callable[[], int] = threading.get_ident
    pause: Callable[[float], object] = time.sleep
    utc_now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = monotonic


REAL = Primitives()


def looks_free(lock: Any, pause: Callable[[float], object], end: float) -> bool:
    """Wait until nobody holds *lock*; False when somebody still does at monotonic *end*.

    That is the calling thread itself: it forks or stops us from a signal handler or a finalizer,
    in the middle of what it would wait for. Unless it was kept from running, as on a machine that
    is overloaded or was suspended: so it has a few looks at least.
    """
    looks = 0
    while lock.locked():
        looks += 1
        if looks > _GOES and monotonic() > end:
            return False
        pause(0)
    return True
