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

__all__ = ["REAL", "Primitives"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitives:
    """The makers of locks, events, threads and queues, and the clocks, of one scheduler.

    Attributes:
        lock: Makes a lock that is not re-entrant.
        event: Makes an event.
        thread: Makes a thread, as ``threading.Thread`` does.
        queue: Makes an unbounded queue whose ``put`` may be called from a signal handler.
        get_ident: Returns a number for the calling thread.
        pause: Lets other threads run; called with 0.
        utc_now: The wall clock.
        monotonic: The clock for durations, in seconds.
    """

    lock: Callable[[], Any] = threading.Lock
    event: Callable[[], Any] = threading.Event
    thread: Callable[..., Any] = threading.Thread
    queue: Callable[[], Any] = queue.SimpleQueue
    get_ident: Callable[[], int] = threading.get_ident
    pause: Callable[[float], object] = time.sleep
    utc_now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = monotonic


REAL = Primitives()
