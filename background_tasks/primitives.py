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

__all__ = ["REAL", "Event", "Primitives"]


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
