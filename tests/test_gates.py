"""Gates: what is measured, when a gate closes and opens, and what is said of it."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from background_tasks import (
    BackgroundTasksError,
    CpuPressure,
    Gate,
    GateReading,
    LoadPerCpu,
    MemoryAvailable,
    MissingExtraError,
    gates,
)
from background_tasks.gates import Gates

_START = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
_SECOND = timedelta(seconds=1)

PRESSURE = """\
some avg10=43.21 avg60=12.05 avg300=3.10 total=3665578
full avg10=1.50 avg60=0.00 avg300=0.00 total=0
"""
MEMINFO = """\
MemTotal:       16000000 kB
MemFree:          500000 kB
MemAvailable:    4000000 kB
SwapTotal:             0 kB
HugePages_Total:       0
"""


class Dial:
    """A sensor that returns what it is set to, or raises it."""

    def __init__(self, value: Any = 0.0) -> None:
        """Set it to *value*."""
        self.value = value
        self.asked = 0

    def __call__(self) -> float:
        """Be the sensor."""
        self.asked += 1
        if isinstance(self.value, BaseException):
            raise self.value
        value: float = self.value
        return value


def high(sensor: Callable[[], float], name: str = "queue") -> Gate:
    """Return a gate that closes at 30 and opens at 24."""
    return Gate(sensor, name=name, close=30, reopen=24)


def news_of(gate: Gate, dial: Dial, values: list[Any]) -> list[str]:
    """Return the news of one sample for each of *values*."""
    held = Gates([gate])
    told: list[str] = []
    for second, value in enumerate(values):
        dial.value = value
        news = held.sample(float(second), _START + second * _SECOND)
        told.append(" ".join(reading.news for reading in news))
    return told


# When a gate closes and opens


@pytest.mark.parametrize(
    ("value", "from_open", "from_closed"),
    [
        (0, False, False),
        (23.9, False, False),
        (24, False, False),
        (24.1, False, True),
        (29.9, False, True),
        (30, True, True),
        (30.1, True, True),
        (math.inf, True, True),
        (-math.inf, False, False),
    ],
)
def test_high_is_bad(value: float, from_open: bool, from_closed: bool) -> None:
    """It closes at 30 and above, opens at 24 and below, and in between stays as it is."""
    gate = high(Dial())

    assert gate.is_closed(value, was_closed=False) is from_open
    assert gate.is_closed(value, was_closed=True) is from_closed


@pytest.mark.parametrize(
    ("value", "from_open", "from_closed"),
    [
        (1.0, False, False),
        (0.126, False, False),
        (0.125, False, False),
        (0.124, False, True),
        (0.101, False, True),
        (0.1, True, True),
        (0.0, True, True),
    ],
)
def test_low_is_bad(value: float, from_open: bool, from_closed: bool) -> None:
    """It closes at 0.1 and below, opens at 0.125 and above, and in between stays as it is."""
    gate = Gate(Dial(), close=0.1, reopen=0.125)

    assert gate.is_closed(value, was_closed=False) is from_open
    assert gate.is_closed(value, was_closed=True) is from_closed


def test_news_are_told_once() -> None:
    """A gate that trembles around its threshold is closed once and opened once."""
    dial = Dial()

    told = news_of(high(dial), dial, [10, 29, 30, 29, 31, 25, 30, 24, 29, 24, 30])

    assert told == ["", "", "closed", "", "", "", "", "opened", "", "", "closed"]


def test_a_threshold_may_be_negative() -> None:
    """A sensor of degrees, say."""
    gate = Gate(Dial(), close=-5, reopen=-10)

    assert gate.is_closed(-5, was_closed=False)
    assert not gate.is_closed(-10, was_closed=True)


# A sensor that fails


def _broken(error: BaseException) -> Any:
    return pytest.param(error, id=type(error).__name__)


@pytest.mark.parametrize(
    "bad",
    [
        _broken(OSError("no such sensor")),
        _broken(SystemExit("no")),
        _broken(GeneratorExit()),
        math.nan,
        None,
        "12",
        True,
        10**400,
    ],
)
def test_a_sensor_that_fails_opens_its_gate(bad: object) -> None:
    """Whatever it raises or returns instead of a number; what it said before does not count."""
    dial = Dial(99)
    held = Gates([high(dial)])
    held.sample(0.0, _START)
    assert [reading.is_closed for reading in held.closed()] == [True]
    dial.value = bad

    (reading,) = held.sample(1.0, _START + _SECOND)

    assert (reading.news, reading.value, reading.is_closed) == ("failed", None, False)
    assert reading.error
    assert held.closed() == ()
    assert held.readings() == (reading,)


def test_a_failure_is_said_once() -> None:
    """Until the sensor works again, also when it fails in another way; then that is said too."""
    dial = Dial()
    gone, broken = OSError("gone"), ValueError("broken")

    told = news_of(high(dial), dial, [gone, gone, broken, math.nan, 25, 25, gone, gone, 24])

    assert told == ["failed", "", "", "", "recovered", "", "failed", "", "recovered"]


def test_a_sensor_that_works_again_may_close_its_gate() -> None:
    """That is what is said then; between the thresholds the gate stays open."""
    dial = Dial()
    gone = OSError("gone")

    assert news_of(high(dial), dial, [30, gone, 30, 24]) == ["closed", "failed", "closed", "opened"]
    assert news_of(high(dial), dial, [30, gone, 29]) == ["closed", "failed", "recovered"]


def test_why_a_sensor_fails_is_redacted() -> None:
    """Before anybody sees it."""
    held = Gates([high(Dial(OSError("no key hunter2")))], lambda text: text.replace("hunter2", "-"))

    (reading,) = held.sample(0.0, _START)

    assert reading.error == "OSError: no key -"


def test_a_failure_says_why() -> None:
    """The error by name and text, as long as it lasts, and not after."""
    dial = Dial(OSError("no such sensor"))
    held = Gates([high(dial)])

    held.sample(0.0, _START)
    held.sample(1.0, _START)

    assert held.readings()[0].error == "OSError: no such sensor"
    assert str(held.readings()[0]) == (
        "queue is not known, which keeps the gate open: OSError: no such sensor"
    )
    dial.value = "1"
    held.sample(2.0, _START)
    assert held.readings()[0].error == "InvalidTypeError: a reading must be a number, got '1'"
    dial.value = 1
    held.sample(3.0, _START)
    assert held.readings()[0].error == ""


def test_one_sensor_that_fails_leaves_the_others_alone() -> None:
    """Each gate goes by its own sensor, and all are asked."""
    before, broken, after = Dial(30), Dial(SystemExit()), Dial(30)
    held = Gates([high(before, "before"), high(broken, "broken"), high(after, "after")])

    news = held.sample(0.0, _START)

    assert [(reading.name, reading.news) for reading in news] == [
        ("before", "closed"),
        ("broken", "failed"),
        ("after", "closed"),
    ]
    assert [reading.name for reading in held.closed()] == ["before", "after"]


# When to sample


def test_at_most_once_a_second() -> None:
    """By the monotonic clock, from the beginning of one sample to that of the next."""
    held = Gates([high(Dial())])

    assert (held.due(100.0), held.wait(100.0)) == (True, 0.0)
    held.sample(100.0, _START)
    assert (held.due(100.0), held.wait(100.0)) == (False, 1.0)
    assert (held.due(100.75), held.wait(100.75)) == (False, 0.25)
    assert (held.due(101.0), held.wait(101.0)) == (True, 0.0)
    assert (held.due(107.5), held.wait(107.5)) == (True, 0.0)


def test_without_gates_nothing_is_due() -> None:
    """Ever; to sample all the same does nothing."""
    held = Gates()

    assert (held.due(5.0), held.wait(5.0)) == (False, None)
    assert held.sample(5.0, _START) == []
    assert (held.readings(), held.closed()) == ((), ())


def test_before_the_first_sample_all_is_open() -> None:
    """Nothing is known and no sensor is asked."""
    dial = Dial(99)
    held = Gates([high(dial)])

    assert (held.readings(), held.closed(), dial.asked) == ((), (), 0)


def test_no_sample_is_due_while_one_is_taken() -> None:
    """A sensor that calls back is not asked again by itself."""
    due: list[bool] = []

    def nosy() -> float:
        due.append(held.due(0.0))
        return 1.0

    held = Gates([high(nosy)])

    held.sample(0.0, _START)

    assert due == [False]


def test_what_was_read_does_not_change() -> None:
    """A reader keeps what it got; the next sample puts another in its place."""
    dial = Dial(30)
    held = Gates([high(dial)])
    held.sample(0.0, _START)
    readings, closed = held.readings(), held.closed()
    dial.value = 10

    held.sample(1.0, _START + _SECOND)

    assert [(reading.value, reading.at) for reading in readings] == [(30.0, _START)]
    assert closed == readings
    assert [(reading.value, reading.at) for reading in held.readings()] == [
        (10.0, _START + _SECOND)
    ]
    assert held.closed() == ()


def test_a_gate_may_be_given_to_two() -> None:
    """No state is in it: each goes by its own readings."""
    dial = Dial(30)
    gate = high(dial)
    one, other = Gates([gate]), Gates(iter([gate]))

    one.sample(0.0, _START)
    dial.value = 27
    one.sample(1.0, _START)
    other.sample(1.0, _START)

    assert len(one.closed()) == 1
    assert other.closed() == ()


# What is said


@pytest.mark.parametrize(
    ("value", "unit", "close", "reopen", "said"),
    [
        (43.2, "%", 30, 24, "load 43.2 % (closes at 30, opens at 24)"),
        (0.08341, "", 0.1, 0.125, "load 0.08341 (closes at 0.1, opens at 0.125)"),
        (15234, "orders", 20000, 1e4, "load 15234 orders (closes at 20000, opens at 10000)"),
        (999.96, "", 1000, 1, "load 1000 (closes at 1000, opens at 1)"),
        (1000.4, "", 1000, 1, "load 1000.4 (closes at 1000, opens at 1)"),
        (-12.3456, "°C", -5, -10, "load -12.35 °C (closes at -5, opens at -10)"),
        (math.inf, "", 2, 1, "load inf (closes at 2, opens at 1)"),
    ],
)
def test_a_reading_is_for_people(
    value: float, unit: str, close: float, reopen: float, said: str
) -> None:
    """What it is, its value and the two thresholds."""
    held = Gates([Gate(Dial(value), name="load", close=close, reopen=reopen, unit=unit)])

    held.sample(0.0, _START)

    assert str(held.readings()[0]) == said


def test_a_reading_holds_all_there_is_to_know() -> None:
    """And cannot be changed."""
    held = Gates([high(Dial(30))])

    (reading,) = held.sample(0.0, _START)

    assert reading == GateReading(
        name="queue", at=_START, value=30.0, close=30.0, reopen=24.0, is_closed=True, news="closed"
    )
    assert type(reading.value) is float
    with pytest.raises(FrozenInstanceError):
        reading.value = 1.0  # type: ignore[misc] # that is the point


# What a gate is made of


def _sensor() -> float:
    return 1.0


@pytest.mark.parametrize(
    ("sensor", "name"),
    [
        pytest.param(_sensor, "_sensor", id="function"),
        pytest.param(lambda: 1.0, "<lambda>", id="lambda"),
        pytest.param(Dial(), "Dial", id="object"),
        pytest.param(functools.partial(max, 1.0, 2.0), "partial", id="partial"),
    ],
)
def test_a_gate_is_named_after_its_sensor(sensor: Callable[[], float], name: str) -> None:
    """Unless it is given a name."""
    assert Gate(sensor, close=2, reopen=1).name == name
    assert Gate(sensor, name="mine", close=2, reopen=1).name == "mine"


@pytest.mark.parametrize("field", ["sensor", "name", "close", "reopen", "unit"])
def test_a_gate_does_not_change(field: str) -> None:
    """Its fields are frozen, those of the gates that come with the library too."""
    for gate in (high(Dial()), CpuPressure(30)):
        with pytest.raises(FrozenInstanceError):
            setattr(gate, field, None)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"sensor": 5}, TypeError, ["sensor must be callable", "5"]),
        ({"sensor": None}, TypeError, ["sensor must be callable"]),
        ({"sensor": len}, TypeError, ["sensor", "must take args and kwargs"]),
        ({"close": True}, TypeError, ["close must be a number", "True"]),
        ({"close": "30"}, TypeError, ["close must be a number", "'30'"]),
        ({"close": None}, TypeError, ["close must be a number", "None"]),
        ({"close": math.nan}, ValueError, ["close must be a number", "nan"]),
        ({"close": math.inf}, ValueError, ["close must be finite", "inf"]),
        ({"close": 10**400}, ValueError, ["close must be finite"]),
        ({"reopen": False}, TypeError, ["reopen must be a number", "False"]),
        ({"reopen": math.nan}, ValueError, ["reopen must be a number", "nan"]),
        ({"reopen": -math.inf}, ValueError, ["reopen must be finite", "-inf"]),
        ({"reopen": 30.0}, ValueError, ["reopen must differ from close", "30.0"]),
        ({"name": ""}, ValueError, ["name must be 1 to 200 printable characters"]),
        ({"name": 5}, TypeError, ["name must be a str"]),
        ({"unit": "\n"}, ValueError, ["unit must be 1 to 200 printable characters"]),
        ({"unit": None}, TypeError, ["unit must be a str"]),
    ],
)
def test_a_gate_refuses(change: dict[str, Any], error: type[Exception], words: list[str]) -> None:
    """What breaks a rule, by an error of ours that names the rule and the value."""
    arguments: dict[str, Any] = {"sensor": _sensor, "close": 30, "reopen": 24, **change}

    with pytest.raises(error) as caught:
        Gate(arguments.pop("sensor"), **arguments)

    assert isinstance(caught.value, BackgroundTasksError)
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_largest_float_is_finite() -> None:
    """It has an end, so a gate may close at it."""
    most = sys.float_info.max

    assert Gate(_sensor, close=most, reopen=0).close == most


def test_a_gate_refuses_a_coroutine_function() -> None:
    """Nobody would await what it returns."""

    async def sensor() -> float:
        return 1.0

    with pytest.raises(TypeError, match="sensor must be synchronous"):
        Gate(sensor, close=2, reopen=1)  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (_sensor, "gates must be a list or tuple of Gate, got <function _sensor"),
        (None, "gates must be a list or tuple of Gate"),
        ("CpuPressure", "gates must be a list or tuple of Gate"),
        (CpuPressure(30), "gates must be a list or tuple of Gate"),
        ([CpuPressure(30), _sensor], "each gate must be a Gate, got <function _sensor"),
        ([CpuPressure], "each gate must be a Gate"),
    ],
)
def test_gates_are_a_list_of_gates(bad: Any, words: str) -> None:
    """One gate by itself, a bare sensor and a class are refused."""
    with pytest.raises(TypeError, match=words) as caught:
        Gates(bad)

    assert isinstance(caught.value, BackgroundTasksError)


# The gates that come with the library


@pytest.mark.parametrize(
    ("make", "arguments", "name", "close", "reopen", "unit"),
    [
        (CpuPressure, (30,), "CPU pressure", 30.0, 24.0, "%"),
        (CpuPressure, (100, 0), "CPU pressure", 100.0, 0.0, "%"),
        (CpuPressure, (30, 29.5), "CPU pressure", 30.0, 29.5, "%"),
        (CpuPressure, (0.5, 0.25), "CPU pressure", 0.5, 0.25, "%"),
        (LoadPerCpu, (1.5, 1), "load per CPU", 1.5, 1.0, ""),
        (LoadPerCpu, (2.5,), "load per CPU", 2.5, 2.0, ""),
        (LoadPerCpu, (0.5, 0), "load per CPU", 0.5, 0.0, ""),
        (MemoryAvailable, (0.1,), "memory available", 0.1, 0.125, ""),
        (MemoryAvailable, (0.75,), "memory available", 0.75, 0.875, ""),
        (MemoryAvailable, (0.1, 1), "memory available", 0.1, 1.0, ""),
    ],
)
def test_the_thresholds_of(
    make: Callable[..., Gate],
    arguments: tuple[float, ...],
    name: str,
    close: float,
    reopen: float,
    unit: str,
) -> None:
    """As given, or by the rule that the docstring states."""
    gate = make(*arguments)

    assert isinstance(gate, Gate)
    assert (gate.name, gate.close, gate.reopen, gate.unit) == (name, close, reopen, unit)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "words"),
    [
        (CpuPressure, (0,), ValueError, ["percent must be above 0 and at most 100", "got 0"]),
        (CpuPressure, (100.1,), ValueError, ["percent must be above 0 and at most 100", "100.1"]),
        (CpuPressure, (True,), TypeError, ["percent must be a number", "True"]),
        (CpuPressure, (math.nan,), ValueError, ["percent must be a number", "nan"]),
        (CpuPressure, (30, 30), ValueError, ["reopen must be at least 0 and below 30", "got 30"]),
        (CpuPressure, (30, -1), ValueError, ["reopen must be at least 0 and below 30", "got -1"]),
        (CpuPressure, (30, "24"), TypeError, ["reopen must be a number", "'24'"]),
        (LoadPerCpu, (0,), ValueError, ["load must be above 0", "got 0"]),
        (LoadPerCpu, (math.inf,), ValueError, ["load must be finite", "inf"]),
        (LoadPerCpu, (1.5, 2), ValueError, ["reopen must be at least 0 and below 1.5", "got 2"]),
        (MemoryAvailable, (0,), ValueError, ["share must be above 0 and below 1", "got 0"]),
        (MemoryAvailable, (1,), ValueError, ["share must be above 0 and below 1", "got 1"]),
        (MemoryAvailable, (10,), ValueError, ["share must be above 0 and below 1", "got 10"]),
        (MemoryAvailable, ("1",), TypeError, ["share must be a number", "'1'"]),
        (MemoryAvailable, (0.1, "1"), TypeError, ["reopen must be a number", "'1'"]),
        (MemoryAvailable, (0.1, 0.1), ValueError, ["reopen must be above 0.1 and at most 1"]),
        (MemoryAvailable, (0.1, 1.1), ValueError, ["reopen must be above 0.1", "got 1.1"]),
    ],
)
def test_a_gate_of_the_library_refuses(
    make: Callable[..., Gate], arguments: tuple[Any, ...], error: type[Exception], words: list[str]
) -> None:
    """Thresholds at which it would never close or never open again."""
    with pytest.raises(error) as caught:
        make(*arguments)

    assert isinstance(caught.value, BackgroundTasksError)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder in the place of ``/proc``."""
    monkeypatch.setattr(gates, "_PROC", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let psutil not be installed."""
    monkeypatch.setitem(sys.modules, "psutil", None)


@pytest.fixture
def psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let psutil be installed, and say what no other source does."""
    fake = SimpleNamespace(
        cpu_percent=lambda: 77.5,
        getloadavg=lambda: (6.0, 5.0, 4.0),
        virtual_memory=lambda: SimpleNamespace(total=8000, available=1000),
    )
    monkeypatch.setitem(sys.modules, "psutil", fake)


def test_cpu_pressure_is_that_of_the_kernel(proc: Path, no_psutil: None) -> None:
    """The percentage of the last ten seconds in which some program waited."""
    (proc / "pressure").mkdir()
    (proc / "pressure" / "cpu").write_text(PRESSURE)

    assert CpuPressure(30).sensor() == 43.21


def test_memory_is_that_of_the_kernel(proc: Path, no_psutil: None) -> None:
    """What is available by what there is."""
    (proc / "meminfo").write_text(MEMINFO)

    assert MemoryAvailable(0.1).sensor() == 0.25


def test_load_is_divided_by_the_usable_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The average of the last minute, by those CPUs this process may use."""
    monkeypatch.setattr(os, "getloadavg", lambda: (6.0, 1.0, 0.5), raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5, 7}, raising=False)

    assert LoadPerCpu(1.5).sensor() == 1.5


@pytest.mark.parametrize(("cpus", "load"), [(3, 2.0), (None, 6.0)])
def test_load_elsewhere(
    monkeypatch: pytest.MonkeyPatch, psutil: None, cpus: int | None, load: float
) -> None:
    """Where Python knows no load and no affinity: psutil's, by all CPUs, or by one."""
    monkeypatch.delattr(os, "getloadavg", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)

    assert LoadPerCpu(1.5).sensor() == load


def test_without_the_files_psutil_is_asked(proc: Path, psutil: None) -> None:
    """For an approximation of the pressure, and for the memory."""
    assert CpuPressure(30).sensor() == 77.5
    assert MemoryAvailable(0.1).sensor() == 0.125


def test_a_new_psutil_has_nothing_to_compare_with(
    proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of the microseconds since its import does not close a gate."""
    (tmp_path / "psutil.py").write_text("def cpu_percent(): return 100.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "psutil", None)  # so that it is put back after the test
    del sys.modules["psutil"]

    assert CpuPressure(30).sensor() == 0.0
    assert CpuPressure(30).sensor() == 100.0


def test_with_the_files_psutil_is_not_asked(proc: Path, psutil: None) -> None:
    """Nor when they hold something else: that is a failure."""
    (proc / "pressure").mkdir()
    (proc / "pressure" / "cpu").write_text("")
    (proc / "meminfo").write_text(MEMINFO)

    with pytest.raises(ValueError, match="some avg10"):
        CpuPressure(30).sensor()
    assert MemoryAvailable(0.1).sensor() == 0.25


def test_without_both_it_says_what_to_install(
    proc: Path, no_psutil: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, through the gate, which stays open; and the error is one of ours."""
    monkeypatch.delattr(os, "getloadavg", raising=False)
    held = Gates([CpuPressure(30), LoadPerCpu(1.5), MemoryAvailable(0.1)])

    first, second = held.sample(0.0, _START), held.sample(1.0, _START)

    assert [reading.news for reading in first] == ["failed"] * 3
    assert {"pip install 'background-tasks[psutil]'" in reading.error for reading in first} == {
        True
    }
    assert second == []
    assert held.closed() == ()
    with pytest.raises(MissingExtraError) as caught:
        MemoryAvailable(0.1).sensor()
    assert str(caught.value) == (
        "psutil must be installed where Linux' own files are missing:"
        " pip install 'background-tasks[psutil]'"
    )


def test_a_file_that_may_not_be_read_is_a_failure(proc: Path, psutil: None) -> None:
    """It is not missing, so psutil, which measures something else, is not asked."""
    (proc / "pressure" / "cpu").mkdir(parents=True)

    with pytest.raises(OSError, match="cpu"):
        CpuPressure(30).sensor()


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        pytest.param(PRESSURE, 43.21, id="as it is"),
        pytest.param(PRESSURE.partition("\n")[0], 43.21, id="before Linux 5.13, without full"),
        pytest.param("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", 0.0, id="none"),
        pytest.param("some avg10=100 avg60=99.00\n", 100.0, id="no digits after the point"),
    ],
)
def test_the_text_of_pressure(text: str, percent: float) -> None:
    """The first average of the line that counts when at least one program waits."""
    assert gates._parse_pressure(text) == percent


