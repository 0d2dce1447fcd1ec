"""The scenarios: each measures one contestant in this process and returns its figures.

Figures end in their unit: ``_ms``, ``_us``, ``_bytes``, ``_percent``; the rest are numbers of
runs or wakes.
"""

from __future__ import annotations

import gc
import math
import resource
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.probe import Finish, Grid, Work, percentile, wait_for

__all__ = ["SCENARIOS", "Figures"]

Make = Callable[[], Contestant]
Figures = dict[str, float]
_T = TypeVar("_T")


def burst(make: Make, *, n: int) -> Figures:
    """Measure *n* one-shots due at one instant: wall time from it to the last function's end."""
    contestant, at, finish = _armed(make, _one_shots, n)
    time.sleep(max(0.0, at - 0.01 - time.time()))
    cpu = time.process_time()
    ran = finish.wait()
    began = contestant.began or at
    wall = finish.last - began
    return {
        "wall_ms": wall * 1e3,
        "first_ms": (finish.first - began) * 1e3,
        "wall_a_run_us": wall * 1e6 / n,
        "cpu_a_run_us": (time.process_time() - cpu) * 1e6 / max(ran, 1),
        "lost": n - ran,
    }


def backlog(make: Make, *, n: int, turns: int) -> Figures:
    """Measure *n* ready runs of *turns* loop turns: wall from letting go to the last end."""
    finish = Finish(n, turns)
    began = make().backlog([finish.work] * n)
    ran = finish.wait()
    return {
        "wall_ms": (finish.last - began) * 1e3,
        "first_ms": (finish.first - began) * 1e3,
        "lost": n - ran,
    }


def grid(make: Make, *, n: int, interval: float, seconds: float) -> Figures:
    """Measure *n* tasks on one grid: how late their functions begin, what is lost, the CPU."""
    count = round(seconds / interval)

    def fill(contestant: Contestant, at: float, n: int) -> Grid:
        starts = Grid(n, count)
        for work in starts.works:
            contestant.every(work, interval, at, count)
        return starts

    _, at, starts = _armed(make, fill, n)
    cpu = time.process_time()
    time.sleep(max(0.0, at + (count - 1) * interval - time.time()))
    ran = wait_for(lambda: starts.ran, starts.asked, patience=0.5, end=at + 3 * seconds)
    cpu = time.process_time() - cpu
    late = starts.lateness(at, interval)
    return {
        "p50_ms": percentile(late, 50) * 1e3,
        "p99_ms": percentile(late, 99) * 1e3,
        "cpu_a_run_us": cpu * 1e6 / max(ran, 1),
        "lost": starts.asked - ran,
    }


def period(make: Make, *, interval: float, seconds: float) -> Figures:
    """Measure how far the mean period of one task is from its *interval*."""
    count = round(seconds / interval)
    contestant, starts = make(), Grid(1, count)
    at = round(time.time() + 0.5, 3)
    contestant.every(starts.works[0], interval, at, count)
    contestant.start()
    time.sleep(at + (count - 1) * interval - time.time())
    ran = wait_for(lambda: starts.ran, starts.asked, patience=0.5, end=at + 2 * seconds)
    (mean,) = starts.mean_periods()
    return {"off_percent": abs(mean / interval - 1) * 100, "lost": starts.asked - ran}


def event(make: Make, *, n: int) -> Figures:
    """Measure *n* requests, one at a time, with idle slots: from asking to the first line."""
    contestant, done = make(), threading.Event()
    begun = 0.0

    def work() -> None:
        nonlocal begun
        begun = time.perf_counter()
        done.set()

    ask = contestant.asker(work)
    contestant.start()
    took: list[float] = []
    for _ in range(n + 20):  # the first ones start threads
        contestant.settle()
        done.clear()
        asked = time.perf_counter()
        ask()
        done.wait(5)
        took.append(begun - asked)
    took = sorted(took[20:])
    return {"p50_us": percentile(took, 50) * 1e6, "p99_us": percentile(took, 99) * 1e6}


