"""What one execution cost, as far as the thread that ran it can know.

Counted is what that one thread used: its CPU time, page faults, context switches, blocks and
bytes. Not counted is what the task has done for it by others: by threads and processes that it
started, by the thread pools inside C libraries, by an executor on another machine but for the
thread that called the function there. A wall time far above the CPU time means that the task
waited, for the network or for its turn at the interpreter; the context switches tell of both.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from itertools import zip_longest
from operator import add, itemgetter
from typing import Any, NamedTuple

from background_tasks import checks
from background_tasks.clock import monotonic
from background_tasks.errors import InvalidTypeError, InvalidValueError
from background_tasks.plain import to_dict

try:
    import resource
except ImportError:  # pragma: no cover - Windows has no resource module
    resource = None  # type: ignore[assignment]

__all__ = [
    "BASIC",
    "NO_COST",
    "Cost",
    "Meter",
    "Reading",
    "Resources",
    "added",
    "extras_of",
    "joined",
    "meter_of",
]

_EXTRAS = ("io", "rss")
_IO_FILE = "/proc/thread-self/io"
_SIZE_FILE = "/proc/self/statm"
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)  # Windows has none, nor /proc


class Resources(NamedTuple):
    """What an execution cost: the sum over its attempts, without the waits between them.

    None is what nothing has measured: no attempt was made, the platform does not count it, or
    nobody asked for it with ``Scheduler(resources=...)``. Numbers are whole, but in a mean.

    Attributes:
        wall: Seconds from the function's call to its return.
        cpu_user: CPU seconds of the thread in user mode; all of the CPU time where the platform
            does not tell the modes apart.
        cpu_system: CPU seconds of the thread in the kernel.
        minor_faults: Pages that the thread touched first, or again after the kernel took them
            away, which needed no disk; each is a page, 4 KiB on most machines, so they tell how
            much memory it went through.
        major_faults: Pages that had to be read from a disk.
        voluntary_switches: How often the thread waited: for a lock, a file, the network, a sleep
            or the interpreter's lock.
        involuntary_switches: How often the kernel gave its CPU to another thread.
        blocks_read: Blocks of 512 bytes that were read from a disk for it; none for a file that
            lies in the cache.
        blocks_written: Blocks of 512 bytes that it made dirty, to be written to a disk later.
        bytes_read: With ``"io"``: bytes that its ``read`` calls returned, from files, pipes and
            caches alike; what a socket's ``recv`` returned is not counted.
        bytes_written: With ``"io"``: bytes that it gave to ``write`` calls, likewise.
        process_rss: With ``"rss"``: bytes of memory that the whole process had resident when the
            attempt ended, whichever task they belong to; of several attempts the largest.
    """

    wall: float = 0.0
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    minor_faults: float | None = None
    major_faults: float | None = None
    voluntary_switches: float | None = None
    involuntary_switches: float | None = None
    blocks_read: float | None = None
    blocks_written: float | None = None
    bytes_read: float | None = None
    bytes_written: float | None = None
    process_rss: float | None = None

    @property
    def cpu(self) -> float:
        """CPU seconds of the thread in both modes."""
        return self.cpu_user + self.cpu_system

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return to_dict(self)


Reading = tuple[Any, ...]  # a thread's counters at one moment; what is in it, its meter knows
Cost = tuple[Any, ...]  # a Resources before anybody looks at it; may be shorter
NO_COST: Cost = (0.0, 0.0, 0.0)
_RSS = Resources._fields.index("process_rss")


class Meter(NamedTuple):
    """What reads a thread's counters.

    Attributes:
        read: Returns those of the calling thread now.
        spent: Returns what was used between two readings of one thread.
    """

    read: Callable[[], Reading]
    spent: Callable[[Reading, Reading], Cost]


def added(one: Cost, other: Cost) -> Cost:
    """Return what two attempts of one run cost."""
    total = joined(one, other, add)
    return (*total[:_RSS], *joined(one[_RSS:], other[_RSS:], max))


def joined(one: Cost, other: Cost, join: Callable[[Any, Any], Any]) -> Cost:
    """Return what *join* makes of each two values; the one of them when the other is None."""
    return tuple(_both(a, b, join) for a, b in zip_longest(one, other))


def _both(one: Any, other: Any, join: Callable[[Any, Any], Any]) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return join(one, other)


# The counters that each attempt is charged for

if hasattr(resource, "RUSAGE_THREAD"):
    _getrusage, _THREAD = resource.getrusage, resource.RUSAGE_THREAD
    # By place, as getrusage(2) has them: by name it takes 0.5 us more.
    _counters = itemgetter(0, 1, 6, 7, 14, 15, 9, 10)

    def _read() -> Reading:
        return monotonic(), _counters(_getrusage(_THREAD))

    def _spent(before: Reading, after: Reading) -> Cost:
        # One by one, since a loop takes 0.3 us more. A plain tuple of numbers is no work for the
        # garbage collector, however long the history.
        t, (a, b, c, d, e, f, g, h) = before
        t_, (a_, b_, c_, d_, e_, f_, g_, h_) = after
        return t_ - t, a_ - a, b_ - b, c_ - c, d_ - d, e_ - e, f_ - f, g_ - g, h_ - h

    BASIC = Meter(_read, _spent)

else:  # pragma: no cover - Linux has RUSAGE_THREAD; tested by itself
    BASIC = Meter(lambda: _read_thread_time(), lambda before, after: _spent_time(before, after))


def _read_thread_time(thread_time: Callable[[], float] = time.thread_time) -> Reading:
    return monotonic(), thread_time()


def _spent_time(before: Reading, after: Reading) -> Cost:
    return after[0] - before[0], after[1] - before[1], 0.0


# Those that are asked for


def extras_of(resources: object) -> tuple[str, ...]:
    """Return the *resources* that are to be measured beside the usual ones, sorted.

    Raises:
        ValueError: There is no such measure, or the system does not have it.
        TypeError: It is neither a name nor several.
    """
    if not isinstance(resources, (str, tuple, list, set, frozenset)):
        raise InvalidTypeError(
            f'resources must be "io", "rss" or both in a tuple, got {checks.shown(resources)}'
        )
    names = (resources,) if isinstance(resources, str) else resources
    for each in names:
        if each not in _EXTRAS:
            raise InvalidValueError(
                f'resources must be "io", "rss" or both, got {checks.shown(each)}'
            )
        if not os.path.exists(_FILES[each]):
            raise InvalidValueError(f'resources="{each}" needs {_FILES[each]}, which is not here')
    return tuple(sorted(set(names)))


_FILES = {"io": _IO_FILE, "rss": _SIZE_FILE}


def meter_of(extras: tuple[str, ...]) -> Meter:
    """Return what measures the usual resources and *extras*, from `extras_of`."""
    if not extras:
        return BASIC
    has_io, has_rss = "io" in extras, "rss" in extras

    def read() -> Reading:
        return BASIC.read(), _read_io() if has_io else None, None

    def spent(before: Reading, after: Reading) -> Cost:
        cost = BASIC.spent(before[0], after[0])
        padding = (None,) * (_RSS - 2 - len(cost))  # where the platform counts less
        moved = _moved(before[1], after[1]) if has_io else (None, None)
        return (*cost, *padding, *moved, _resident() if has_rss else None)

    return Meter(read, spent)


class _OpenFile:
    """A file of /proc that is kept open: to open it anew takes ten times as long as to read it."""

    def __init__(self, path: str) -> None:
        self._identity: tuple[int, int] | None = None
        self.number = os.open(path, _FLAGS)
        self._identity = self._seen()

    def _seen(self) -> tuple[int, int]:
        status = os.fstat(self.number)
        return status.st_dev, status.st_ino

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            # Not what somebody has opened under its number, after closing what was not his.
            if self._identity is not None and self._seen() == self._identity:
                os.close(self.number)


class _Files(threading.local):
    """The files of the calling thread: closed when it ends."""

    def __init__(self) -> None:
        self.by_path: dict[str, _OpenFile] = {}


_files = _Files()


def _forget_files() -> None:
    """In a forked child, whose files those of its parent are not."""
    _files.by_path.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows does not fork
    os.register_at_fork(after_in_child=_forget_files)


def _contents(path: str) -> bytes:
    """Return what *path* says of the calling thread, b"" when it cannot be read any more."""
    try:
        file = _files.by_path.get(path)
        if file is None:
            file = _files.by_path[path] = _OpenFile(path)
        return os.pread(file.number, 512, 0)
    except OSError:  # too many files are open, say: no reason to harm the run
        _files.by_path.pop(path, None)
        return b""


def _read_io() -> bytes:
    return _contents(_IO_FILE)


def _moved(before: bytes, after: bytes) -> tuple[int | None, int | None]:
    """Return the bytes read and written between two contents of the io file."""
    if not before or not after:
        return None, None
    start, end = before.split(), after.split()
    try:  # the first reading itself is counted by the second
        return int(end[1]) - int(start[1]) - len(before), int(end[3]) - int(start[3])
    except (ValueError, IndexError):  # the task has closed it, and opened another in its place
        _files.by_path.pop(_IO_FILE, None)
        return None, None


def _resident() -> int | None:
    try:
        return int(_contents(_SIZE_FILE).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, IndexError):  # as above, or it cannot be read
        _files.by_path.pop(_SIZE_FILE, None)
        return None
