"""A small device agent, to see the scheduler at work: ``python -m background_tasks demo``.

It samples this machine, rolls the samples up into a file, watches that file, reacts when it
changes and reports what it says. Nothing is canned: each number is read or counted.

First what is pure, in the order in which numbers flow; then `Agent`, whose methods are the
tasks; last `run`, which starts, waits and prints.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from background_tasks.clock import monotonic, utc_now
from background_tasks.engine import Stats
from background_tasks.gates import CpuPressure
from background_tasks.overview import overview, overview_table
from background_tasks.scheduler import Scheduler
from background_tasks.signals import caught, wait_for
from background_tasks.task import RetryPolicy, Task, current_execution
from background_tasks.trigger import EventTrigger, OneTimeTrigger, PeriodicTrigger

__all__ = [
    "Agent",
    "Sample",
    "headline",
    "is_overloaded",
    "parse_loadavg",
    "parse_meminfo",
    "parse_net_dev",
    "roll_up",
    "run",
    "take_values",
]

_SOURCES = {  # what a sample is read from, and the values that gives
    "load": ("load_1m",),
    "memory": ("memory_total_bytes", "memory_used_bytes"),
    "disk": ("disk_total_bytes", "disk_used_bytes"),
    "network": ("received_bytes", "sent_bytes"),
}
_GAUGES = ("load_1m", "memory_used_bytes", "disk_used_bytes")
_COUNTERS = ("received_bytes", "sent_bytes")
_LEAST_SAMPLES = 3  # a guess: below it a mean says little, and a rate less
_HISTORY = 100_000  # runs: over five hours of the most frequent task, some 50 MB
_UNKNOWN = "n/a"

_logger = logging.getLogger(__name__)


# What this machine says


def parse_loadavg(text: str) -> dict[str, float]:
    """Return the load of the last minute from the text of ``/proc/loadavg``.

    Raises:
        ValueError: It does not begin with a number.

    Source: proc_loadavg(5).
    """
    return {"load_1m": float(text.partition(" ")[0])}


def parse_meminfo(text: str) -> dict[str, float]:
    """Return total and used memory from the text of ``/proc/meminfo``, in bytes.

    Used is what a new program could not have without swapping.

    Raises:
        ValueError: A line that is needed is missing or holds no number.

    Source: proc_meminfo(5). Its "kB" are 1024 bytes.
    """
    sizes = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = ("MemTotal", "MemAvailable")
    total, available = (1024 * int(sizes.get(name, "").removesuffix("kB")) for name in names)
    return {"memory_total_bytes": total, "memory_used_bytes": total - available}


def parse_net_dev(text: str) -> dict[str, float]:
    """Return the bytes received and sent since boot from the text of ``/proc/net/dev``.

    Summed over all interfaces but the loopback.

    Raises:
        ValueError: A line is not that of an interface, or there is none.
        IndexError: A line has fewer than nine fields.

    Source: proc_pid_net(5): two lines of header, then one for each interface, with the bytes
    received in the first field and those sent in the ninth.
    """
    interfaces = [line.split(":", 1) for line in text.splitlines()[2:]]
    if not interfaces:
        raise ValueError(f"text must have a line for each interface, got {text!r}")
    fields = [numbers.split() for name, numbers in interfaces if name.strip() != "lo"]
    received, sent = (sum(int(each[column]) for each in fields) for column in (0, 8))
    return {"received_bytes": received, "sent_bytes": sent}


def take_values(proc: Path, disk: Path) -> dict[str, float]:
    """Return what this machine says now, by name; what cannot be had is left out.

    Args:
        proc: Where the kernel shows its files, ``/proc``.
        disk: A path on the file system of interest.
    """
    return {
        **(_read(proc / "loadavg", parse_loadavg) or _load()),
        **_read(proc / "meminfo", parse_meminfo),
        **_disk(disk),
        **_read(proc / "net" / "dev", parse_net_dev),
    }


def _read(path: Path, parse: Callable[[str], dict[str, float]]) -> dict[str, float]:
    try:
        return parse(path.read_text())
    except (OSError, ValueError, IndexError):  # not there, not allowed, of another form
        return {}


def _load() -> dict[str, float]:
    try:
        return {"load_1m": os.getloadavg()[0]}
    except (AttributeError, OSError):  # not on this platform, or not now
        return {}


def _disk(path: Path) -> dict[str, float]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return {}
    return {"disk_total_bytes": usage.total, "disk_used_bytes": usage.used}


def _silent(values: Mapping[str, float]) -> list[str]:
    """Return the sources that gave nothing."""
    return [source for source, names in _SOURCES.items() if not values.keys() >= set(names)]


# What is made of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at this machine.

    Attributes:
        at: When, an aware UTC datetime.
        clock: When by the monotonic clock, in seconds.
        values: What `take_values` returned.
    """

    at: datetime
    clock: float
    values: Mapping[str, float]