@pytest.mark.parametrize(
    "text",
    ["", "full avg10=1.50 avg60=0.00\n", "some avg60=1.50\n", "some avg10=\n", "some avg10=x\n"],
)
def test_a_text_that_tells_no_pressure(text: str) -> None:
    """It is refused and shown."""
    with pytest.raises(ValueError, match="text must have a line 'some avg10=NUMBER', got '"):
        gates._parse_pressure(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "'MemAvailable: NUMBER kB', got ''", id="empty"),
        pytest.param("MemTotal: 5 kB\n", "'MemAvailable: NUMBER kB'", id="before Linux 3.14"),
        pytest.param("MemAvailable: 5 kB\n", "'MemTotal: NUMBER kB'", id="no total"),
        pytest.param("MemAvailable: x kB\nMemTotal: 5 kB\n", "'MemAvailable", id="no number"),
        pytest.param("MemTotal: 0 kB\nMemAvailable: 0 kB\n", "^MemTotal must be", id="no memory"),
    ],
)
def test_a_text_that_tells_no_memory(text: str, words: str) -> None:
    """It is refused, and what is missing is named."""
    with pytest.raises(ValueError, match=words):
        gates._parse_meminfo(text)


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="needs Linux")
def test_this_machine_is_measured() -> None:
    """Its load and its memory can be had, and are of a likely size."""
    assert LoadPerCpu(1.5).sensor() >= 0
    assert 0 < MemoryAvailable(0.1).sensor() <= 1
