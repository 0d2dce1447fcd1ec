"""The demo: what it reads, what it makes of it, what it prints, and how it is stopped."""

from __future__ import annotations

import io
import json
import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

import background_tasks
from background_tasks import (
    OneTimeTrigger,
    PeriodicTrigger,
    Scheduler,
    Stats,
    Task,
    configure_logging,
    current_execution,
    demo,
)
from background_tasks.__main__ import main
from background_tasks.demo import Agent, Sample
from background_tasks.logger import lost_lines

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=timezone.utc)
GIB = 2**30

LOADAVG = "0.52 0.58 0.59 1/467 12345\n"
MEMINFO = """\
MemTotal:        2048 kB
MemFree:          100 kB
MemAvailable:     512 kB
Buffers:           10 kB
"""
NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0
  eth0:    1000       7    0    0    0     0          0         0      300       4    0    0
wlan0:50      1    0    0    0     0          0         0      6       1    0    0
"""
HEADER_OF_NET_DEV = "".join(NET_DEV.splitlines(keepends=True)[:2])

VALUES = {
    "load_1m": 0.52,
    "memory_total_bytes": 2 * GIB,
    "memory_used_bytes": GIB,
    "disk_total_bytes": 100 * GIB,
    "disk_used_bytes": 25 * GIB,
    "received_bytes": 1050,
    "sent_bytes": 306,
}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Return a folder that looks like /proc."""
    folder = tmp_path / "proc"
    (folder / "net").mkdir(parents=True)
    (folder / "loadavg").write_text(LOADAVG)
    (folder / "meminfo").write_text(MEMINFO)
    (folder / "net" / "dev").write_text(NET_DEV)
    return folder


@pytest.fixture
def agent(tmp_path: Path, proc: Path) -> Agent:
    """Return an agent with an empty folder, on the machine that *proc* describes."""
    folder = tmp_path / "state"
    folder.mkdir()
    return Agent(folder, proc=proc)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Take back what configure_logging did."""
    logger = logging.getLogger("background_tasks")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def caplog_info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return a caplog that gets the demo's lines from INFO on."""
    caplog.set_level(logging.INFO, "background_tasks")
    return caplog


def sample(second: float, **values: float) -> Sample:
    """Return a sample taken so many seconds after noon."""
    return Sample(at=NOON + timedelta(seconds=second), clock=100 + second, values=values)


# What this machine says


def test_parse_loadavg_returns_the_load_of_the_last_minute() -> None:
    """The first of the three loads is that of the last minute."""
    assert demo.parse_loadavg(LOADAVG) == {"load_1m": 0.52}


def test_parse_meminfo_returns_total_and_used_bytes() -> None:
    """What is not available is used; sizes are in units of 1024 bytes."""
    expected = {"memory_total_bytes": 2_097_152, "memory_used_bytes": 1_572_864}

    assert demo.parse_meminfo(MEMINFO) == expected


def test_parse_net_dev_sums_all_interfaces_but_the_loopback() -> None:
    """A number may follow the colon at once, as it does when it is long."""
    assert demo.parse_net_dev(NET_DEV) == {"received_bytes": 1050, "sent_bytes": 306}


def test_parse_net_dev_of_a_loopback_alone_is_zero() -> None:
    """A machine without a network received and sent nothing."""
    text = "".join(NET_DEV.splitlines(keepends=True)[:3])

    assert demo.parse_net_dev(text) == {"received_bytes": 0, "sent_bytes": 0}


@pytest.mark.parametrize(
    ("parse", "text", "error"),
    [
        pytest.param(demo.parse_loadavg, "", ValueError, id="no load"),
        pytest.param(demo.parse_loadavg, "high 1 2", ValueError, id="load is a word"),
        pytest.param(demo.parse_meminfo, "", ValueError, id="no memory"),
        pytest.param(demo.parse_meminfo, "MemTotal: 5 kB\n", ValueError, id="nothing available"),
        pytest.param(
            demo.parse_meminfo,
            "MemTotal: many kB\nMemAvailable: 5 kB\n",
            ValueError,
            id="memory is a word",
        ),
        pytest.param(demo.parse_net_dev, HEADER_OF_NET_DEV, ValueError, id="no interface"),
        pytest.param(demo.parse_net_dev, "\n\neth0 1 2\n", ValueError, id="no colon"),
        pytest.param(demo.parse_net_dev, "\n\neth0: 1 2\n", IndexError, id="too few fields"),
    ],
)
def test_parsers_refuse_another_format(
    parse: Callable[[str], object], text: str, error: type[Exception]
) -> None:
    """What cannot be read as documented is an error, never a wrong number."""
    with pytest.raises(error):
        parse(text)


