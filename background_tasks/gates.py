"""Gates: resources that are measured, and may be too short for one more run.

A `Gate` is a sensor, any callable that returns a number, with two thresholds: it closes when the
reading reaches the one and opens again when the reading is back at the other. In between it stays
as it is, so that a reading that trembles around one value does not open and close it all the time.
A user writes one in three lines::

    def orders_waiting() -> float:
        return float(orders.qsize())

    Gate(orders_waiting, close=1000, reopen=800)

A sensor that fails opens its gate: what cannot be measured holds nothing up. What a gate keeps
from starting is decided elsewhere; here is only what is measured.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType

from background_tasks import checks
from background_tasks.errors import InvalidTypeError, InvalidValueError, MissingExtraError
from background_tasks.interrupts import hand_on

__all__ = ["CpuPressure", "Gate", "GateReading", "Gates", "LoadPerCpu", "MemoryAvailable"]

_PERIOD = 1.0  # seconds from one sample to the next, at least
_PROC = "/proc"
_EASED = 0.8  # of the threshold at which high is bad, to open again; a guess
_RECOVERED = 1.25  # of the threshold at which low is bad, to open again; a guess
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_SOME_AVG10 = re.compile(rf"^some avg10={_NUMBER}\b", re.MULTILINE)


# What is described


@dataclass(frozen=True, slots=True, init=False)
class Gate:
    """A sensor and the two readings at which it closes and opens; never changes.

    With *close* above *reopen* high readings are bad (a load), below it low ones are (free
    memory). No state is in it, so one Gate may be given to several schedulers.

    Attributes:
        sensor: Called with no arguments at most once a second, with no lock held, by the thread
            that ticks; returns an int or a float. It should return soon: nothing is released
            meanwhile.
        name: What people call it; by default the sensor's own name.
        close: It closes when a reading reaches this.
        reopen: It opens when a reading is back at this.
        unit: What stands behind a reading in a text, such as "%".
    """

    sensor: Callable[[], float] = field(repr=False)
    name: str
    close: float
    reopen: float
    unit: str

    def __init__(
        self,
        sensor: Callable[[], float],
        *,
        name: str | None = None,
        close: float,
        reopen: float,
        unit: str = "",
    ) -> None:
        """Refuse what breaks a rule; the thresholds are kept as floats.

        Raises:
            ValueError: The thresholds are equal, NaN or infinite, or *name* or *unit* cannot
                stand in a line of text.
            TypeError: *sensor* cannot be called without arguments or is not synchronous, or
                another argument is of the wrong kind; a bool is no number.
        """
        checks.call("sensor", sensor, (), {})
        own_name = getattr(sensor, "__name__", type(sensor).__name__)
        closing, opening = _finite("close", close), _finite("reopen", reopen)
        if closing == opening:
            raise InvalidValueError(f"reopen must differ from close, got {closing!r} for both")
        put = object.__setattr__
        put(self, "sensor", sensor)
        put(self, "name", checks.name_text("name", own_name if name is None else name))
        put(self, "close", closing)
        put(self, "reopen", opening)
        put(self, "unit", checks.text("unit", unit) and checks.name_text("unit", unit))

    def is_closed(self, value: float, *, was_closed: bool) -> bool:
        """Return whether the gate is closed at a reading; before, it was closed or not."""
        if self.close > self.reopen:
            return value >= self.close or (was_closed and value > self.reopen)
        return value <= self.close or (was_closed and value < self.reopen)


class CpuPressure(Gate):
    """Closes while programs wait for a CPU for too much of the time.

    The reading is the share of the last ten seconds, in percent, in which at least one program
    could have run and had no CPU: "some avg10" of Linux' pressure stall information. It is that
    of the whole machine.

    Where there is no such information (before Linux 4.20, with ``psi=0``, on other systems) it is
    what psutil says of the share of CPU time in use since the last reading. That approximation is
    the larger number, 100 where all CPUs are busy and nobody waits: choose *percent* for it, or
    use `LoadPerCpu`.
    """

    __slots__ = ()

    def __init__(self, percent: float, reopen: float | None = None) -> None:
        """Close at *percent* and above, open at *reopen* and below.

        Args:
            percent: Above 0, at most 100.
            reopen: At least 0, below *percent*; by default 0.8 times *percent*.

        Raises:
            ValueError: A value breaks a rule.
            TypeError: A value is of the wrong kind.
        """
        if not 0 < _finite("percent", percent) <= 100:
            raise InvalidValueError(
                f"percent must be above 0 and at most 100, got {checks.shown(percent)}"
            )
        eased = _eased(percent, reopen)
        super().__init__(_cpu_pressure, name="CPU pressure", close=percent, reopen=eased, unit="%")


class LoadPerCpu(Gate):
    """Closes while more programs run or wait than there are CPUs for them.

    The reading is the load average of the last minute divided by the number of CPUs this process
    may use. The load average is that of the whole machine; it is psutil's where Python has none.
    """

    __slots__ = ()

    def __init__(self, load: float, reopen: float | None = None) -> None:
        """Close at *load* and above, open at *reopen* and below.

        Args:
            load: Programs a CPU, above 0.
            reopen: At least 0, below *load*; by default 0.8 times *load*.

        Raises:
            ValueError: A value breaks a rule.
            TypeError: A value is of the wrong kind.
        """
        if not _finite("load", load) > 0:
            raise InvalidValueError(f"load must be above 0, got {checks.shown(load)}")
        super().__init__(
            _load_per_cpu, name="load per CPU", close=load, reopen=_eased(load, reopen)
        )


class MemoryAvailable(Gate):
    """Closes while too little memory could be had without swapping.

    The reading is a share, 0 to 1, of the machine's memory: MemAvailable by MemTotal of
    ``/proc/meminfo`` on Linux, what psutil says elsewhere. A limit that a container has is not
    seen.
    """

    __slots__ = ()

    def __init__(self, share: float, reopen: float | None = None) -> None:
        """Close at *share* and below, open at *reopen* and above.

        Args:
            share: Above 0, below 1.
            reopen: Above *share*, at most 1; by default 1.25 times *share*, but no further than
                half way from there to 1.

        Raises:
            ValueError: A value breaks a rule.
            TypeError: A value is of the wrong kind.
        """
        if not 0 < _finite("share", share) < 1:
            raise InvalidValueError(f"share must be above 0 and below 1, got {checks.shown(share)}")
        if reopen is None:
            reopen = min(_RECOVERED * share, (share + 1) / 2)
        if not share < _finite("reopen", reopen) <= 1:
            raise InvalidValueError(
                f"reopen must be above {share:g} and at most 1, got {checks.shown(reopen)}"
            )
        super().__init__(_memory_available, name="memory available", close=share, reopen=reopen)


def _finite(rule: str, value: object) -> float:
    """Return *value* as a float if it is a number that has an end; *rule* names it."""
    number = checks.number(rule, value)
    if abs(number) > sys.float_info.max:
        raise InvalidValueError(f"{rule} must be finite, got {checks.shown(value)}")
    return float(number)


def _eased(close: float, reopen: float | None) -> float:
    """Return where a gate opens at which high is bad: by default 0.8 times where it closes."""
    if reopen is None:
        return _EASED * close
    if not 0 <= _finite("reopen", reopen) < close:
        raise InvalidValueError(
            f"reopen must be at least 0 and below {close:g}, got {checks.shown(reopen)}"
        )
    return reopen


# What is measured


def _cpu_pressure() -> float:
    try:
        text = _text_of("pressure/cpu")
    except FileNotFoundError:
        return _cpu_percent()
    return _parse_pressure(text)


def _cpu_percent() -> float:
    """Return the percentage of CPU time in use since the last call; 0 when psutil is new.

    It counts from its import, and of the microseconds since then it would say 0 or 100.
    """
    is_new = "psutil" not in sys.modules
    percent = float(_psutil().cpu_percent())
    return 0.0 if is_new else percent


def _parse_pressure(text: str) -> float:
    """Return the percentage of "some avg10" in the text of ``/proc/pressure/cpu``.

    Raises:
        ValueError: It is not there.

    Source: Documentation/accounting/psi.rst of Linux.
    """
    found = _SOME_AVG10.search(text)
    if found is None:
        raise ValueError(f"text must have a line 'some avg10=NUMBER', got {checks.shown(text)}")
    return float(found[1])


def _load_per_cpu() -> float:
    average = os.getloadavg if hasattr(os, "getloadavg") else _psutil().getloadavg
    return float(average()[0]) / _usable_cpus()


def _usable_cpus() -> int:
    """Return how many CPUs this process may use, or how many there are; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_available() -> float:
    try:
        text = _text_of("meminfo")
    except FileNotFoundError:
        memory = _psutil().virtual_memory()
        return float(memory.available / memory.total)
    return _parse_meminfo(text)


