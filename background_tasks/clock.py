"""The only two readers of time: the wall clock for *when*, the monotonic one for *how long*.

Both look their source up at each call, so that freezegun and time-machine are obeyed.
"""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Callable

__all__ = ["monotonic", "utc_now"]

_UTC = datetime.timezone.utc
_READS = 100  # at least one of which is good; a guess, the race was never seen to last two
_PAUSE = 0.001  # seconds, in which whoever takes down the frozen times goes on


def utc_now() -> datetime.datetime:
    """Return the wall time as an aware UTC datetime."""
    try:
        return datetime.datetime.now(_UTC)
    except IndexError:
        return _read_again()


def _read_again() -> datetime.datetime:
    """Return the wall time after a read that failed.

    freezegun takes its list of frozen times down while another thread may be reading it, and the
    reader gets an IndexError; the next read is right.
    """
    for _ in range(_READS - 1):
        try:
            return datetime.datetime.now(_UTC)
        except IndexError:  # noqa: PERF203 - in a loop only to be tried again
            time.sleep(_PAUSE)
    return datetime.datetime.now(_UTC)


if hasattr(time, "CLOCK_MONOTONIC"):
    # Seconds from an unknown start, for durations; real also while time is frozen: the libraries
    # that freeze time leave `time.clock_gettime` alone, whereas their `time.monotonic` is real or
    # frozen by the depth of the caller's stack. Not a `def`: that doubles what a reading costs.
    monotonic: Callable[[], float] = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)

else:  # pragma: no cover - platforms without clock_gettime, such as Windows

    def monotonic() -> float:
        """Return seconds from an unknown start, for durations."""
        return time.monotonic()