def test_take_values_reads_every_source(monkeypatch: pytest.MonkeyPatch, proc: Path) -> None:
    """All seven values are there."""
    usage = SimpleNamespace(total=100, used=40, free=50)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: {proc: usage}[path])

    assert demo.take_values(proc, proc) == {
        "load_1m": 0.52,
        "memory_total_bytes": 2_097_152,
        "memory_used_bytes": 1_572_864,
        "disk_total_bytes": 100,
        "disk_used_bytes": 40,
        "received_bytes": 1050,
        "sent_bytes": 306,
    }


def test_take_values_asks_the_system_for_the_load_without_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The load has a second source; what else is missing is left out."""
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 2.5, 3.5))

    found = demo.take_values(tmp_path, tmp_path / "not there")

    assert found == {"load_1m": 1.5}


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_take_values_leaves_out_what_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception]
) -> None:
    """On a system that tells nothing there is nothing, and no error."""

    def unobtainable() -> tuple[float, float, float]:
        raise error

    monkeypatch.setattr(os, "getloadavg", unobtainable)

    assert demo.take_values(tmp_path, tmp_path / "not there") == {}


def test_take_values_leaves_out_what_cannot_be_understood(proc: Path) -> None:
    """A file of another format gives no value; the others do."""
    (proc / "meminfo").write_text("MemTotal: many\n")
    (proc / "net" / "dev").write_text("\n\neth0: 1\n")

    found = demo.take_values(proc, proc)

    assert sorted(found) == ["disk_total_bytes", "disk_used_bytes", "load_1m"]


# What is made of it


def test_roll_up_is_mean_maximum_and_growth_a_second() -> None:
    """Gauges by their mean and maximum, counters by what they grew from first to last."""
    samples = [
        sample(0, load_1m=1.0, memory_used_bytes=10, received_bytes=100, sent_bytes=7),
        sample(1, load_1m=4.0, memory_used_bytes=30, received_bytes=900, sent_bytes=7),
        sample(4, load_1m=1.0, memory_used_bytes=20, received_bytes=500, sent_bytes=7),
    ]

    assert demo.roll_up(samples) == {
        "since": "2026-05-01T12:00:00+00:00",
        "until": "2026-05-01T12:00:04+00:00",
        "samples": 3,
        "load_1m_mean": 2.0,
        "load_1m_max": 4.0,
        "memory_used_bytes_mean": 20.0,
        "memory_used_bytes_max": 30,
        "received_bytes_per_second": 100.0,
        "sent_bytes_per_second": 0.0,
    }


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param(sample(0), sample(1), id="no values"),
        pytest.param(sample(0), sample(1, sent_bytes=5), id="not at first"),
        pytest.param(sample(0, sent_bytes=5), sample(1), id="not at last"),
        pytest.param(sample(0, sent_bytes=5), sample(1, sent_bytes=4), id="fell"),
        pytest.param(sample(0, sent_bytes=5), sample(0, sent_bytes=6), id="no time between"),
    ],
)
def test_roll_up_leaves_out_what_is_not_known(first: Sample, last: Sample) -> None:
    """A counter without two values in order, some time apart, has no rate."""
    assert demo.roll_up([first, last]).keys() == {"since", "until", "samples"}


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ({"load_1m_max": 2.1}, True),
        ({"load_1m_max": 3}, True),
        ({"load_1m_max": 2.0}, False),
        ({}, False),
    ],
)
def test_is_overloaded_above_one_process_a_cpu(summary: dict[str, object], expected: bool) -> None:
    """A load that equals the number of CPUs is not too much, nor is one not known."""
    assert demo.is_overloaded(summary, cpus=2) is expected


# What is printed


def test_headline_says_what_was_seen() -> None:
    """The last of what goes up and down, the growth of counters, the scheduler's sums."""
    first = sample(0, received_bytes=50, sent_bytes=306)
    last = sample(9, **{**VALUES, "received_bytes": 2098})
    stats = Stats(released=78, succeeded=74, failed=1, pending=3, retries=4)

    line = demo.headline([first, last], count=41, seconds=10.04, stats=stats)

    assert line == (
        "41 samples in 10.0 s: load 0.52, memory 1.0 of 2.0 GiB, disk 25.0 of 100.0 GiB,"
        " network 2.0 KiB in and 0.0 KiB out;"
        " 78 runs released: 74 succeeded, 1 failed, 3 waiting; 4 retries"
    )