def _parse_meminfo(text: str) -> float:
    """Return which share of memory is available by the text of ``/proc/meminfo``.

    Raises:
        ValueError: One of the two lines it takes is not there, as MemAvailable before Linux 3.14,
            or there is no memory.

    Source: proc_meminfo(5).
    """
    available, total = (_size(text, name) for name in ("MemAvailable", "MemTotal"))
    if not total:
        raise ValueError("MemTotal must be above 0, got 0")
    return available / total


def _size(text: str, name: str) -> int:
    found = re.search(rf"^{name}: *([0-9]+) kB$", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"text must have a line '{name}: NUMBER kB', got {checks.shown(text)}")
    return int(found[1])


def _text_of(name: str) -> str:
    with open(f"{_PROC}/{name}", encoding="ascii") as file:
        return file.read()


def _psutil() -> ModuleType:
    """Return psutil, which is asked only where the system's own files are missing."""
    try:
        import psutil  # optional, and few need it
    except ImportError as error:
        raise MissingExtraError(
            "psutil must be installed where Linux' own files are missing:"
            " pip install 'background-tasks[psutil]'"
        ) from error
    return psutil


# What was read


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReading:
    """What a gate's sensor said at one moment, and what that makes of the gate.

    Attributes:
        name: The name of the gate.
        at: When, an aware UTC datetime.
        value: What the sensor returned; None when it failed.
        unit: What stands behind the value in a text.
        close: The reading at which the gate closes.
        reopen: The reading at which it opens again.
        is_closed: Whether it is closed now; never when the sensor failed.
        error: Why the sensor failed, ``"OSError: text"``; "" when it did not.
        news: What is different from the reading before: "closed", "opened", "failed" or, of a
            sensor that works again, "recovered"; "closed" when it works again and closes the
            gate. "" is nothing: an open gate is what every gate begins with.
    """

    name: str
    at: datetime
    value: float | None
    unit: str = ""
    close: float
    reopen: float
    is_closed: bool = False
    error: str = ""
    news: str = ""

    def __str__(self) -> str:
        """Return it for people, such as "CPU pressure 43.2 % (closes at 30, opens at 24)"."""
        if self.value is None:
            return f"{self.name} is not known, which keeps the gate open: {self.error}"
        value = f"{_shortly(self.value)} {self.unit}".rstrip()
        bounds = f"closes at {_shortly(self.close)}, opens at {_shortly(self.reopen)}"
        return f"{self.name} {value} ({bounds})"