def priority(make: Make, *, queued: int, urgent: int, run_ms: float) -> Figures:
    """Measure how long urgent runs wait behind a queue of others, all *run_ms* long."""
    contestant, finish = make(), Finish(queued + urgent)
    asked = [math.nan] * urgent
    waited: list[float] = []

    def work() -> None:
        time.sleep(run_ms / 1e3)
        finish.work()

    def urgent_work(k: int) -> Work:
        def work_at_once() -> None:
            waited.append(time.perf_counter() - asked[k])
            work()

        return work_at_once

    askers = [contestant.asker(work) for _ in range(queued)]
    urgent_askers = [contestant.asker(urgent_work(k), is_urgent=True) for k in range(urgent)]
    contestant.start()
    for ask in askers:
        ask()
    time.sleep(0.1)
    for k, ask in enumerate(urgent_askers):
        asked[k] = time.perf_counter()
        ask()
    ran = finish.wait(patience=1)
    return {"p50_ms": percentile(sorted(waited), 50) * 1e3, "lost": queued + urgent - ran}


def idle(make: Make, *, n: int, seconds: float, after: float) -> Figures:
    """Measure the CPU and the wakes of *n* tasks due in an hour, as for 10 s.

    Measures for *seconds* and scales. Begins *after* so many seconds, when all processes that
    were started together have their tasks.
    """
    begin = time.monotonic() + after
    contestant = make()
    for _ in range(n):
        contestant.hourly(_nothing)
    contestant.start()
    gc.collect()
    time.sleep(max(1.0, begin - time.monotonic()))
    wakes, cpu = _switches(), time.process_time()
    time.sleep(seconds)
    cpu = time.process_time() - cpu
    wakes = _switches() - wakes - 1  # ours
    return {"cpu_ms": cpu * 1e3 * 10 / seconds, "wakes": wakes * 10 / seconds}


def frozen(make: Make, *, n: int, ahead: float, seconds: float) -> Figures:
    """Measure the CPU of *n* one-shots due *ahead* so many seconds while time is frozen."""
    from freezegun import freeze_time

    with freeze_time():
        contestant, at = make(), time.time() + ahead
        for _ in range(n):
            contestant.once(_nothing, at)
        contestant.start()
        time.sleep(1.0)  # freezegun leaves it alone
        cpu = time.process_time()
        time.sleep(seconds)
        return {"cpu_percent": (time.process_time() - cpu) * 100 / seconds}


def catch_up(make: Make, *, interval: float, days: float, ticks: int) -> Figures:
    """Measure the tick that finds a task of a short *interval* so many *days* late."""
    took: list[float] = []
    for _ in range(ticks):
        tick = make().late(interval, days * 86_400)
        began = time.perf_counter()
        tick()
        took.append(time.perf_counter() - began)
    took.sort()
    return {"p50_us": percentile(took, 50) * 1e6, "p99_us": percentile(took, 99) * 1e6}


def add(make: Make, *, n: int) -> Figures:
    """Measure what adding each of *n* hourly tasks costs, before the start and while running.

    Before the start, the start itself counts too: some leave half of the work to it.
    """
    figures: Figures = {}
    for figure, is_running in (("before_us", False), ("running_us", True)):
        contestant = make()
        if is_running:
            contestant.start()
            time.sleep(0.05)
        began = time.perf_counter()
        for _ in range(n):
            contestant.hourly(_nothing)
        if not is_running:
            contestant.start()
        figures[figure] = (time.perf_counter() - began) * 1e6 / n
        contestant.stop()
        del contestant
        gc.collect()
    return figures


def memory(make: Make, *, n: int) -> Figures:
    """Measure the bytes that tracemalloc counts for an hourly task, of *n*."""
    contestant = make()
    for _ in range(100):
        contestant.hourly(_nothing)
    gc.collect()
    tracemalloc.start()
    for _ in range(n):
        contestant.hourly(_nothing)
    gc.collect()
    return {"a_task_bytes": tracemalloc.get_traced_memory()[0] / n}