@pytest.mark.parametrize(
    "samples", [pytest.param([], id="no sample"), pytest.param([sample(0)], id="empty sample")]
)
def test_headline_shows_what_is_not_known_as_such(samples: list[Sample]) -> None:
    """A value that could not be had is n/a, not 0."""
    line = demo.headline(samples, count=len(samples), seconds=1, stats=Stats())

    assert line == (
        f"{len(samples)} samples in 1.0 s: load n/a, memory n/a, disk n/a,"
        " network n/a in and n/a out;"
        " 0 runs released: 0 succeeded, 0 failed, 0 waiting; 0 retries"
    )


# The tasks


def test_agent_shows_each_kind_of_trigger(agent: Agent) -> None:
    """One run once at the start, one by a cron expression with seconds, one by an event."""
    tasks = {each.name: each for each in agent.tasks()}
    (once,), (cron,) = tasks["start-up check"].triggers, tasks["roll up"].triggers
    (interval,), (event,) = tasks["sample"].triggers, tasks["react"].triggers

    assert isinstance(once, OneTimeTrigger)
    assert isinstance(cron, PeriodicTrigger)
    assert isinstance(interval, PeriodicTrigger)
    assert len((cron.cron_expr or "").split()) == 6
    assert interval.interval == timedelta(seconds=0.25)
    assert event is agent.changed


def test_agent_gives_each_task_a_priority_of_its_own(agent: Agent) -> None:
    """The start-up check goes first, the report last."""
    tasks = sorted(agent.tasks(), key=lambda each: -each.priority)

    assert [each.name for each in tasks] == [
        "start-up check",
        "react",
        "sample",
        "roll up",
        "watch",
        "report",
    ]
    assert len({each.priority for each in tasks}) == 6


def test_start_up_check_logs_what_the_machine_does_not_tell(
    agent: Agent, proc: Path, caplog_info: pytest.LogCaptureFixture
) -> None:
    """All there: information. Something missing: a warning that names it."""
    agent.start_up_check()
    (proc / "meminfo").unlink()
    agent.start_up_check()

    before, after = caplog_info.records
    assert (before.levelname, vars(before)["demo.not_available"]) == ("INFO", [])
    assert (after.levelname, vars(after)["demo.not_available"]) == ("WARNING", ["memory"])
    assert vars(after)["demo.cpus"] == os.cpu_count()


def test_sample_logs_what_it_read(agent: Agent, caplog_info: pytest.LogCaptureFixture) -> None:
    """Each value is a field of its own."""
    agent.sample()

    (record,) = caplog_info.records
    assert vars(record)["event.name"] == "background_tasks.demo.sampled"
    assert vars(record)["demo.load_1m"] == 0.52


def test_roll_up_waits_for_three_samples(agent: Agent) -> None:
    """Fewer are kept for the next time; those that were rolled up are used up."""
    agent.sample()
    agent.sample()
    agent.roll_up()
    assert not agent.watched.exists()

    agent.sample()
    agent.roll_up()
    assert json.loads(agent.watched.read_text())["samples"] == 3

    agent.watched.unlink()
    agent.roll_up()
    assert not agent.watched.exists()


