"""What every contestant can be asked for, and the first three: ours, the pool and the heap.

The peers are in `peers.py`. Each implements what its library can do; the plan asks for no more.
"""

# ruff: noqa: D102 - what a method does is said once, by Contestant

from __future__ import annotations

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

from background_tasks import EventTrigger, OneTimeTrigger, PeriodicTrigger, Scheduler, Task, Trigger
from background_tasks.testing import InlineScheduler
from tests.benchmarks.heap_plus import HeapPlus
from tests.benchmarks.probe import Work

__all__ = ["SLOTS", "Contestant", "HeapPlusContestant", "Ours", "OursDefaults", "Pool", "instant"]

SLOTS = 4
HOUR = 3600.0


class Contestant(ABC):
    """Something that calls functions in the background, `SLOTS` at a time.

    Instants are wall time in seconds since the epoch, intervals are seconds.
    """

    began: float | None = None  # when a burst began, if not at its instant

    @abstractmethod
    def start(self) -> None:
        """Begin to call what was added; it may be added later, too."""

    @abstractmethod
    def stop(self) -> None:
        """Call nothing more; does not wait."""

    def once(self, work: Work, at: float) -> None:
        """Call *work* once, at *at*."""
        raise NotImplementedError

    def every(self, work: Work, interval: float, start: float, count: int) -> None:
        """Call *work* *count* times, at *start* and each *interval* later."""
        raise NotImplementedError

    def hourly(self, work: Work) -> None:
        """Call *work* each hour, first in an hour: the plainest periodic task there is."""
        raise NotImplementedError

    def every_second(self, work: Work, start: float, count: int) -> None:
        """Call *work* *count* times from *start* on, as ``* * * * * *`` says."""
        raise NotImplementedError

    def asker(self, work: Work, *, is_urgent: bool = False) -> Callable[[], object]:
        """Return what has *work* called now each time it is called itself."""
        raise NotImplementedError

    def backlog(self, works: Sequence[Work]) -> float:
        """Let go all *works* at once; return when. It is started by this."""
        raise NotImplementedError

    def late(self, interval: float, seconds: float) -> Callable[[], object]:
        """Return the tick that finds one task *seconds* late, whose *interval* is short."""
        raise NotImplementedError

    def settle(self) -> None:
        """Wait until the slots are idle."""
        time.sleep(0.001)

    def calls(self) -> dict[str, Callable[[Work], Callable[[], object]]]:
        """Return by name what makes a call to measure, ready to be made."""
        raise NotImplementedError


def instant(at: float) -> datetime:
    """Return wall time as an aware datetime, to the microsecond."""
    return datetime.fromtimestamp(at, timezone.utc)


