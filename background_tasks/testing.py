"""What users' tests need: a clock that moves when it is told, and a scheduler without threads.

::

    clock = Clock()
    scheduler = InlineScheduler(clock=clock)
    scheduler.add_task(Task("report", report, triggers=[PeriodicTrigger(cron_expr="0 6 * * 1-5")]))
    clock.advance(days=31)  # calls report() 22 times, each at its own time

The scheduler is the real one, whose threads are never started and whose waits let the clock go
on instead. So what it does in a test is what it does in the program, but for what several threads
do at once: here one run ends before the next begins, unless a function moves the clock itself.
For pytest there are fixtures in `background_tasks.pytest_plugin`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from background_tasks import checks
from background_tasks.calls import Around
from background_tasks.checks import Duration
from background_tasks.errors import InvalidValueError
from background_tasks.gates import Gate
from background_tasks.primitives import Primitives
from background_tasks.run import Outcome, Run
from background_tasks.scheduler import Scheduler, _Slot

__all__ = ["Clock", "InlineScheduler"]

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Clock:
    """A clock that stands still until it is moved, and the time of the schedulers made with it.

    To be moved by one thread; a function of a task may do it, too, and so take time.
    """

    def __init__(self, now: datetime = _START) -> None:
        """Stand at *now*, an aware datetime.

        Raises:
            ValueError: *now* has no time zone.
            TypeError: *now* is not a datetime.
        """
        self._now = checks.instant("now", now)
        self._passed = timedelta(0)
        self._schedulers: list[InlineScheduler] = []

    def now(self) -> datetime:
        """Return the time, an aware UTC datetime."""
        return self._now

    def monotonic(self) -> float:
        """Return how many seconds it was moved forward in all; `jump_to` does not count."""
        return self._passed.total_seconds()

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Move forward by the sum, making the runs on the way, in order, each at its own time.

        What is due now is run first, also with nothing to add. Returns when all have ended.

        Raises:
            ValueError: The sum is negative or not finite.
        """
        given = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
        parts = {name: checks.number(name, value) for name, value in given.items()}
        length = parts["days"] * 86400 + parts["hours"] * 3600 + parts["minutes"] * 60
        self.move_to(self._now + checks.duration("the time to advance", length + parts["seconds"]))

    def move_to(self, instant: datetime) -> None:
        """Move forward to *instant* as `advance` does.

        Raises:
            ValueError: *instant* has no time zone or lies in the past; see `jump_to`.
            TypeError: *instant* is not a datetime.
        """
        target = checks.instant("instant", instant)
        if target < self._now:
            raise InvalidValueError(f"instant must not lie before {self._now}, got {target}")
        self.wait_for(lambda: False, target)

    def jump_to(self, instant: datetime) -> None:
        """Be set to *instant*, ahead or back, as a wall clock is set; makes no run by itself.

        This is also what the end of a suspension looks like. What was jumped over is missed.

        Raises:
            ValueError: *instant* has no time zone.
            TypeError: *instant* is not a datetime.
        """
        self._now = checks.instant("instant", instant)

    # For InlineScheduler.

    def follow(self, scheduler: InlineScheduler) -> None:
        """Make the runs of *scheduler*, too."""
        self._schedulers.append(scheduler)

    def wait_for(self, condition: Callable[[], bool], until: datetime | None) -> bool:
        """Go on until *condition* holds, which is asked after each event; return whether it does.

        False at *until*, or, when that is None, once nothing is to come any more.
        """
        self._run_due()
        while not condition():
            if self._step(until):
                continue
            if until is not None and self._now < until:
                self._pass_to(until)
            return condition()
        return True

    def _step(self, until: datetime | None) -> bool:
        """Move to when something is next due, if that is no later than *until*, and run it."""
        comings = [each.next_due() for each in self._schedulers]
        due = min((each for each in comings if each is not None), default=None)
        if due is None or (until is not None and due > until):
            return False
        self._pass_to(max(due, self._now))
        self._run_due()
        return True

    def _pass_to(self, instant: datetime) -> None:
        self._passed += instant - self._now
        self._now = instant

    def _run_due(self) -> None:
        for scheduler in tuple(self._schedulers):
            scheduler.run_tasks()

    def __repr__(self) -> str:
        """Show the time."""
        return f"<Clock at {self._now.isoformat()}>"


