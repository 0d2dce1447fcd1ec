"""The peers: other in-process schedulers from PyPI, each in its best honest configuration.

Imported by name, since they are installed beside the package for the benchmarks only.
"""

# ruff: noqa: D102 - what a method does is said once, by Contestant

from __future__ import annotations

import itertools
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any, ClassVar

from tests.benchmarks.contestants import HOUR, SLOTS, Contestant, instant
from tests.benchmarks.probe import Work

__all__ = ["ApScheduler", "ApSchedulerDefaults", "DigonIO", "Huey", "Sched", "Schedule"]


class ApScheduler(Contestant):
    """APScheduler 3.11: no grace time, nothing merged, as many instances as it likes.

    A run that is late or finds another of its job still queued is then not dropped.
    """

    lenience: ClassVar[dict[str, object]] = {
        "misfire_grace_time": None,
        "coalesce": False,
        "max_instances": 1 << 30,
    }

    def __init__(self) -> None:
        background = import_module("apscheduler.schedulers.background")
        pool = import_module("apscheduler.executors.pool")
        self._scheduler: Any = background.BackgroundScheduler(
            executors={"default": pool.ThreadPoolExecutor(SLOTS)},
            job_defaults=self.lenience,
            timezone=timezone.utc,
        )
        self._cron: Any = import_module("apscheduler.triggers.cron").CronTrigger
        self._numbers = itertools.count()

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        self._scheduler.shutdown(wait=False)

    def once(self, work: Work, at: float) -> None:
        self._scheduler.add_job(work, "date", run_date=instant(at), id=self._id())

    def every(self, work: Work, interval: float, start: float, count: int) -> None:
        first = instant(start)
        self._scheduler.add_job(
            work,
            "interval",
            seconds=interval,
            start_date=first,
            end_date=first + (count - 1) * timedelta(seconds=interval),
            id=self._id(),
        )

    def hourly(self, work: Work) -> None:
        self._scheduler.add_job(work, "interval", seconds=HOUR, id=self._id())

    def every_second(self, work: Work, start: float, count: int) -> None:
        first, last = instant(start), instant(start + count - 1)
        trigger = self._cron(second="*", start_date=first, end_date=last, timezone=timezone.utc)
        self._scheduler.add_job(work, trigger, id=self._id())

    def asker(self, work: Work, *, is_urgent: bool = False) -> Callable[[], object]:
        """Return a run-now: a job without a trigger. There are no priorities."""
        return lambda: self._scheduler.add_job(work, id=self._id())

    def backlog(self, works: Sequence[Work]) -> float:
        self._scheduler.start(paused=True)
        for work in works:
            self._scheduler.add_job(work, id=self._id())
        began = time.time()
        self._scheduler.resume()
        return began

    def calls(self) -> dict[str, Callable[[Work], Callable[[], object]]]:
        return {
            "add_task": lambda work: lambda: self.hourly(work),
            "tasks": lambda _: self._scheduler.get_jobs,
        }

    def _id(self) -> str:
        return str(next(self._numbers))


class ApSchedulerDefaults(ApScheduler):
    """APScheduler 3.11 with its default job settings, which drop late and overlapping runs."""

    lenience: ClassVar[dict[str, object]] = {}


class _Driven(Contestant):
    """A library without a thread of its own: one calls it when its next task is due."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._drive, daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _drive(self) -> None:
        while not self._over.is_set():
            self._run_due()
            wait = self._wait()
            if wait > 0:
                self._over.wait(min(wait, HOUR))

    @abstractmethod
    def _run_due(self) -> None:
        """Run what is due."""

    @abstractmethod
    def _wait(self) -> float:
        """Return the seconds until the next task is due."""


class DigonIO(_Driven):
    """DigonIO's scheduler: four threads for each pass, passes when the next job is due."""

    def __init__(self) -> None:
        super().__init__()
        scheduler = import_module("scheduler").Scheduler
        self._scheduler: Any = scheduler(tzinfo=timezone.utc, n_threads=SLOTS)

    def once(self, work: Work, at: float) -> None:
        self._scheduler.once(instant(at), work)

    def every(self, work: Work, interval: float, start: float, count: int) -> None:
        step, first = timedelta(seconds=interval), instant(start)
        last = first + (count - 1) * step
        self._scheduler.cyclic(step, work, start=first - step, stop=last)

    def hourly(self, work: Work) -> None:
        self._scheduler.cyclic(timedelta(seconds=HOUR), work)

    def _run_due(self) -> None:
        self._scheduler.exec_jobs()

    def _wait(self) -> float:
        first = min((job.datetime for job in self._scheduler.jobs), default=None)
        return HOUR if first is None else float(first.timestamp()) - time.time()


