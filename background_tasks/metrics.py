"""What runs come to, by task: `Metrics`, behind the metrics of `telemetry` and of `prometheus`.

What has happened is added up from the changes that a listener is told, so it outlives the tasks;
what there is now the scheduler is asked for. Each of `INSTRUMENTS` is one metric, under the names
that OpenTelemetry and Prometheus want; the exporters only hand on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from background_tasks.changes import DISPOSITIONS, OUTCOMES, Change, ChangeKind
from background_tasks.logger import lost_lines
from background_tasks.task import Execution, Status

if TYPE_CHECKING:
    from background_tasks.scheduler import Scheduler

__all__ = ["BOUNDS", "INSTRUMENTS", "Buckets", "Instrument", "Labels", "Metrics", "Row"]

BOUNDS = (  # upper bounds of the buckets of a distribution, in seconds
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
)  # fmt: skip
_MOST_TASKS = 1_000  # names; each is some 60 series, so a guess at what a Prometheus bears
_MOST_ERRORS = 100  # types
_LONGEST_NAME = 200  # characters
_OTHER = "other"
_STARTED, _SUCCESS = ChangeKind.RUN_STARTED, Status.SUCCESS
_FAILURES = {  # what fails that is no task, and is told
    ChangeKind.TASK_QUARANTINED: ("trigger",),
    ChangeKind.EXECUTOR_BROKEN: ("executor",),
    ChangeKind.GATE_FAILED: ("gate",),
}

Labels = tuple[str, ...]  # the values of the labels of an instrument, in its order
Row = tuple[Labels, float]


@dataclass(frozen=True, slots=True, eq=False)  # by identity: each is there once, and a dict's key
class Instrument:
    """One metric.

    Attributes:
        kind: "counter", which only grows; "updown", which may be summed up; "gauge", which may
            not; or "histogram".
        name: What OpenTelemetry calls it.
        unit: Its unit, "s" or what is counted.
        about: What it is, for people.
        labels: What it is divided by, as Prometheus calls it.
    """

    kind: str
    name: str
    unit: str
    about: str
    labels: tuple[str, ...] = ()

    @property
    def prometheus(self) -> str:
        """What Prometheus calls it, but for the ``_total`` of a counter.

        The name that the exporters of OpenTelemetry make of the other one.
        """
        return self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")


_DUE = Instrument(
    "counter",
    "background_tasks.due",
    "{occurrence}",
    "Times, signals and requests that came.",
)
_OCCURRENCES = Instrument(
    "counter",
    "background_tasks.occurrences",
    "{occurrence}",
    "What came of those that were due: started, or no run of their own.",
    ("task", "disposition", "reason"),
)
_RUNS = Instrument(
    "counter",
    "background_tasks.runs",
    "{run}",
    "Runs that started and have ended.",
    ("task", "outcome", "error_type"),
)
_RETRIES = Instrument(
    "counter",
    "background_tasks.retries",
    "{attempt}",
    "Attempts after the first of a run.",
    ("task",),
)
_DURATION = Instrument(
    "histogram",
    "background_tasks.run.duration",
    "s",
    "How long the function of a run took, all its attempts together.",
    ("task", "outcome"),
)
_LATENESS = Instrument(
    "histogram",
    "background_tasks.run.lateness",
    "s",
    "From when a run was due to its release.",
    ("task",),
)
_QUEUE_TIME = Instrument(
    "histogram",
    "background_tasks.run.queue_time",
    "s",
    "From the release of a run to its start: the wait for its turn and a slot.",
    ("task",),
)
_CPU_TIME = Instrument(
    "counter",
    "background_tasks.run.cpu_time",
    "s",
    "CPU time of the threads that ran the functions.",
    ("task", "mode"),
)
_RUNNING = Instrument(
    "updown",
    "background_tasks.running",
    "{run}",
    "Runs whose function is being called.",
    ("task",),
)
_PENDING = Instrument(
    "updown",
    "background_tasks.pending",
    "{run}",
    "Runs that wait for their turn or for a retry.",
)
_STUCK = Instrument(
    "updown",
    "background_tasks.stuck",
    "{run}",
    "Runs that were asked to give up and go on.",
)
_SLOTS = Instrument(
    "updown",
    "background_tasks.slots",
    "{slot}",
    "How many runs there may be at once.",
)
_LAST_SUCCESS = Instrument(
    "gauge",
    "background_tasks.task.last_success_timestamp",
    "s",
    "When a run of the task last ended well, since 1970.",
    ("task",),
)
_LAST_TICK = Instrument(
    "gauge",
    "background_tasks.last_tick_timestamp",
    "s",
    "When the scheduler's thread last looked around, since 1970.",
)
_TICK_DURATION = Instrument(
    "histogram",
    "background_tasks.tick.duration",
    "s",
    "How long the scheduler's thread took to look around, and to release what was due.",
)
_INTERNAL_ERRORS = Instrument(
    "counter",
    "background_tasks.internal_errors",
    "{error}",
    "Times that something failed that is no task; each is in the log, but what the log lost.",
    ("where",),
)
_HEALTHY = Instrument(
    "gauge",
    "background_tasks.healthy",
    "1",
    "1 while there is nothing to complain of, else 0; Scheduler.health says what.",
)
INSTRUMENTS = (  # what is due first: read before what came of it, it is never more than that
    _DUE,
    _OCCURRENCES,
    _RUNS,
    _RETRIES,
    _DURATION,
    _LATENESS,
    _QUEUE_TIME,
    _CPU_TIME,
    _RUNNING,
    _PENDING,
    _STUCK,
    _SLOTS,
    _LAST_SUCCESS,
    _LAST_TICK,
    _TICK_DURATION,
    _INTERNAL_ERRORS,
    _HEALTHY,
)


class Metrics:
    """What has come of the runs of one scheduler since this was made, and what there is now.

    Of tasks of one name the sum. Names beyond the first 1,000 tasks and 100 types of errors are
    summed up as "other".
    """

    # Without a lock, which a signal handler or a forked child could find taken: the scheduler
    # tells a listener by one thread at a time, ticks by one of its own, and who reads copies each
    # dict in one step.
    def __init__(
        self, scheduler: Scheduler, record: Callable[[Instrument, Labels, float], object]
    ) -> None:
        """Listen to *scheduler*, and *record* each value of a histogram as it comes."""
        self._scheduler = scheduler
        self._record = record
        self._tasks, self._errors = _Names(_MOST_TASKS), _Names(_MOST_ERRORS)
        self._attempts: dict[int, int] = {}  # of runs that have started and not ended, by their ID
        self._occurrences: dict[Labels, float] = {}
        self._runs: dict[Labels, float] = {}
        self._retries: dict[Labels, float] = {}
        self._cpu_time: dict[Labels, float] = {}
        self._last_success: dict[Labels, float] = {}
        self._failures: dict[Labels, float] = dict.fromkeys(_FAILURES.values(), 0)
        self._kept = {
            _OCCURRENCES: self._occurrences,
            _RUNS: self._runs,
            _RETRIES: self._retries,
            _CPU_TIME: self._cpu_time,
            _LAST_SUCCESS: self._last_success,
        }
        self._asked: dict[Instrument, Callable[[], list[Row]]] = {
            _DUE: self._due,
            _RUNNING: self._running,
            _PENDING: lambda: [((), scheduler.stats().pending)],
            _STUCK: lambda: [((), scheduler.stats().stuck)],
            _SLOTS: lambda: [((), scheduler.max_running_tasks)],
            _LAST_TICK: self._last_tick,
            _INTERNAL_ERRORS: self._internal_errors,
            _HEALTHY: lambda: [((), scheduler.health().is_healthy)],
        }
        self._ends = (
            scheduler.add_listener(self._hear),
            scheduler._reporter.add_to_ticks(self._tick),
        )

    def close(self) -> None:
        """Hear nothing more; what was counted stays."""
        for end in self._ends:
            end()

    def read(self, instrument: Instrument) -> list[Row]:
        """Return the value by labels of an instrument that is no histogram. From any thread."""
        kept = self._kept.get(instrument)
        return self._asked[instrument]() if kept is None else list(kept.copy().items())

    # What is now

    def _due(self) -> list[Row]:
        stats = self._scheduler.stats()
        return [((), stats.released + stats.skipped)]

    def _last_tick(self) -> list[Row]:
        last = self._scheduler.health().last_tick
        return [] if last is None else [((), last.timestamp())]

    def _internal_errors(self) -> list[Row]:
        stats = self._scheduler.stats()
        return [
            (("scheduler",), stats.internal_errors),
            (("listener",), stats.listener_failures),
            (("log",), lost_lines()),
            *self._failures.copy().items(),
        ]

    def _running(self) -> list[Row]:
        """Return how many run of each task that was heard of, 0 included."""
        found: dict[Labels, float] = {(name,): 0 for name in self._tasks.known()}
        for executions in self._scheduler.running.values():
            for execution in executions:
                if execution.status is Status.RUNNING:
                    _add(found, (self._tasks.of(execution.task_name),), 1)
        return list(found.items())

    # What has happened

    def _tick(self, seconds: float) -> None:
        self._record(_TICK_DURATION, (), seconds)

    def _hear(self, change: Change) -> None:
        run = change.execution
        if run is None:
            if change.kind in _FAILURES:
                _add(self._failures, _FAILURES[change.kind], 1)
            elif change.skipped:
                came_to = DISPOSITIONS.get(change.reason, ("skipped", _OTHER))
                labels = (self._tasks.of(change.task_name), *came_to)
                _add(self._occurrences, labels, change.skipped)
        elif run.ended_at is not None:
            self._ended(run, self._tasks.of(change.task_name), change.reason)
        elif change.kind is _STARTED:
            self._started(run, self._tasks.of(change.task_name))

    def _started(self, run: Execution, task: str) -> None:
        # One that its executor refused starts once more, as the same attempt.
        before = self._attempts.get(run.id, 0)
        self._attempts[run.id] = run.attempts
        if not before:
            _add(self._occurrences, (task, "started", ""), 1)
            self._record(_LATENESS, (task,), run.lateness)
            self._record(_QUEUE_TIME, (task,), run.queue_time)
        elif run.attempts > before:
            _add(self._retries, (task,), 1)

    def _ended(self, run: Execution, task: str, reason: str) -> None:
        was_seen = self._attempts.pop(run.id, 0) > 0
        if not was_seen:  # it never started, or did before this was made
            came_to = ("started", "") if run.attempts else _unstarted(run.status, reason)
            _add(self._occurrences, (task, *came_to), 1)
        if not was_seen and not run.attempts:
            return
        outcome = OUTCOMES[run.status]
        error = self._errors.of(run.error.partition(": ")[0]) if run.error else ""
        _add(self._runs, (task, outcome, error), 1)
        cost = run.resources
        _add(self._cpu_time, (task, "user"), cost.cpu_user)
        _add(self._cpu_time, (task, "system"), cost.cpu_system)
        if run.status is _SUCCESS and run.ended_at is not None:
            self._last_success[(task,)] = run.ended_at.timestamp()
        self._record(_DURATION, (task, outcome), cost.wall)


def _unstarted(status: Status, reason: str) -> tuple[str, str]:
    """Return what came of an occurrence whose run ended before it started, and why in a word."""
    if status is Status.MISSED:
        return "skipped", "overlap" if reason else "misfire_grace"
    return "dropped", "cancelled" if status is Status.CANCELLED else "removed"


def _add(counts: dict[Labels, float], labels: Labels, by: float) -> None:
    counts[labels] = counts.get(labels, 0) + by


class _Names:
    """The first names that were heard of, so many; the others, and odd ones, are "other"."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, None] = {}

    def known(self) -> list[str]:
        return list(self._known)

    def of(self, name: str) -> str:
        """Return *name*, or what stands for it."""
        if name in self._known:
            return name
        if len(self._known) >= self._most or len(name) > _LONGEST_NAME or not name.isprintable():
            return _OTHER
        self._known[name] = None
        return name


class Buckets:
    """Distributions by labels: how many values lie below each of `BOUNDS`, and their sum.

    One thread at a time records, any reads.
    """

    def __init__(self) -> None:
        """Start without values."""
        self._rows: dict[Labels, list[float]] = {}  # one number a bucket, then the sum

    def record(self, labels: Labels, value: float) -> None:
        """Add *value*."""
        row = self._rows.get(labels)
        if row is None:
            row = self._rows[labels] = [0] * (len(BOUNDS) + 1) + [0.0]
        row[bisect_left(BOUNDS, value)] += 1
        row[-1] += value

    def read(self) -> list[tuple[Labels, list[float], float]]:
        """Return by labels how many values are at most each of `BOUNDS`, how many there are, sum.

        The number of all is the last of the list.
        """
        rows = [(labels, row.copy()) for labels, row in self._rows.copy().items()]
        return [(labels, list(accumulate(row[:-1])), row[-1]) for labels, row in rows]