class InlineScheduler(Scheduler):
    """A Scheduler without threads, on a `Clock`.

    ``clock.advance``, `run_tasks`, `wait_idle` and ``run_task`` call the functions of tasks, in
    the calling thread, and return when they have ended; nothing else does, so a signal that was
    fired or a run that was asked for waits until then. A wait, such as that of ``run_task`` for a
    retry, moves the clock on. Started or not makes no difference to what runs; stopped, nothing
    does.

    Attributes:
        clock: The clock it lives by.
    """

    def __init__(
        self,
        max_running_tasks: int = 4,
        *,
        clock: Clock | None = None,
        tick_interval: Duration = 1.0,
        aging: float = 5.0,
        lanes: Mapping[str, int] = {},
        capacity: Mapping[str, float] = {},
        gates: Iterable[Gate] = (),
        ungated_priority: int | None = None,
        max_defer: Duration = 300.0,
        stuck_after: Duration = 10.0,
        replacements: int = 0,
        around: Iterable[Around] = (),
    ) -> None:
        """Make one; what is not told here is as for `Scheduler`.

        Args:
            max_running_tasks: How many runs at once. This, *lanes* and *capacity* matter when a
                function moves the clock: others run meanwhile.
            clock: The clock to live by; None is one of its own, in ``clock``.
            tick_interval: Seconds of the clock between two looks at triggers that know no due
                time.
            aging: As for `Scheduler`.
            lanes: As for `Scheduler`.
            capacity: As for `Scheduler`.
            gates: As for `Scheduler`; sampled when the clock has moved a second.
            ungated_priority: As for `Scheduler`.
            max_defer: As for `Scheduler`.
            stuck_after: As for `Scheduler`.
            replacements: As for `Scheduler`.
            around: As for `Scheduler`.

        Raises:
            ValueError: A value breaks a rule.
            TypeError: A value is of the wrong kind.
        """
        self.clock = Clock() if clock is None else clock
        self._queue = _Queue()
        super().__init__(
            max_running_tasks,
            tick_interval=tick_interval,
            aging=aging,
            lanes=lanes,
            capacity=capacity,
            gates=gates,
            ungated_priority=ungated_priority,
            max_defer=max_defer,
            stuck_after=stuck_after,
            replacements=replacements,
            around=around,
            _primitives=Primitives(
                thread=_Thread,
                queue=lambda: self._queue,
                pause=lambda _: None,
                utc_now=self.clock.now,
                monotonic=self.clock.monotonic,
            ),
        )
        self.clock.follow(self)

    def run_tasks(self) -> int:
        """Release what is due now and run what is ready, in the calling thread.

        Returns how many runs were released. They have ended then, but for retries with a delay.
        """
        released = super().run_tasks()
        self._queue.work_off()
        return released

    def wait_idle(self, timeout: Duration | None = None) -> bool:
        """Let the clock go on until nothing runs, waits or is overdue; return whether it is so.

        At most for *timeout* seconds of the clock. With None it returns False when what waits
        has nothing to wait for, as a run would that waits for itself.

        Raises:
            ValueError: *timeout* is negative or NaN.
        """
        end = None if timeout is None else self.clock.now() + checks.duration("timeout", timeout)
        return self.clock.wait_for(lambda: super(InlineScheduler, self).wait_idle(0), end)

    def _step(self, slot: _Slot, outcome: Outcome | None, me: int) -> Run | None:
        """As in a thread of the pool; but a handler may raise here: it is the main thread."""
        with self._calm, self._lock, self._whole:
            try:
                return self._follow_up(slot, outcome, me)
            except BaseException:
                self._lose(slot.run, me)
                raise

    def _retry_inline(self, run: Run, delay: float) -> bool:
        """Let the clock go on by *delay* seconds, then start the next attempt."""
        end = self.clock.now() + timedelta(seconds=delay)
        self.clock.wait_for(lambda: run.execution.status.has_ended, end)
        return super()._retry_inline(run, 0)

    def next_due(self) -> datetime | None:
        """Return when there is next something to do, None when nothing is to come."""
        with self._calm, self._lock, self._whole:
            engine, now = self._engine, self.clock.now()
            if engine.is_paused:
                return None
            comings = [engine.next_due()]
            if engine.is_polling:
                comings.append(now + self._tick)
            sample = self._gates.wait(self.clock.monotonic())
            if sample is not None and engine.has_waiting:
                # One that is still due is being taken: its sensor has moved the clock.
                comings.append(now + (timedelta(seconds=sample) or self._tick))
            return min((each for each in comings if each is not None), default=None)


class _Queue:
    """A queue of calls that the thread which empties it makes itself."""

    def __init__(self) -> None:
        self._calls: deque[Any] = deque()

    def put(self, call: Callable[[], object] | None) -> None:
        self._calls.append(call)

    def work_off(self) -> None:
        """Make the calls; None, which tells a worker to go home, is none."""
        while self._calls:
            call = self._calls.popleft()
            if call is not None:
                call()


class _Thread:
    """A thread that is never started: what it would do, the one that moves the clock does."""

    ident = None

    def __init__(self, **_: object) -> None:
        pass

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return False

    def join(self, timeout: float | None = None) -> None:
        pass