def _shortly(value: float) -> str:
    """Return *value* with four digits, or with six when all of them stand before the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.6g}"


# What changes


class Gates:
    """The gates of one scheduler and what they read last.

    One thread at a time calls `sample`; the rest may be called by any thread at any time.
    """

    # No lock: every attribute is written by the sampling thread only, and what others read is
    # one reference to a tuple that is replaced, never changed.
    def __init__(
        self, gates: Iterable[Gate] = (), redact: Callable[[str], str] | None = None
    ) -> None:
        """Start with all gates open and a sample due; *redact* is as for `Scheduler`.

        Raises:
            TypeError: *gates* is not a list, or another iterable, of Gate.
        """
        self._gates = _gates_of(gates)  # set once
        self._redact = redact  # set once
        self._next = -math.inf  # sampling thread only; monotonic seconds, another may read it
        self._readings: tuple[GateReading, ...] = ()  # replaced by the sampling thread
        self._closed: tuple[GateReading, ...] = ()  # those of _readings; replaced after it

    def __len__(self) -> int:
        """Return how many gates there are."""
        return len(self._gates)

    def due(self, now: float) -> bool:
        """Return whether to sample at *now*, monotonic seconds; never when there is no gate."""
        return bool(self._gates) and now >= self._next

    def wait(self, now: float) -> float | None:
        """Return the seconds until a sample is due, at least 0; None when there is no gate."""
        return max(0.0, self._next - now) if self._gates else None

    def sample(self, now: float, at: datetime) -> list[GateReading]:
        """Ask every sensor and return the readings that are news, in the order of the gates.

        Calls the user's code: call it with no lock held. The next sample is due a second after
        *now*, so it is best the instant at which this call begins.

        Args:
            now: Monotonic seconds.
            at: The same instant, an aware UTC datetime.
        """
        self._next = now + _PERIOD  # first: a sensor may call what would sample again
        before = self._readings or (None,) * len(self._gates)
        self._readings = tuple(
            _read(gate, last, at, self._redact)
            for gate, last in zip(self._gates, before, strict=True)
        )
        self._closed = tuple(reading for reading in self._readings if reading.is_closed)
        return [reading for reading in self._readings if reading.news]

    def readings(self) -> tuple[GateReading, ...]:
        """Return the last reading of each gate; empty before the first sample."""
        return self._readings

    def closed(self) -> tuple[GateReading, ...]:
        """Return the last readings of the gates that are closed."""
        return self._closed


def _gates_of(gates: object) -> tuple[Gate, ...]:
    if not isinstance(gates, Iterable) or isinstance(gates, (str, bytes)):
        raise InvalidTypeError(f"gates must be a list or tuple of Gate, got {checks.shown(gates)}")
    wanted = tuple(gates)
    for gate in wanted:
        if not isinstance(gate, Gate):
            raise InvalidTypeError(f"each gate must be a Gate, got {checks.shown(gate)}")
    return wanted


def _read(
    gate: Gate, before: GateReading | None, at: datetime, redact: Callable[[str], str] | None
) -> GateReading:
    """Ask the gate's sensor; never raises."""
    was_closed = before is not None and before.is_closed
    had_failed = before is not None and before.value is None
    value, error = _ask(gate.sensor)
    is_closed = value is not None and gate.is_closed(value, was_closed=was_closed)
    if value is None:
        news = "" if had_failed else "failed"
    elif is_closed != was_closed:
        news = "closed" if is_closed else "opened"
    else:
        news = "recovered" if had_failed else ""
    return GateReading(
        name=gate.name,
        at=at,
        value=value,
        unit=gate.unit,
        close=gate.close,
        reopen=gate.reopen,
        is_closed=is_closed,
        error=checks.redacted(redact, error),
        news=news,
    )


def _ask(sensor: Callable[[], object]) -> tuple[float | None, str]:
    """Return what the sensor says and "", or None and why not."""
    try:
        return float(checks.number("a reading", sensor())), ""
    except BaseException as error:  # SystemExit included: the thread that ticks lives on
        hand_on(error)
        return None, checks.error_text(error)
