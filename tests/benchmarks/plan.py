"""What is measured beside what, and what is aimed at: the table of the benchmarks.

A `Case` is a set of measurements that alternate; a `Target` bounds a figure of ours, or its ratio
to that of another entry, taken within each round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["BEST_PEER", "PEERS", "Case", "Entry", "Target", "plan", "targets"]

PEERS = ("APScheduler", "scheduler", "schedule", "sched", "huey")
BEST_PEER = "best peer"
_DEFAULTS = "APScheduler defaults"
_TURNS = (0, 300, 2_000)
_CALLS = ("add_task", "tasks", "upcoming", "stats")

_WATCHERS = {  # and how many times the CPU of a run each may make it: a quarter above what it did
    "a listener": 2.4,
    "a line a run": 8.0,
    "all lines": 18.0,
    "Prometheus": 3.1,
    "metrics, SDK": 5.5,
    "traces, no SDK": 2.0,
    "traces, SDK": 7.0,
}

Value = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One measurement of a round.

    Attributes:
        label: What the tables call it; unique in its case.
        contestant: Who is measured.
        parameters: How, as the scenario's function takes it.
    """

    label: str
    contestant: str
    parameters: dict[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Measurements that are compared with each other, in fresh processes, in turn.

    Attributes:
        name: Unique; the tables and ``--only`` use it.
        scenario: The name of the scenario's function.
        what: What is done, for people.
        entries: What is measured in a round.
        rounds: How many rounds.
        shown: The figures that are printed; all are written to the file.
        together: The entries of a round are measured at the same time: for those that sleep.
    """

    name: str
    scenario: str
    what: str
    entries: tuple[Entry, ...]
    rounds: int
    shown: tuple[str, ...]
    together: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure must not exceed, and what it should not.

    Attributes:
        case: The name of the case.
        figure: The figure.
        against: The entry that it is divided by; "" when the figure itself is bounded.
        must: The bound; None where there is only an aim.
        aim: The lower bound that is aimed at; None where there is none.
        of: The entry whose figure it is.
        base: The case of *against*, if that is another one.
        every: Each round counts, not just the median: for what must never happen.
    """

    case: str
    figure: str
    against: str = ""
    must: float | None
    aim: float | None = None
    of: str = "ours"
    base: str = ""
    every: bool = False


def plan(*, quick: bool) -> list[Case]:
    """Return all cases: about ten minutes of them, or two with *quick*."""
    return [
        *_bursts(quick),
        *_backlogs(quick),
        *_grids(quick),
        *_waits(quick),
        _idle(quick),
        *_times(quick),
        *_adds(quick),
        _memory(quick),
        _cron_storm(quick),
        _calls(quick),
        _watching(quick),
    ]


def targets() -> list[Target]:
    """Return what is aimed at, in the order of the cases, growth last."""
    # What an operation on a heap costs more at so many times the tasks, at the most.
    flat, growth = (math.log(100_000) / math.log(n) for n in (1_000, 10_000))
    return [
        Target(case="burst", figure="wall_ms", against="pool", must=1.0, aim=0.7),
        Target(case="burst", figure="wall_ms", against="APScheduler", must=0.25),
        Target(case="burst", figure="wall_ms", against=BEST_PEER, must=None, aim=1.0),
        Target(case="burst", figure="first_ms", must=5),
        Target(case="burst", figure="lost", must=0, every=True),
        *(
            Target(case=f"backlog {turns}", figure="wall_ms", against="pool", must=1.0, aim=0.7)
            for turns in _TURNS
        ),
        Target(case="lateness", figure="p50_ms", against="heap+", must=2, aim=1.3),
        Target(case="lateness", figure="p99_ms", against="heap+", must=2, aim=1.3),
        Target(case="lateness", figure="p50_ms", against="APScheduler", must=0.3),
        Target(case="lateness", figure="p99_ms", against="APScheduler", must=0.6, aim=0.4),
        Target(case="rate", figure="lost", must=0, every=True),
        Target(case="rate", figure="cpu_a_run_us", against="pool", must=1.5, aim=1.0),
        Target(case="rate", figure="p99_ms", against="pool", must=1.2, aim=0.8),
        Target(case="event", figure="p50_us", against="pool", must=1.3, aim=1.0),
        Target(case="event", figure="p50_us", against="APScheduler", must=0.25),
        Target(case="priority", figure="p50_ms", against="huey", must=1.15, aim=1.05),
        Target(case="priority", figure="lost", must=0, every=True),
        Target(case="idle", figure="cpu_ms", must=3, of="ours, 100"),
        Target(case="idle", figure="cpu_ms", must=3, of="ours, 100,000"),
        Target(case="idle", figure="wakes", must=None, aim=12, of="ours, 100,000"),
        Target(case="period", figure="off_percent", must=0.1),
        Target(case="frozen", figure="cpu_percent", must=1, of="ours, in an hour"),
        Target(case="frozen", figure="cpu_percent", must=1, of="ours, at once"),
        Target(case="catch up", figure="p50_us", must=1_000),
        *(
            Target(case=f"add {n:,}", figure=figure, against="APScheduler", must=0.25, aim=0.12)
            for n in (1_000, 10_000, 100_000)
            for figure in ("before_us", "running_us")
        ),
        Target(case="memory", figure="a_task_bytes", against="APScheduler", must=1.4, aim=1.0),
        Target(case="cron storm", figure="lost", must=0, every=True),
        Target(case="cron storm", figure="last_ms", against="heap+", must=0.7, aim=0.4),
        *(Target(case="calls", figure=f"{call}_p99_ms", must=5, aim=1) for call in _CALLS),
        *(
            Target(
                case="watching",
                figure="cpu_a_run_us",
                of=f"ours, {each}",
                against="ours",
                must=bound,
            )
            for each, bound in _WATCHERS.items()
        ),
        Target(
            case="burst 100,000", figure="wall_a_run_us", against="ours", base="burst", must=growth
        ),
        *(
            Target(case="add 100,000", figure=figure, against="ours", base=base, must=bound)
            for base, bound in (("add 1,000", flat), ("add 10,000", growth))
            for figure in ("before_us", "running_us")
        ),
        Target(
            case="idle", figure="cpu_ms", of="ours, 100,000", against="ours, 10,000", must=growth
        ),
    ]


def _entries(contestants: Iterable[str], **parameters: Value) -> tuple[Entry, ...]:
    return tuple(Entry(label=c, contestant=c, parameters=parameters) for c in contestants)


def _bursts(quick: bool) -> list[Case]:
    limits = ("ours", "pool", "heap+")
    few = (*limits, "APScheduler", "scheduler")
    sizes = {
        "burst": (10_000, few if quick else (*limits, *PEERS), 3 if quick else 5),
        "burst 100": (100, few if quick else (*limits, *PEERS), 1),
        "burst 1,000": (1_000, few if quick else (*limits, *PEERS), 1),
        "burst 100,000": (100_000, ("ours",) if quick else limits, 1 if quick else 3),
    }
    if not quick:
        sizes["burst 100,000, peers"] = (100_000, ("APScheduler", "scheduler", "schedule"), 1)
    return [
        Case(
            name=name,
            scenario="burst",
            what=f"{n:,} one-shots due at one instant, no-op",
            entries=_entries(contestants, n=n),
            rounds=rounds,
            shown=("wall_ms", "first_ms", "cpu_a_run_us", "lost"),
        )
        for name, (n, contestants, rounds) in sizes.items()
    ]


def _backlogs(quick: bool) -> list[Case]:
    contestants = ("ours", "pool", "heap+", "APScheduler", "huey")
    return [
        Case(
            name=f"backlog {turns}",
            scenario="backlog",
            what=f"resume with 8,000 runs ready, tasks of {turns:,} loop turns",
            entries=_entries(contestants[: 3 if quick else None], n=8_000, turns=turns),
            rounds=3 if quick else 5,
            shown=("wall_ms",),
        )
        for turns in _TURNS
    ]


def _grids(quick: bool) -> list[Case]:
    lateness, rate = (3, 2) if quick else (10, 5)
    contestants = ("ours", "heap+", "APScheduler", "scheduler")
    many = ("ours", "pool", "ours defaults", "heap+", "APScheduler", _DEFAULTS, "scheduler")
    return [
        Case(
            name="lateness",
            scenario="grid",
            what=f"100 tasks every 100 ms for {lateness} s on one grid",
            entries=_entries(
                contestants[: 3 if quick else None], n=100, interval=0.1, seconds=lateness
            ),
            rounds=2,
            shown=("p50_ms", "p99_ms", "cpu_a_run_us", "lost"),
        ),
        Case(
            name="rate",
            scenario="grid",
            what=f"1,000 tasks every 50 ms for {rate} s: 20,000 runs/s asked",
            entries=_entries(many[: 2 if quick else None], n=1_000, interval=0.05, seconds=rate),
            rounds=2,
            shown=("p50_ms", "p99_ms", "cpu_a_run_us", "lost"),
        ),
    ]


def _waits(quick: bool) -> list[Case]:
    events = ("ours", "pool", "APScheduler", "heap+", "huey")
    queues = ("ours", "huey", "pool", "heap+", "APScheduler", _DEFAULTS)
    return [
        Case(
            name="event",
            scenario="event",
            what="from asking to the function's first line, idle slots",
            entries=_entries(events[: 3 if quick else None], n=300),
            rounds=3 if quick else 5,
            shown=("p50_us", "p99_us"),
        ),
        Case(
            name="priority",
            scenario="priority",
            what="20 urgent runs into 400 queued ones, all of 10 ms",
            entries=_entries(queues[: 2 if quick else None], queued=400, urgent=20, run_ms=10),
            rounds=2 if quick else 3,
            shown=("p50_ms", "lost"),
        ),
    ]


def _idle(quick: bool) -> Case:
    seconds, after, rounds = (3.0, 7.0, 1) if quick else (10.0, 15.0, 2)
    sizes = {
        "ours": (100, 1_000, 10_000, 100_000),
        "heap+": (100, 100_000) if quick else (100, 1_000, 10_000, 100_000),
        "APScheduler": (100, 10_000) if quick else (100, 1_000, 10_000, 100_000),
    }
    scaled = f", measured for {seconds:g} s" if quick else ""
    return Case(
        name="idle",
        scenario="idle",
        what=f"tasks due in an hour, CPU and wakes as in 10 s{scaled}, all at the same time",
        entries=tuple(
            Entry(
                label=f"{contestant}, {n:,}",
                contestant=contestant,
                parameters={"n": n, "seconds": seconds, "after": after},
            )
            for contestant, several in sizes.items()
            for n in several
        ),
        rounds=rounds,
        shown=("cpu_ms", "wakes"),
        together=True,
    )


def _times(quick: bool) -> list[Case]:
    contestants = ("ours", "heap+", "APScheduler", "scheduler")
    seconds, rounds = (5, 1) if quick else (10, 2)
    return [
        Case(
            name="period",
            scenario="period",
            what=f"the mean period of one task every 50 ms for {seconds} s",
            entries=_entries(contestants[: 1 if quick else None], interval=0.05, seconds=seconds),
            rounds=rounds,
            shown=("off_percent", "lost"),
        ),
        Case(
            name="frozen",
            scenario="frozen",
            what=f"1,000 one-shots in frozen time, {seconds} s, all at the same time",
            entries=tuple(
                Entry(
                    label=f"ours, {label}",
                    contestant="ours",
                    parameters={"n": 1_000, "ahead": ahead, "seconds": seconds},
                )
                for label, ahead in (("in an hour", 3600.0), ("at once", 1e-5))
            ),
            rounds=rounds,
            shown=("cpu_percent",),
            together=True,
        ),
        Case(
            name="catch up",
            scenario="catch up",
            what="the tick that finds a one-second interval seven days late",
            entries=_entries(("ours",), interval=1.0, days=7, ticks=200),
            rounds=rounds,
            shown=("p50_us", "p99_us"),
        ),
    ]


def _adds(quick: bool) -> list[Case]:
    few = ("ours", "APScheduler")
    many = ("ours", "heap+", *PEERS[:4])
    sizes = {
        100: (few if quick else many, 1),
        1_000: (few if quick else many, 3 if quick else 5),
        10_000: (few if quick else many, 2 if quick else 5),
        100_000: (few if quick else many, 1 if quick else 2),
    }
    return [
        Case(
            name=f"add {n:,}",
            scenario="add",
            what=f"adding each of {n:,} hourly tasks, before the start (with it) and running",
            entries=_entries(contestants, n=n),
            rounds=rounds,
            shown=("before_us", "running_us"),
        )
        for n, (contestants, rounds) in sizes.items()
    ]


def _memory(quick: bool) -> Case:
    n = 20_000 if quick else 100_000
    contestants = ("ours", "APScheduler") if quick else ("ours", "heap+", *PEERS[:4])
    return Case(
        name="memory",
        scenario="memory",
        what=f"bytes an hourly task by tracemalloc, {n:,} of them",
        entries=_entries(contestants, n=n),
        rounds=1,
        shown=("a_task_bytes",),
    )


def _cron_storm(quick: bool) -> Case:
    seconds = 3 if quick else 6
    contestants = ("ours", "heap+") if quick else ("ours", "heap+", "APScheduler", _DEFAULTS)
    return Case(
        name="cron storm",
        scenario="cron storm",
        what=f"10,000 tasks on * * * * * * for {seconds} s; heap+ asks croniter each time",
        entries=_entries(contestants, n=10_000, seconds=seconds),
        rounds=2,
        shown=("last_ms", "cpu_a_run_us", "lost"),
    )


def _calls(quick: bool) -> Case:
    return Case(
        name="calls",
        scenario="calls",
        what="calls from another thread during bursts of 10,000",
        entries=_entries(("ours",) if quick else ("ours", "APScheduler"), n=10_000, bursts=3),
        rounds=1 if quick else 3,
        shown=tuple(f"{call}_p99_ms" for call in _CALLS),
    )


def _watching(quick: bool) -> Case:
    return Case(
        name="watching",
        scenario="watching",
        what="5,000 runs of ten tasks ready at once, no-op, while somebody watches",
        entries=_entries(("ours", *(f"ours, {each}" for each in _WATCHERS)), n=5_000),
        rounds=2 if quick else 5,
        shown=("cpu_a_run_us", "lost"),
    )