def cron_storm(make: Make, *, n: int, seconds: int) -> Figures:
    """Measure *n* tasks each second by cron: the last start of a second, and what is lost."""

    def fill(contestant: Contestant, at: float, n: int) -> Grid:
        starts = Grid(n, seconds)
        for work in starts.works:
            contestant.every_second(work, at, seconds)
        return starts

    _, at, starts = _armed(make, fill, n, whole=True)
    cpu = time.process_time()
    time.sleep(max(0.0, at + seconds - 1 - time.time()))
    ran = wait_for(lambda: starts.ran, starts.asked, patience=1.5, end=at + 3 * seconds)
    cpu = time.process_time() - cpu
    last = sorted(starts.last_starts(at, 1.0, time.time()))
    return {
        "last_ms": percentile(last, 50) * 1e3,
        "cpu_a_run_us": cpu * 1e6 / max(ran, 1),
        "lost": starts.asked - ran,
    }


def calls(make: Make, *, n: int, bursts: int) -> Figures:
    """Measure calls that another thread makes while a burst of *n* runs, *bursts* times."""
    took: dict[str, list[float]] = {}
    for _ in range(bursts):
        contestant, at, finish = _armed(make, _one_shots, n)
        time.sleep(max(0.0, at - time.time()))
        while not finish.is_done and time.time() < at + 10:
            for name, prepare in contestant.calls().items():
                call = prepare(_nothing)
                began = time.perf_counter()
                call()
                took.setdefault(name, []).append(time.perf_counter() - began)
        contestant.stop()
    figures = {f"{name}_p99_ms": percentile(sorted(t), 99) * 1e3 for name, t in took.items()}
    return {**figures, "calls": sum(map(len, took.values()))}


def watching(make: Make, *, n: int) -> Figures:
    """Measure the CPU of *n* runs of ten tasks that are ready at once, until all is told."""
    contestant, finish = make(), Finish(n)
    askers = [contestant.asker(finish.work) for _ in range(10)]
    for k in range(n):
        askers[k % 10]()
    gc.collect()
    cpu = time.process_time()
    contestant.start()
    ran = finish.wait()
    contestant.settle()
    cpu = time.process_time() - cpu
    return {"cpu_a_run_us": cpu * 1e6 / max(ran, 1), "lost": n - ran}


def _nothing() -> None:
    pass


def _one_shots(contestant: Contestant, at: float, n: int) -> Finish:
    finish = Finish(n)
    for _ in range(n):
        contestant.once(finish.work, at)
    return finish


def _switches() -> int:
    """Return how often a thread of this process has gone to sleep."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def _armed(
    make: Make, fill: Callable[[Contestant, float, int], _T], n: int, *, whole: bool = False
) -> tuple[Contestant, float, _T]:
    """Return a contestant that was filled and started before the instant that all waits for.

    With *whole* the instant is a whole second. Filled once more where the time was too short.
    """
    lead = 0.4 + 3 * n * _seconds_a_task(make, fill)  # 3: some do half of it in `start`
    while True:
        contestant = make()
        at = time.time() + lead
        at = float(math.ceil(at)) if whole else round(at, 3)
        filled = fill(contestant, at, n)
        contestant.start()
        gc.collect()
        if time.time() < at - 0.1:
            return contestant, at, filled
        contestant.stop()
        lead *= 2


def _seconds_a_task(make: Make, fill: Callable[[Contestant, float, int], object]) -> float:
    """Return how long it takes to add one task, measured on a contestant that is not started."""
    tried = 200
    contestant, at = make(), float(math.ceil(time.time())) + 60
    fill(contestant, at, 1)  # imports
    began = time.perf_counter()
    fill(contestant, at, tried)
    return (time.perf_counter() - began) / tried


SCENARIOS: dict[str, Callable[..., Figures]] = {
    "burst": burst,
    "backlog": backlog,
    "grid": grid,
    "period": period,
    "event": event,
    "priority": priority,
    "idle": idle,
    "frozen": frozen,
    "catch up": catch_up,
    "add": add,
    "memory": memory,
    "cron storm": cron_storm,
    "calls": calls,
    "watching": watching,
}