class Ours(Contestant):
    """This package, history and resource accounting on; on a grid it makes each run, however late.

    By default one late run stands for those that were missed, as `OursDefaults` has it.
    """

    missed = "all"

    def __init__(self, **settings: Any) -> None:
        self.scheduler = Scheduler(SLOTS, **settings)
        self._numbers = itertools.count()

    def start(self) -> None:
        self.scheduler.start()

    def stop(self) -> None:
        self.scheduler.stop(timeout=0)

    def once(self, work: Work, at: float) -> None:
        self._add(work, OneTimeTrigger(at=instant(at)))

    def every(self, work: Work, interval: float, start: float, count: int) -> None:
        first = instant(start)
        last = first + (count - 1) * timedelta(seconds=interval)
        trigger = PeriodicTrigger(interval=interval, start=first, end=last)
        self._add(work, trigger, missed=self.missed)

    def hourly(self, work: Work) -> None:
        self._add(work, PeriodicTrigger(interval=HOUR))

    def every_second(self, work: Work, start: float, count: int) -> None:
        first, last = instant(start), instant(start + count - 1)
        self._add(work, PeriodicTrigger(cron_expr="* * * * * *", start=first, end=last))

    def asker(self, work: Work, *, is_urgent: bool = False) -> Callable[[], object]:
        trigger = EventTrigger()
        self._add(work, trigger, priority=10 if is_urgent else 0)
        return trigger.fire

    def backlog(self, works: Sequence[Work]) -> float:
        ids = [self.scheduler.add_task(self._make(work)).id for work in works]
        self.scheduler.start()
        self.scheduler.stop()
        for task_id in ids:
            self.scheduler.release_task(task_id)
        began = time.time()
        self.scheduler.resume()
        return began

    def late(self, interval: float, seconds: float) -> Callable[[], object]:
        scheduler = InlineScheduler(SLOTS)
        scheduler.add_task(Task("late", int, triggers=[PeriodicTrigger(interval=interval)]))
        scheduler.clock.jump_to(scheduler.clock.now() + timedelta(seconds=seconds))
        return scheduler.run_tasks

    def settle(self) -> None:
        self.scheduler.wait_idle(timeout=1)
        super().settle()

    def calls(self) -> dict[str, Callable[[Work], Callable[[], object]]]:
        return {
            "add_task": self._adder,
            "tasks": lambda _: lambda: self.scheduler.tasks,
            "upcoming": lambda _: lambda: self.scheduler.upcoming(10),
            "stats": lambda _: self.scheduler.stats,
        }

    def _adder(self, work: Work) -> Callable[[], object]:
        task = self._make(work, PeriodicTrigger(interval=HOUR))
        return lambda: self.scheduler.add_task(task)

    def _add(
        self, work: Work, trigger: Trigger, *, priority: int = 0, missed: str = "once"
    ) -> Task:
        return self.scheduler.add_task(self._make(work, trigger, priority=priority, missed=missed))

    def _make(
        self, work: Work, *triggers: Trigger, priority: int = 0, missed: str = "once"
    ) -> Task:
        name = str(next(self._numbers))
        return Task(name, work, triggers=triggers, priority=priority, missed=missed)


class OursDefaults(Ours):
    """This package with every option as it is by default."""

    missed = "once"


class Pool(Contestant):
    """The limit "pool": one thread that submits to a bare executor when the time has come.

    It has no registry and no schedule but a list, so it says what handing over alone costs.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(SLOTS)
        self._works: list[Work] = []
        self._start = self._interval = 0.0
        self._count = 1

    def start(self) -> None:
        threading.Thread(target=self._submit_on, daemon=True).start()

    def stop(self) -> None:
        self._count = 0

    def once(self, work: Work, at: float) -> None:
        self._works.append(work)
        self._start = at

    def every(self, work: Work, interval: float, start: float, count: int) -> None:
        self._works.append(work)
        self._interval, self._start, self._count = interval, start, count

    def asker(self, work: Work, *, is_urgent: bool = False) -> Callable[[], object]:
        return lambda: self._pool.submit(work)

    def backlog(self, works: Sequence[Work]) -> float:
        began, submit = time.time(), self._pool.submit
        for work in works:
            submit(work)
        return began

    def _submit_on(self) -> None:
        submit, k = self._pool.submit, 0
        while k < self._count:
            time.sleep(max(0.0, self._start + k * self._interval - time.time()))
            self.began = self.began or time.time()
            for work in self._works:
                submit(work)
            k += 1


class HeapPlusContestant(Contestant):
    """The limit "heap+", see `HeapPlus`; with croniter asked for each next time for cron."""

    def __init__(self) -> None:
        self._heap = HeapPlus(SLOTS)

    def start(self) -> None:
        self._heap.start()

    def stop(self) -> None:
        self._heap.is_over = True

    def once(self, work: Work, at: float) -> None:
        self._heap.add(work, at)

    def every(self, work: Work, interval: float, start: float, count: int) -> None:
        self._heap.add(work, start, interval=interval, count=count)

    def hourly(self, work: Work) -> None:
        self._heap.add(work, time.time() + HOUR, interval=HOUR, count=1 << 30)

    def every_second(self, work: Work, start: float, count: int) -> None:
        from croniter import croniter  # here, so that the others do not pay for it

        ask = croniter("* * * * * *", start, ret_type=float, second_at_beginning=True).get_next
        self._heap.add(work, start, ask=ask, count=count)

    def asker(self, work: Work, *, is_urgent: bool = False) -> Callable[[], object]:
        number = self._heap.add(work, rank=-10 if is_urgent else 0)
        return lambda: self._heap.fire(number)

    def backlog(self, works: Sequence[Work]) -> float:
        for ask in [self.asker(work) for work in works]:
            ask()
        began = time.time()
        self._heap.start()
        return began