class Schedule(_Driven):
    """schedule: its thread hands each function to a ThreadPoolExecutor(4), as its FAQ advises.

    It has no one-shots: a job that answers CancelJob is one. It counts each interval from the run
    before, so its grid drifts.
    """

    def __init__(self) -> None:
        super().__init__()
        module = import_module("schedule")
        self._scheduler: Any = module.Scheduler()
        self._cancel: Any = module.CancelJob
        self._pool = ThreadPoolExecutor(SLOTS)

    def once(self, work: Work, at: float) -> None:
        job = self._scheduler.every(1).hours.do(self._hand_over_once, work)
        job.next_run = _naive(at)

    def every(self, work: Work, interval: float, start: float, count: int) -> None:
        left = itertools.count(count - 1, -1)

        def hand_over() -> object:
            self._pool.submit(work)
            return None if next(left) else self._cancel

        self._scheduler.every(interval).seconds.do(hand_over).next_run = _naive(start)

    def hourly(self, work: Work) -> None:
        self._scheduler.every(1).hours.do(work)

    def _hand_over_once(self, work: Work) -> object:
        self._pool.submit(work)
        return self._cancel

    def _run_due(self) -> None:
        self._scheduler.run_pending()

    def _wait(self) -> float:
        seconds = self._scheduler.idle_seconds
        return math.inf if seconds is None else float(seconds)


class Sched(Contestant):
    """The standard library's sched: its thread hands each function to a ThreadPoolExecutor(4)."""

    def __init__(self) -> None:
        self._scheduler: Any = import_module("sched").scheduler(time.time, time.sleep)
        self._pool = ThreadPoolExecutor(SLOTS)

    def start(self) -> None:
        threading.Thread(target=self._scheduler.run, daemon=True).start()

    def stop(self) -> None:
        """Leave it to its daemon thread: a ``run`` that sleeps cannot be ended."""

    def once(self, work: Work, at: float) -> None:
        self._scheduler.enterabs(at, 0, self._pool.submit, (work,))

    def every(self, work: Work, interval: float, start: float, count: int) -> None:
        def again(k: int) -> None:
            self._pool.submit(work)
            if k + 1 < count:
                self._scheduler.enterabs(start + (k + 1) * interval, 0, again, (k + 1,))

        self._scheduler.enterabs(start, 0, again, (0,))

    def hourly(self, work: Work) -> None:
        self._scheduler.enter(HOUR, 0, self._pool.submit, (work,))


class Huey(Contestant):
    """huey in memory: its consumer in this process, workers that look each millisecond.

    It looks at what is due once a second and knows no shorter period than a minute.
    """

    def __init__(self) -> None:
        self._huey: Any = import_module("huey").MemoryHuey(results=False, utc=True)
        self._works: list[Work] = []
        self._normal: Any = self._huey.task(name="normal")(self._run)
        self._urgent: Any = self._huey.task(name="urgent", priority=10)(self._run)
        self._consumer: Any = None

    def start(self) -> None:
        self._consumer = self._huey.create_consumer(
            workers=SLOTS,
            periodic=False,
            initial_delay=0.001,
            max_delay=0.001,
            backoff=1,
            scheduler_interval=1,
            check_worker_health=False,
        )
        self._consumer.start()

    def stop(self) -> None:
        self._consumer.stop_flag.set()

    def once(self, work: Work, at: float) -> None:
        self._normal.schedule(args=(self._register(work),), eta=instant(at))

    def asker(self, work: Work, *, is_urgent: bool = False) -> Callable[[], object]:
        number, task = self._register(work), self._urgent if is_urgent else self._normal
        return lambda: task(number)

    def backlog(self, works: Sequence[Work]) -> float:
        for work in works:
            self._normal(self._register(work))
        began = time.time()
        self.start()
        return began

    def _register(self, work: Work) -> int:
        self._works.append(work)
        return len(self._works) - 1

    def _run(self, number: int) -> object:
        return self._works[number]()


def _naive(at: float) -> datetime:
    """Return wall time as the naive local datetime that `schedule` uses."""
    return instant(at).astimezone().replace(tzinfo=None)
