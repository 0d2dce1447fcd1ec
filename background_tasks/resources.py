"""What one execution cost, as far as the thread that ran it can know.

Counted is the CPU time of that thread alone: not that of threads or processes the task started,
nor of the thread pools inside C libraries. A wall time far above the CPU time means that the task
waited, for the network or for its turn at the interpreter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from background_tasks.clock import monotonic

try:
    import resource
except ImportError:  # pragma: no cover - Windows has no resource module
    resource = None  # type: ignore[assignment]

__all__ = ["NO_COST", "Cost", "Reading", "Resources", "added", "read", "spent"]


class Resources(NamedTuple):
    """What an execution cost: the sum over its attempts, without the waits between them.

    Attributes:
        wall: Seconds from the function's call to its return.
        cpu_user: CPU seconds of the thread in user mode; all of the CPU time where the platform
            does not tell the modes apart.
        cpu_system: CPU seconds of the thread in the kernel.
    """

    wall: float = 0.0
    cpu_user: float = 0.0
    cpu_system: float = 0.0

    @property
    def cpu(self) -> float:
        """CPU seconds of the thread in both modes."""
        return self.cpu_user + self.cpu_system


Reading = tuple[float, float, float]  # monotonic seconds, CPU seconds in user and in system mode
Cost = tuple[float, float, float]  # a Resources before anybody looks at it
NO_COST: Cost = (0.0, 0.0, 0.0)


if hasattr(resource, "RUSAGE_THREAD"):
    _getrusage, _THREAD = resource.getrusage, resource.RUSAGE_THREAD

    def read() -> Reading:
        """Return the calling thread's counters now."""
        usage = _getrusage(_THREAD)
        return monotonic(), usage.ru_utime, usage.ru_stime

else:  # pragma: no cover - Linux has RUSAGE_THREAD; tested through _read_thread_time

    def read() -> Reading:
        """Return the calling thread's counters now."""
        return _read_thread_time()


def _read_thread_time(thread_time: Callable[[], float] = time.thread_time) -> Reading:
    return monotonic(), thread_time(), 0.0


def spent(before: Reading, after: Reading) -> Cost:
    """Return what was used between two readings of one thread.

    A plain tuple, not a Resources: 0.3 us less a run, and floats in a plain tuple are no work for
    the garbage collector, however long the history.
    """
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


def added(one: Cost, other: Cost) -> Cost:
    """Return the sum of both."""
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]
