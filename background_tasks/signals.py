"""SIGINT and SIGTERM for the commands: caught in a queue, so that each ends as it should."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from background_tasks.clock import monotonic
from background_tasks.interrupts import is_main_thread

__all__ = ["caught", "wait_for"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SLICE = 0.5  # seconds


@contextmanager
def caught() -> Iterator[SimpleQueue[int]]:
    """Yield a queue that SIGINT and SIGTERM are put into for as long as the context lasts.

    Outside of the main thread handlers cannot be installed, and nothing comes.
    """
    # Not an Event: a handler that sets it waits for the lock that the wait it interrupted, in the
    # same thread, may hold. SimpleQueue.put is documented as re-entrant.
    queue: SimpleQueue[int] = SimpleQueue()
    before = {
        number: signal.signal(number, lambda received, _: queue.put(received))
        for number in (_SIGNALS if is_main_thread() else ())
    }
    try:
        yield queue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not installed from Python


def wait_for(signals: SimpleQueue[int], seconds: float = math.inf) -> int | None:
    """Wait for a signal, at most *seconds*, and return its number; None when the time is up.

    In slices: Python does not call a handler while the main thread waits if the signal came just
    before that.
    """
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        with suppress(Empty):
            return signals.get(timeout=min(left, _SLICE))
    return None