def roll_up(samples: Sequence[Sample]) -> dict[str, object]:
    """Return what *samples*, at least one and oldest first, come to; ready to be JSON.

    Mean and maximum of each gauge, growth a second of each counter; what the samples do not
    hold is left out.
    """
    first, last = samples[0], samples[-1]
    return {
        "since": first.at.isoformat(),
        "until": last.at.isoformat(),
        "samples": len(samples),
        **_gauges(samples),
        **_rates(first, last),
    }


def _gauges(samples: Sequence[Sample]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in _GAUGES:
        values = [sample.values[name] for sample in samples if name in sample.values]
        if values:
            found[f"{name}_mean"] = sum(values) / len(values)
            found[f"{name}_max"] = max(values)
    return found


def _rates(first: Sample, last: Sample) -> dict[str, float]:
    seconds = last.clock - first.clock
    if seconds <= 0:
        return {}
    grown = ((name, _growth(first, last, name)) for name in _COUNTERS)
    return {f"{name}_per_second": by / seconds for name, by in grown if by is not None}


def _growth(first: Sample, last: Sample, name: str) -> float | None:
    """Return what a counter grew by; None if it is missing or fell: an interface went away."""
    if name not in first.values or name not in last.values:
        return None
    by = last.values[name] - first.values[name]
    return None if by < 0 else by


def is_overloaded(summary: Mapping[str, object], *, cpus: int) -> bool:
    """Return True if the load in a roll-up exceeded the number of CPUs; False if not known."""
    load = summary.get("load_1m_max")
    return isinstance(load, (int, float)) and load > cpus


# What is printed


def headline(samples: Sequence[Sample], *, count: int, seconds: float, stats: Stats) -> str:
    """Return one line on what was seen.

    Args:
        samples: The first and the last sample; empty when there was none.
        count: How many there were.
        seconds: How long the agent ran.
        stats: The scheduler's counters.
    """
    last = samples[-1].values if samples else {}
    load = f"{last['load_1m']:.2f}" if "load_1m" in last else _UNKNOWN
    received, sent = (_grown_text(samples, name) for name in _COUNTERS)
    return (
        f"{count} samples in {seconds:.1f} s: load {load}, memory {_used_text(last, 'memory')},"
        f" disk {_used_text(last, 'disk')}, network {received} in and {sent} out;"
        f" {stats.released} runs released: {stats.succeeded} succeeded, {stats.failed} failed,"
        f" {stats.pending} waiting; {stats.retries} retries"
    )


def _used_text(values: Mapping[str, float], source: str) -> str:
    total, used = (values.get(name) for name in _SOURCES[source])
    if total is None or used is None:
        return _UNKNOWN
    return f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB"


def _grown_text(samples: Sequence[Sample], name: str) -> str:
    by = _growth(samples[0], samples[-1], name) if samples else None
    return _UNKNOWN if by is None else f"{by / 2**10:.1f} KiB"


# The tasks


class Agent:
    """What the tasks do and what they share: samples in memory, all else in files.

    Its methods may be called from any thread, each that is a task's by one thread at a time.
    """

    # Locking
    #   _lock guards _waiting, _ends and _count; never held while a file is read or written.
    def __init__(self, folder: Path, *, proc: Path = Path("/proc")) -> None:
        """Keep files in *folder*, which exists; read the kernel's below *proc*."""
        self._proc = proc
        self._folder = folder
        self.watched = folder / "roll-up.json"
        self.reported = folder / "report.txt"
        self.changed = EventTrigger(coalesce=True)  # only the last change matters
        self._seen: dict[str, object] | None = None  # by `watch` only
        self._lock = threading.Lock()
        self._waiting: list[Sample] = []  # guarded by _lock; not rolled up yet
        self._ends: list[Sample] = []  # guarded by _lock; the first sample and the last
        self._count = 0  # guarded by _lock

    def tasks(self) -> list[Task]:
        """Return the tasks, to be added to one scheduler; call it once."""
        patient = RetryPolicy(
            max_retries=20, delay=0.2, backoff=1.5, max_delay=1, retry_on=(FileNotFoundError,)
        )
        return [
            Task(
                "start-up check",
                self.start_up_check,
                triggers=[OneTimeTrigger(delay=0)],
                priority=10,
            ),
            Task(
                "sample",
                self.sample,
                triggers=[PeriodicTrigger(interval=0.25, run_immediately=True)],
                priority=5,
                history=_HISTORY,
            ),
            Task(
                "roll up",
                self.roll_up,
                triggers=[PeriodicTrigger(cron_expr="* * * * * *")],  # at each full second
                priority=3,
                history=_HISTORY,
            ),
            Task(
                "watch",
                self.watch,
                triggers=[PeriodicTrigger(interval=0.2)],
                priority=2,
                history=_HISTORY,
            ),
            Task(
                "react",
                self.react,
                triggers=[self.changed],
                priority=8,
                history=_HISTORY,
            ),
            Task(
                "report",
                self.report,
                triggers=[PeriodicTrigger(interval=5, run_immediately=True)],
                retry_policy=patient,
                history=_HISTORY,
            ),
        ]

    def start_up_check(self) -> None:
        """Log how many CPUs there are and, as a warning, what this machine does not tell."""
        silent = _silent(take_values(self._proc, self._folder))
        _logger.log(
            logging.WARNING if silent else logging.INFO,
            "start-up check",
            extra=_fields("checked", {"cpus": os.cpu_count(), "not_available": silent}),
        )

    def sample(self) -> None:
        """Take a sample, keep it for the roll-up and log it."""
        values = take_values(self._proc, self._folder)
        sample = Sample(at=utc_now(), clock=monotonic(), values=values)
        with self._lock:
            self._waiting.append(sample)
            self._ends = [*self._ends[:1], sample]
            self._count += 1
        _logger.info("sample taken", extra=_fields("sampled", values))

    def roll_up(self) -> None:
        """Write what the samples since the last time come to; while they are few, nothing."""
        with self._lock:
            if len(self._waiting) < _LEAST_SAMPLES:
                return
            samples, self._waiting = self._waiting, []
        summary = roll_up(samples)
        _replace(self.watched, json.dumps(summary))
        _logger.info("samples rolled up", extra=_fields("rolled_up", summary))

    def watch(self) -> None:
        """Fire the event if the watched file is not as it was when last looked at."""
        try:
            status = os.stat(self.watched)
        except FileNotFoundError:
            return
        found: dict[str, object] = {"mtime_ns": status.st_mtime_ns, "size": status.st_size}
        if found != self._seen:
            self._seen = found
            self.changed.fire({"path": str(self.watched), **found})

    def react(self) -> None:
        """Log that the watched file has changed, as a warning if it tells of an overload."""
        execution = current_execution()
        change = None if execution is None else execution.event
        overloaded = is_overloaded(json.loads(self.watched.read_text()), cpus=os.cpu_count() or 1)
        _logger.log(
            logging.WARNING if overloaded else logging.INFO,
            "watched file changed",
            extra=_fields("changed", {"change": change, "overloaded": overloaded}),
        )

    def report(self) -> None:
        """Write what the watched file says as lines of text.

        Raises:
            FileNotFoundError: Nothing was rolled up yet.
        """
        summary = json.loads(self.watched.read_text())
        _replace(self.reported, "".join(f"{name}: {value}\n" for name, value in summary.items()))

    def headline(self, *, seconds: float, stats: Stats) -> str:
        """Return one line on what was seen in so many *seconds*."""
        with self._lock:
            ends, count = self._ends, self._count
        return headline(ends, count=count, seconds=seconds, stats=stats)


def _fields(event: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a log line; the prefix keeps them apart from those of its record."""
    return {
        "event.name": f"background_tasks.demo.{event}",
        **{f"demo.{name}": value for name, value in values.items()},
    }


def _replace(path: Path, text: str) -> None:
    """Write *path* so that a reader finds all of the old text or all of the new."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


# The run


def run(seconds: float) -> int:
    """Run the agent for so many *seconds*, print what it did and return the exit status.

    Blocks until the time is up or, in the main thread, SIGINT or SIGTERM comes. Then what runs
    is waited for, the table is printed and the files are removed.

    Returns:
        0 when the time was up; else 128 and the number of the signal, as shells have it.
    """
    with caught() as signals, tempfile.TemporaryDirectory(prefix="background-tasks-") as folder:
        agent = Agent(Path(folder))
        tasks = agent.tasks()
        # While programs wait for a CPU, only what is urgent goes on at its pace.
        scheduler = Scheduler(2, gates=[CpuPressure(30)], ungated_priority=5)
        for task in tasks:
            scheduler.add_task(task)
        started = monotonic()
        with scheduler:
            received = wait_for(signals, seconds)
        # Nothing runs any more, so all that is printed is of one moment.
        print(agent.headline(seconds=monotonic() - started, stats=scheduler.stats()))
        print(_table(scheduler, tasks), flush=True)
    return 0 if received is None else 128 + received


def _table(scheduler: Scheduler, tasks: Iterable[Task]) -> str:
    """Return the table of the *tasks*, those that were removed included."""
    registered = {each.task_id: each for each in scheduler.overview()}
    shown = (
        registered.get(task.id) or overview(task, task.execution_hist, (), None) for task in tasks
    )
    return overview_table(shown, utc_now())