def test_watch_fires_once_for_each_change(agent: Agent, scheduler: Scheduler) -> None:
    """The event says which file it is and how it looks now."""
    events: list[object] = []

    def note_event() -> None:
        running = current_execution()
        assert running is not None
        events.append(running.event)

    def look() -> None:
        agent.watch()
        scheduler.run_tasks()
        assert scheduler.wait_idle(10)

    scheduler.add_task(Task("note", note_event, triggers=[agent.changed]))

    look()  # not there yet
    agent.watched.write_text("{}")
    os.utime(agent.watched, ns=(0, 1_000))
    look()
    look()  # the same
    os.utime(agent.watched, ns=(0, 2_000))
    look()
    agent.watched.write_text("{ }")
    os.utime(agent.watched, ns=(0, 2_000))
    look()

    path = str(agent.watched)
    assert events == [
        {"path": path, "mtime_ns": 1_000, "size": 2},
        {"path": path, "mtime_ns": 2_000, "size": 2},
        {"path": path, "mtime_ns": 2_000, "size": 3},
    ]


@pytest.mark.parametrize(
    ("load", "level"), [pytest.param(2.0, "INFO"), pytest.param(2.5, "WARNING")]
)
def test_react_warns_of_an_overload(
    agent: Agent,
    caplog_info: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    load: float,
    level: str,
) -> None:
    """The changed file decides; called outside of a task there is no event."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    agent.watched.write_text(json.dumps({"load_1m_max": load}))

    agent.react()

    (record,) = caplog_info.records
    assert record.levelname == level
    assert vars(record)["demo.change"] is None


def test_report_fails_until_there_is_a_roll_up(agent: Agent) -> None:
    """It reads a file that another task writes."""
    with pytest.raises(FileNotFoundError):
        agent.report()
    assert not agent.reported.exists()

    agent.watched.write_text('{"samples": 3, "load_1m_max": 0.5}')
    agent.report()

    assert agent.reported.read_text() == "samples: 3\nload_1m_max: 0.5\n"


def test_agent_tells_of_its_first_and_last_sample(agent: Agent, proc: Path) -> None:
    """What the network counters grew by is from the first sample to the last."""
    agent.sample()
    agent.sample()
    (proc / "loadavg").write_text("1.25 0 0\n")
    (proc / "net" / "dev").write_text(NET_DEV.replace(" 1000 ", " 3048 "))
    agent.sample()

    line = agent.headline(seconds=2, stats=Stats())

    assert line.startswith("3 samples in 2.0 s: load 1.25, memory 0.0 of 0.0 GiB, ")
    assert "network 2.0 KiB in and 0.0 KiB out" in line


# Signals


# The command line


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was asked for: that is a usage error."""
    assert main([]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "demo" in printed.err
    assert "usage: background-tasks" in printed.err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e999", "ten", ""])
def test_seconds_that_are_not_a_positive_number_are_refused(
    capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    """The message states the rule and the value."""
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", "--seconds", seconds])

    assert exit_info.value.code == 2
    expected = f"--seconds: must be a positive finite number of seconds, got {seconds!r}"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"), [(["demo"], 10.0), (["demo", "--seconds", "0.5"], 0.5)]
)
def test_seconds_are_ten_by_default(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: float
) -> None:
    """What is asked for is what the demo gets; its status is the command's."""
    asked: list[float] = []

    def run(seconds: float) -> int:
        asked.append(seconds)
        return 7

    monkeypatch.setattr(demo, "run", run)

    assert main(arguments) == 7
    assert asked == [expected]


def test_help_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    """It says what the default is."""
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", "--help"])

    assert exit_info.value.code == 0
    assert "--seconds N" in (text := capsys.readouterr().out)
    assert "default: 10" in text


def test_python_dash_m_exits_with_the_status_of_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is also the program."""
    monkeypatch.setattr(sys, "argv", ["background_tasks"])
    monkeypatch.delitem(sys.modules, "background_tasks.__main__")

    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module("background_tasks", run_name="__main__", alter_sys=True)

    assert exit_info.value.code == 2


# The run


def cells_of(table: str) -> dict[str, list[str]]:
    """Return the cells of each row of a printed demo, from the name of the task on, by that."""
    lines = table.splitlines()
    rule = next(number for number, line in enumerate(lines) if line.startswith("--  "))
    widths = [len(dashes) for dashes in lines[rule].split("  ")]
    starts = [sum(widths[:column]) + 2 * column for column in range(len(widths))]
    rows = [
        [line[start : start + width].strip() for start, width in zip(starts, widths, strict=True)]
        for line in lines[rule + 1 :]
    ]
    return {row[1]: row[1:] for row in rows}


class Interrupt(logging.Handler):
    """Sends SIGINT to the main thread once both ``react`` and ``report`` have succeeded."""

    def __init__(self) -> None:
        """Wait for both."""
        super().__init__()
        self.missing = {"react", "report"}

    def emit(self, record: logging.LogRecord) -> None:
        """Look for the line that a run succeeded; called by one thread at a time."""
        if record.getMessage() != "run succeeded" or not self.missing:
            return
        self.missing.discard(vars(record)["background_tasks.task.name"])
        if not self.missing:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_demo_does_what_it_promises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On this machine, until the failing task was retried and the change was seen."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logging.getLogger("background_tasks").addHandler(Interrupt())

    status = main(["demo", "--seconds", "60"])

    assert status == 130
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.err.splitlines()]
    (changed, *_) = (line for line in lines if line["message"] == "watched file changed")
    assert Path(changed["demo.change"]["path"]).name == "roll-up.json"
    assert list(tmp_path.iterdir()) == []
    first, *_ = printed.out.splitlines()
    assert " samples in " in first
    rows = cells_of(printed.out)
    assert list(rows) == ["start-up check", "sample", "roll up", "watch", "react", "report"]
    _, _, next_fire, runs, failures, retries, last, *_ = rows["report"]
    assert int(runs) >= 1
    assert int(failures) == int(retries) >= 1
    assert last == "SUCCESS"
    assert len(next_fire) == len("12:00:05.000")
    assert rows["start-up check"][1:7] == ["removed", "-", "1", "0", "0", "SUCCESS"]
    assert rows["react"][2] == "on event"
    assert rows["react"][4:7] == ["0", "0", "SUCCESS"]
    assert int(rows["sample"][3]) >= 3


@pytest.mark.parametrize(
    ("naming", "required"),
    [
        pytest.param(
            "otel",
            {"timestamp", "severity_text", "logger", "thread.name", "message", "event.name"},
            id="otel",
        ),
        pytest.param(
            "ecs",
            {
                "@timestamp", "log.level", "log.logger", "process.thread.name", "message",
                "event.action", "ecs.version",
            },
            id="ecs",
        ),
    ],
)  # fmt: skip
def test_each_line_of_the_demo_is_json(naming: str, required: set[str]) -> None:
    """One object a line, with all that a reader of logs goes by, down to the last DEBUG line."""
    logging.getLogger("background_tasks").addHandler(Interrupt())
    stream = io.StringIO()
    configure_logging(level="DEBUG", stream=stream, naming=naming)
    before = lost_lines()

    assert demo.run(60) == 130  # ended by a SIGINT, whose status it is

    *texts, rest = stream.getvalue().split("\n")
    assert rest == ""
    lines = [json.loads(text, parse_constant=pytest.fail) for text in texts]
    assert [line for line in lines if not required <= line.keys()] == []
    assert {"run released", "run retrying", "sample taken", "scheduler stopped"} <= {
        line["message"] for line in lines
    }
    assert lost_lines() == before


def test_demo_ends_when_the_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    """After so short a time there is little to tell, but each task has its row."""
    assert main(["demo", "--seconds", "0.001"]) == 0

    out = capsys.readouterr().out
    assert " samples in 0." in out
    assert len(cells_of(out)) == 6


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, id="SIGINT"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
    ],
)
def test_a_signal_ends_the_process_cleanly(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """The table is printed, nothing but JSON lines is logged and no file is left."""
    command = [sys.executable, "-W", "error", "-m", "background_tasks", "demo", "--seconds", "60"]
    with subprocess.Popen(
        command,
        bufsize=0,  # or readline would take more than a line, and communicate miss that
        cwd=Path(background_tasks.__file__).parents[1],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(number)
        out, rest = process.communicate(timeout=60)

    assert process.returncode == status
    messages = [json.loads(line)["message"] for line in (first + rest).splitlines()]
    assert messages[0] == "scheduler started"
    assert "scheduler stopped" in messages  # what still ran then ends after it
    assert len(cells_of(out.decode())) == 6
    assert list(tmp_path.iterdir()) == []
