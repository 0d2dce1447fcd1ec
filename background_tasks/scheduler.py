"""`Scheduler`: the one ticking thread, the one lock, the pool and the lifecycle.

The decisions are the engine's; here they meet threads and clocks. Three threads act on a
scheduler: its own, which releases what is due; the pool's, each of which holds a slot and runs
what is ready, best first, until nothing is; and the callers of its methods.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context, copy_context
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

from background_tasks import checks
from background_tasks.admission import Rules
from background_tasks.calls import Around, stack_text, traceback_text
from background_tasks.changes import Change, ChangeKind
from background_tasks.checks import Duration
from background_tasks.clock import monotonic
from background_tasks.engine import Engine, Stats
from background_tasks.errors import (
    AlreadyAddedError,
    BackgroundTasksError,
    InvalidTypeError,
    InvalidValueError,
    TaskNotFoundError,
)
from background_tasks.gates import Gate, Gates
from background_tasks.health import Findings, Health, Pulse, health_of
from background_tasks.interrupts import hand_on, interrupt_of, is_interrupt, is_main_thread
from background_tasks.logger import log
from background_tasks.mending import forked, mend
from background_tasks.outlook import Bound, Upcoming, Waiting, oldest_wait, upcoming, waiting
from background_tasks.outside import Outside
from background_tasks.overview import TaskOverview, most_notable, overview, overview_table
from background_tasks.pool import DaemonPool
from background_tasks.primitives import PATIENCE, REAL, Primitives, Turn, looks_free
from background_tasks.process import enrol, notice_fork, stop_all
from background_tasks.reporter import Reporter
from background_tasks.resources import extras_of
from background_tasks.run import NOBODY, Outcome, Run
from background_tasks.runner import Runner
from background_tasks.status import StatusServer
from background_tasks.task import (
    Execution,
    RetryPolicy,
    Status,
    Task,
    current_execution,
    triggers_of,
)
from background_tasks.trigger import (
    Arm,
    Asked,
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    Signal,
    Trigger,
    trigger_of,
)
from background_tasks.usage import Totals

__all__ = ["Scheduler"]

_F = TypeVar("_F", bound=Callable[..., object])
_S = TypeVar("_S", bound="Scheduler")
_BATCH = 64  # due times released in one hold of the lock: about 0.3 ms
_SLOW = 0.05  # seconds that a trigger may take to answer
_AT_ONCE = (False,)  # what a lock is acquired with, not to wait
_MINUTE = 60.0  # seconds; a trigger that is slow is told of no more often
_LOOKED_AT = 100  # runs that wait, by `health`
_FROZEN_PAUSE = 0.05  # seconds; the least wait while the wall clock stands still: 0.4 % CPU
_INTERNAL = "internal error"
_STOPPED_BY_FORK = "scheduler stopped in a forked child: start it there if it should run"
_RUNNING = Status.RUNNING
_WARNING, _ERROR = 30, 40  # of logging


class _State(Enum):
    NEW = "new"  # never started: run_tasks dispatches, no thread ticks
    RUNNING = "running"
    STOPPED = "stopped"


_OBSTACLES = {_State.NEW: "not started", _State.RUNNING: "", _State.STOPPED: "stopped"}


class _Ticker:
    """One life of the scheduler thread, from a start to a stop."""

    def __init__(self, primitives: Primitives, work: Callable[[_Ticker], None], name: str) -> None:
        self.timer = primitives.event()  # set to end its wait; only under the scheduler's lock
        self.until: datetime | None = None  # what it waits for; None: it does not wait
        self.is_over = False
        self.polled_at = -math.inf  # this and the next two: its thread only; monotonic
        self.late = 0.0  # seconds that its last wait took longer than it should
        self.seen: datetime | None = None  # the wall clock when it last looked around
        self.thread = primitives.thread(target=work, args=(self,), name=name, daemon=True)

    def wake(self) -> None:
        """End its wait; the scheduler's lock is held."""
        self.until = None
        self.timer.set()


class _Calm:
    """The outer of the managers that hold a scheduler's lock; see "Locking" in `Scheduler`."""

    __slots__ = ("_is_held", "_scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self._is_held = scheduler._lock.locked
        self._scheduler = scheduler

    def __enter__(self) -> None:
        """Wait until the lock looks free."""
        while self._is_held():
            self._scheduler._primitives.pause(0)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Do what must not be done under the lock, which was let go."""
        scheduler = self._scheduler
        engine = scheduler._engine
        if (  # mostly there is nothing to do, and to ask here saves a call
            scheduler._unmanned
            or engine.changes
            or engine.rung
            or scheduler._stops
            or scheduler._dropped_by_fork is not None
        ):
            scheduler._after_lock()


class _Whole:
    """The inner of the managers that hold a scheduler's lock: what breaks off is mended.

    Attributes:
        is_torn: Whether a change has begun that was neither ended nor mended; under the lock.
    """

    __slots__ = ("_scheduler", "_spare", "is_torn")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._spare: tuple[object, ...] | None = None
        self.is_torn = False

    def __enter__(self) -> None:
        """Mend what an earlier hold has left, which an exception of a signal handler cut off."""
        if self.is_torn:
            self._scheduler._mend()
        self.is_torn = True
        # To leave the block of a lock takes a tuple of three, and without memory for it the lock
        # would stay held. CPython takes the one that was let go last.
        self._spare = (self, self, self)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Mend what *error* broke off, and wake the ticking thread where it would be late."""
        scheduler = self._scheduler
        # One of ours refuses what was asked for, before anything was changed.
        if error is None or (isinstance(error, BackgroundTasksError) and not is_interrupt(error)):
            self.is_torn = False
        else:
            scheduler._mend()
        ticker = scheduler._ticker
        if ticker is not None and ticker.until is not None:
            scheduler._wake_in_time(ticker)
        self._spare = None


class _Slot:
    """A slot that was claimed: what a thread of the pool calls.

    It may be started again if nobody seems to have begun: only one call of it does anything.

    Attributes:
        thread: The number of the thread that has begun, or NOBODY; all this is for who holds the
            lock, but for is_over.
        run: The run that it is at, or was.
        has_claimed: Whether it has claimed others when it took that.
        is_late: Whether it was seen that nobody had begun.
        is_over: Whether the call that has begun is over, by an error.
    """

    __slots__ = ("_scheduler", "has_claimed", "is_late", "is_over", "run", "thread")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.thread = NOBODY
        self.run: Run | None = None
        self.has_claimed = self.is_late = self.is_over = False

    def __call__(self) -> None:
        """Run what is ready, until nothing is."""
        self._scheduler._work(self)


class Scheduler:
    """Runs tasks when their triggers say so, at most *max_running_tasks* at a time.

    ``with Scheduler(4) as s:`` starts it, and stops it and waits at the end. Every method may be
    called from any thread, from inside a task, a listener or a trigger too.
    """

    # Locking
    #   _lock, a plain Lock, guards _engine (with `tasks` and `running`), _state, _ticker, _pulse,
    #   _pool, _slots and _busy. Held for bookkeeping only: never while calling a task, a trigger
    #   of the user's, a listener or the logger, never while waiting. Whoever lets it go looks at
    #   events that were fired meanwhile: `_after_lock`.
    #   Held as ``with self._calm, self._lock, self._whole:``. In the main thread a signal handler
    #   may raise at the first instruction of any function of ours, so also of an ``__enter__`` or
    #   ``__exit__`` written in Python, and between a call of ``acquire`` and what is next; but not
    #   at either end of the block of a lock, which is C. _calm is around it, and cut off it costs
    #   nothing but time: the next tick does the same. _whole is inside: cut off it leaves word
    #   that the books are to be mended. Threads of ours, which call no handlers, do without.
    #   The order, outer first: _lock; the locks inside events, queues and CronSchedules.
    def __init__(
        self,
        max_running_tasks: int,
        *,
        tick_interval: Duration = 1.0,
        aging: float = 5.0,
        lanes: Mapping[str, int] = {},
        capacity: Mapping[str, float] = {},
        gates: Iterable[Gate] = (),
        ungated_priority: int | None = None,
        max_defer: Duration = 300.0,
        stuck_after: Duration = 10.0,
        replacements: int = 0,
        executor: Executor | Callable[[], Executor] | None = None,
        around: Iterable[Around] = (),
        resources: str | Iterable[str] = (),
        redact: Callable[[str], str] | None = None,
        exit_grace: Duration = 5.0,
        _primitives: Primitives = REAL,
    ) -> None:
        """Make one; nothing runs before `start`, but for what `run_tasks` dispatches.

        Args:
            max_running_tasks: How many runs at once, at least 1.
            tick_interval: Seconds between two looks at triggers that know no due time, and the
                longest wait before a changed clock is noticed; at least 0.001.
            aging: How many seconds of waiting weigh as much as one point of priority; 0 is first
                come first served, ``math.inf`` strict priority.
            lanes: How many of the slots are reserved, by name, for the tasks that name the lane,
                which may use the others, too. At least one slot must be left.
            capacity: How much there is of resources that tasks declare to need, by name:
                ``{"db": 2, "mem_mb": 4000}``.
            gates: What is measured once a second; while one is closed no further run starts,
                but for one when none runs.
            ungated_priority: Tasks of this priority and above pass gates; None is no task.
            max_defer: Seconds; a run that a gate holds up for so long is let through, and
                nothing that needs the same resources starts before one that waits for them.
            stuck_after: Seconds after which a run that was asked to give up, by its timeout or a
                cancel, and goes on is reported as stuck, with the stack of its thread.
            replacements: How many stuck runs may be replaced by a slot more each.
            executor: Where functions are called: any ``concurrent.futures.Executor``, which is
                not shut down; or a function that makes one, called when it is needed and again,
                once a minute at most, when that is broken, whose executor is shut down by
                `stop`. None is this scheduler's own threads.
            around: Functions that are called with the Execution before each attempt and return a
                context manager, which is entered in the thread that calls the task's function,
                or waits for it, the first outermost. What one raises is an error of the attempt;
                one that swallows the function's error makes the attempt a success.
            resources: What to measure of each run beside the usual `Resources`: ``"io"``, the
                bytes it reads and writes, ``"rss"``, the process's memory, or both in a tuple.
                Together they take 5 us a run.
            redact: Takes secrets out of the texts of errors and tracebacks: it is called with
                each, in the thread that ran the function, and what it returns is what is kept,
                logged and told. Context managers of *around* see the error itself.
            exit_grace: How long the end of the process waits for running tasks.

        Raises:
            ValueError: A value breaks a rule.
            TypeError: A value is of the wrong kind.
        """
        self._max = checks.whole("max_running_tasks", max_running_tasks, least=1)
        self._aging = _aging(aging)
        self._tick = checks.duration("tick_interval", tick_interval, least=0.001)
        self._exit_grace = checks.seconds("exit_grace", exit_grace)
        self._replacements = checks.whole("replacements", replacements, least=0)
        self._outside = None if executor is None else Outside(executor, _primitives)
        self._primitives = _primitives
        if redact is not None:
            checks.call("redact", redact, ("",), {})
        self._redact = redact
        # Guarded by _lock; when it was last told, monotonic, that a trigger of a task is slow.
        self._slow_told: weakref.WeakKeyDictionary[Task, float] = weakref.WeakKeyDictionary()
        self._runner = Runner(
            _primitives,
            outside=self._outside,
            extras=extras_of(resources),
            around=_managers(around),
            redact=redact,
        )
        self._gates = Gates(gates, redact)
        self._sampling = Turn()  # at the sensors of the gates
        self._rules = Rules(
            lanes=lanes,
            capacity=capacity,
            has_gates=len(self._gates) > 0,
            ungated_priority=ungated_priority,
            max_defer=checks.seconds("max_defer", max_defer),
        )
        self._rules.check_slots(self._max)
        self._lock = _primitives.lock()
        self._calm, self._whole = _Calm(self), _Whole(self)
        self._engine = Engine(  # guarded by _lock, but for `ring` and reading `rung`
            max_running_tasks=self._max,
            aging=self._aging,
            on_time=self._tick,
            rules=None if self._rules.is_trivial else self._rules,
            stuck_after=checks.duration("stuck_after", stuck_after),
            replacements=self._replacements,
        )
        self._reporter = Reporter(self._engine.changes, _primitives, redact)
        self._engine.level = self._reporter.level
        self._state = _State.NEW  # guarded by _lock
        self._ticker: _Ticker | None = None  # guarded by _lock
        self._pulse = Pulse()  # guarded by _lock
        self._pool: DaemonPool | None = None  # guarded by _lock; None until needed
        self._stops: deque[bool] = deque()  # asked for without the lock; True is with cancel
        self._slots: dict[_Slot, None] = {}  # guarded by _lock; claimed, in that order
        self._slots_seen_at = -math.inf  # guarded by _lock; monotonic, when they were looked after
        self._unmanned: deque[_Slot] = deque()  # those of them that the pool does not know yet
        self._dropped_by_fork: int | None = None  # runs; in a child that was not warned of it yet
        self._refused_at = -math.inf  # guarded by _lock; monotonic, when that was told last
        self._failures = itertools.count(1).__next__  # no lock, which might be what has failed
        # Events of threads that wait for us -> runs they are inside of. Put in under _lock, taken
        # out by one call without it, which no interrupt can keep from happening.
        self._waiters: dict[Any, int] = {}
        self._busy: dict[int, int] = {}  # guarded by _lock; thread -> runs it is inside of
        enrol(self)

    # The registry

    @property
    def max_running_tasks(self) -> int:
        """How many runs at once."""
        return self._max

    @property
    def state(self) -> str:
        """Where it is: "new" (never started), "running" or "stopped"."""
        return self._state.value

    @property
    def last_task_id(self) -> int:
        """The ID that was given last; -1 before the first."""
        return self._engine.last_task_id

    @property
    def tasks(self) -> dict[int, Task]:
        """The registered tasks by ID: a snapshot, changing it changes nothing."""
        with self._calm, self._lock, self._whole:
            return self._engine.tasks.copy()

    @property
    def running(self) -> dict[int, list[Execution]]:
        """Copies of the executions that have started and not ended, by task ID: a snapshot.

        One whose ``status`` is RETRYING waits for its next attempt and holds no slot.
        """
        found: dict[int, list[Execution]] = {}
        with self._calm, self._lock, self._whole:
            for run in self._engine.live.values():
                found.setdefault(run.execution.task_id, []).append(run.execution.copy())
        return found

    def add_task(self, task: Task) -> Task:
        """Register *task*: give it the next ID, from 0 on, and arm its triggers.

        Works before and after `start`, also while stopped. Returns the same Task.

        Raises:
            ValueError: It was added before, here or to another scheduler; or it names a lane
                or a resource that there is not, or more of it than there is.
            TypeError: It is not a Task, or cannot be pickled for a ProcessPoolExecutor.
        """
        if not isinstance(task, Task):
            raise InvalidTypeError(f"task must be a Task, got {checks.shown(task)}")
        if task._demand is not None:
            self._rules.check_task(task)
        if self._outside is not None:
            self._outside.check_task(task)
        custom: list[Arm] = []
        try:  # an `_Asking`, which most tasks do not need, written out: it takes 0.3 us
            with self._calm, self._lock, self._whole:
                if task._owner is not None:
                    again = Task.__repr__(task)  # not that of a subclass, which may call us
                    raise AlreadyAddedError(f"a task can be added once, got {again} again")
                self._register(task, custom)
            if custom:
                self._arm_custom(custom)
        except BaseException:
            if custom:
                self._unclaim(custom)
            raise
        return task

    def _register(self, task: Task, custom: list[Arm]) -> None:
        """Add *task*; put the arms that are to be asked in *custom*; the lock is held."""
        try:
            task._owner = self
            self._engine.add(task, self._primitives.utc_now())
            for arm in task._arms:
                if arm._arm_is_custom or arm._arm_signals is None:
                    continue
                arm._arm_signals.bind(_Bell(self))
                if arm._arm_signals.waiting:  # fired before it knew whom to tell
                    self._engine.ring(arm)
            self._engine.custom_arms([task], custom)
        except BaseException:
            self._engine.forget(task)
            task._owner = None
            raise

    def remove_task(self, task_id: int) -> None:
        """Take a task out: what waits of it is dropped, what runs finishes and is recorded.

        Nothing brings it back. An ID that is already gone: nothing happens.

        Raises:
            TaskNotFoundError: No task ever had that ID.
        """
        number = _number(task_id)
        with self._calm, self._lock, self._whole:
            if self._known(number) is not None:
                self._engine.remove(number, self._primitives.utc_now())
            self._wake_waiters()  # its run_task may wait for a retry that will not be
            self._claim_while_ticking()  # others may have stepped aside for it

    def get_task(self, task_id: int) -> Task:
        """Return the task with that ID.

        Raises:
            TaskNotFoundError: There is none, or none any more.
        """
        number = _number(task_id)
        with self._calm, self._lock, self._whole:
            return self._registered(number)

    def task(
        self,
        name: str | None = None,
        *,
        interval: Duration | None = None,
        cron_expr: str | None = None,
        timezone: str = "UTC",
        delay: Duration | None = None,
        triggers: Iterable[Trigger] = (),
        description: str | None = None,
        args: Iterable[object] = (),
        kwargs: Mapping[str, object] = {},
        retry_policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        enabled: bool = True,
        priority: int = 0,
        max_instances: int = 1,
        overlap: str = "queue",
        lane: str | None = None,
        resources: Mapping[str, float] = {},
        missed: str = "once",
        misfire_grace: Duration | None = None,
        timeout: Duration | None = None,
        history: int = 100,
        keep_results: bool = True,
    ) -> Callable[[_F], _F]:
        """Add the decorated function as a task: `add_task` as a decorator.

        *interval* or *cron_expr* (with *timezone*) make a PeriodicTrigger, *delay* a
        OneTimeTrigger, beside *triggers*. *name* is the function's own by default, *description*
        the first line of its docstring; the rest is as for `Task`. The function is returned
        unchanged.

        Raises:
            ValueError: A value breaks a rule.
            TypeError: A value is of the wrong kind.
        """
        if name is not None:
            checks.name_text("name", name)
        wanted = list(triggers_of(triggers))
        if interval is not None or cron_expr is not None:
            wanted.append(PeriodicTrigger(interval, cron_expr, timezone=timezone))
        if delay is not None:
            wanted.append(OneTimeTrigger(delay))

        def add(function: _F) -> _F:
            own_name = getattr(function, "__name__", type(function).__name__)
            self.add_task(
                Task(
                    own_name if name is None else name,
                    function,
                    description=_summary(function) if description is None else description,
                    triggers=wanted,
                    args=args,
                    kwargs=kwargs,
                    retry_policy=retry_policy,
                    enabled=enabled,
                    priority=priority,
                    max_instances=max_instances,
                    overlap=overlap,
                    lane=lane,
                    resources=resources,
                    missed=missed,
                    misfire_grace=misfire_grace,
                    timeout=timeout,
                    history=history,
                    keep_results=keep_results,
                )
            )
            return function

        return add

    # The lifecycle

    def start(self) -> None:
        """Arm all triggers anew and begin ticking. Does nothing while running; does not block.

        After a stop, pending runs, retries and spent one-shots stay as they were. It then runs
        until it is stopped or the process ends, also when nobody refers to it any more.

        Raises:
            RuntimeError: The system gives no thread; the scheduler is as it was.
        """
        self._begin(arm=True)

    def resume(self) -> None:
        """Go on after a stop, with triggers, pending runs and history as they were.

        What became due meanwhile is missed, and handled as each task's ``missed`` says. Does
        nothing while running; does not block.

        Raises:
            RuntimeError: The system gives no thread; the scheduler is as it was.
        """
        self._begin(arm=False)

    def stop(self, timeout: Duration | None = None, *, cancel: bool = False) -> bool:
        """End dispatch at once, let running tasks finish, and say whether they did.

        Blocks until no task runs, at most *timeout* seconds; None waits for ever. With *cancel*
        those that run are asked to give up. Called inside a task it waits for the other tasks
        and returns False; inside a listener it does not wait for tasks that wait for it. Twice
        is fine.

        May be called in a signal handler and in ``__del__``. Where these have interrupted this
        scheduler in the middle of something it returns False after a second, and what was
        interrupted stops the scheduler as soon as it goes on.

        Raises:
            ValueError: *timeout* is negative or NaN.
        """
        wait = None if timeout is None else checks.seconds("timeout", timeout)
        checks.boolean("cancel", cancel)
        end = None if wait is None else self._primitives.monotonic() + wait
        if not looks_free(self._lock, self._primitives.pause, monotonic() + PATIENCE):
            self._stops.append(cancel)
            if self._lock.locked():
                return False  # whoever holds it stops it on letting go
        with self._calm, self._lock, self._whole:
            ticker, pool = self._halt(cancel=cancel)
        if pool is not None:
            pool.shutdown(wait=False)
        if not self._wait_until(self._nothing_runs, end):
            return False
        if self._outside is not None:
            self._outside.close()
        if self._own_runs() or (self._reporter.is_mine and self._engine.running):
            return False  # the caller's own run goes on, or one that waits for this listener
        self._join(ticker, pool, end)
        return True

    def _halt(self, *, cancel: bool) -> tuple[_Ticker | None, DaemonPool | None]:
        """End dispatch; return the threads that are to end; the lock is held."""
        while self._stops:
            cancel = self._stops.popleft() or cancel
        ticker, self._ticker = self._ticker, None
        pool, self._pool = self._pool, None
        if ticker is not None:
            ticker.is_over = True
            ticker.wake()
        was_stopped, self._state = self._state is _State.STOPPED, _State.STOPPED
        self._engine.is_paused = True
        self._notify()
        if not was_stopped:
            self._engine.note(ChangeKind.STOPPED, self._primitives.utc_now())
        if cancel:
            self._engine.ask_all_to_end(self._primitives.utc_now())
        return ticker, pool

    def _heed(self) -> None:
        """Stop for one who could not have the lock, unless another thread holds it again."""
        try:
            while self._stops and not self._lock.locked():
                with self._lock, self._whole:
                    _, pool = self._halt(cancel=False)
                if pool is not None:
                    pool.shutdown(wait=False)
        except BaseException as error:
            self._report(error)
        self._tell()

    def __enter__(self: _S) -> _S:
        """Start."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop, and wait for running tasks."""
        self.stop()

    # Running

    def run_tasks(self) -> int:
        """Do one tick, now, in the calling thread: release and dispatch what is due.

        Returns how many runs were released. Does not wait for them, see `wait_idle`. Works on a
        scheduler that was never started, too; returns 0 on a stopped one.
        """
        notice_fork()
        return self._tick_once(poll=True)

    def run_task(self, task_id: int, event: object = None) -> Execution:
        """Run a task now, in the calling thread, retries and their delays included.

        Needs neither a slot nor a free instance, and runs a disabled task, too. *event* is the
        Execution's. Blocks until the run has ended; what the function raises is recorded on the
        Execution that is returned, not raised. Ctrl-C, and what a signal handler raises, is both,
        and is not retried.

        Raises:
            TaskNotFoundError: There is no task with that ID, or none any more.
        """
        number = _number(task_id)
        run: Run | None = None
        try:
            with self._calm, self._lock, self._whole:
                task = self._registered(number)
                now = self._primitives.utc_now()
                run = self._engine.take_inline(task, event, now, self._origin())
                run.thread = self._primitives.get_ident()
                self._enter_run()
            self._run_inline(run, task)
        except BaseException:
            if run is not None:
                self._abandon(run)
            raise
        return run.execution

    def _run_inline(self, run: Run, task: Task) -> None:
        """Make one attempt after the other, until the run has ended."""
        while True:
            outcome = self._runner.attempt(run.execution, task)
            with self._calm, self._lock, self._whole:
                self._leave_run(self._primitives.get_ident())
                if run.execution.status is not _RUNNING:  # this is a child that the task forked
                    return
                self._engine.finish(run, outcome)
                self._notify()
                self._claim()
            if outcome.interrupt is not None:
                raise outcome.interrupt
            if outcome.retry_after is None or not self._retry_inline(run, outcome.retry_after):
                return

    def _abandon(self, run: Run) -> None:
        """End a run of `run_task` whose caller goes on with an error, such as Ctrl-C."""
        with self._calm, self._lock, self._whole:
            if run.thread == self._primitives.get_ident():
                self._leave_run(run.thread)
                run.thread = NOBODY
                self._mend()
            self._engine.give_up(run, self._primitives.utc_now())
            self._notify()

    def release_task(self, task_id: int, event: object = None) -> None:
        """Ask for a run of a task: it is released now and takes its turn as any other run.

        *event* is the Execution's. Does not block.

        Raises:
            TaskNotFoundError: There is no task with that ID, or none any more.
        """
        number = _number(task_id)
        with self._calm, self._lock, self._whole:
            task = self._registered(number)
            self._engine.request(task, event, self._primitives.utc_now(), self._origin())
            self._claim_while_ticking()

    def cancel(self, task_id: int) -> int:
        """Cancel the runs of a task; return how many. The task stays, and its later runs come.

        What waits ends as CANCELLED at once. A run whose function is being called finds
        ``current_execution().cancelled`` set, is CANCELLED when it ends, and is not retried. Does
        not block.

        Raises:
            TaskNotFoundError: There is no task with that ID, or none any more.
        """
        number = _number(task_id)
        with self._calm, self._lock, self._whole:
            task = self._registered(number)
            cancelled = self._engine.cancel(task, self._primitives.utc_now())
            self._wake_waiters()
            self._claim_while_ticking()
        return cancelled

    def running_tasks_count(self) -> int:
        """Return how many runs have their function called right now."""
        return self._engine.running

    def wait_idle(self, timeout: Duration | None = None) -> bool:
        """Wait until nothing runs, waits or is overdue; return whether that came about.

        Waits for runs that are pending or wait for a retry and for listeners being told, too;
        not for what waits of disabled tasks or while stopped. Inside a task its own run does not
        count, but keeps its slot; a trigger keeps the thread that releases what is due, and so may
        a listener. Give a *timeout* there, and with frozen time, in which a retry comes due only
        when time is moved.

        Raises:
            ValueError: *timeout* is negative or NaN.
        """
        wait = None if timeout is None else checks.seconds("timeout", timeout)
        end = None if wait is None else self._primitives.monotonic() + wait
        return self._wait_until(self._is_idle, end)

    # Looking

    def upcoming(self, n: int = 10, *, first_only: bool = False) -> list[Upcoming]:
        """Return the next *n* runs that timers and retries will make, soonest first.

        With *first_only* the first of each task, so that one that runs often does not hide the
        others; then there may be fewer. Jitter that is not drawn yet is left out.

        Raises:
            ValueError: *n* is negative.
        """
        n = min(checks.whole("n", n, least=0), sys.maxsize)
        checks.boolean("first_only", first_only)
        with self._calm, self._lock, self._whole:
            first = self._engine.first_due(n)
            state = self._state
        return upcoming(first, n, _OBSTACLES[state], first_only=first_only)

    def ready(self, n: int = 100) -> list[Waiting]:
        """Return the first *n* runs that wait for their turn, and what each waits for.

        In the order in which they will start as things stand. Runs that wait for a retry are in
        `upcoming`. Looks at the history of every task, so it is for people, not for each run.

        Raises:
            ValueError: *n* is negative.
        """
        n = min(checks.whole("n", n, least=0), sys.maxsize)
        with self._calm, self._lock, self._whole:
            now = self._primitives.utc_now()
            found = self._engine.waiting(n, now)
            tasks = list(self._engine.tasks.values())
            running = [run.execution for run in self._engine.live.values()]
            state = self._state
        if not found:
            return []  # without a look at every history
        slots = self._max - sum(self._rules.lanes.values())
        bound = Bound(tasks, running, now=now, slots=slots, aging=self._aging)
        return waiting(found, bound if state is _State.RUNNING else None, _OBSTACLES[state])

    def overview(self, n: int = 100) -> list[TaskOverview]:
        """Return what each of *n* tasks is at and what it did, in the order of their IDs.

        Of more tasks those that are quarantined, whose last run failed or that run now.

        Raises:
            ValueError: *n* is negative.
        """
        n = min(checks.whole("n", n, least=0), sys.maxsize)
        chosen = most_notable(self.tasks.values(), n)
        found = []
        with self._calm, self._lock, self._whole:
            live: dict[int, list[Run]] = {}
            for run in self._engine.live.values():
                live.setdefault(run.execution.task_id, []).append(run)
            for task in chosen:
                runs = live.get(task.id, [])
                retrying = (run for run in runs if run.execution.status is Status.RETRYING)
                next_at = self._engine.next_of(task, retrying)
                copies = [run.execution.copy() for run in runs]
                found.append((task, list(task._history or ()), copies, next_at))
        return [overview(*each) for each in found]

    def table(self, n: int = 100) -> str:
        """Return the `overview` of *n* tasks as a table for people; `str` of it is this, too.

        Raises:
            ValueError: *n* is negative.
        """
        shown = self.overview(n)
        lines = [repr(self)[1:-1]]
        if shown:
            lines.append(overview_table(shown, self._primitives.utc_now()))
        hidden = len(self.tasks) - len(shown)
        if hidden > 0:
            lines.append(f"and {hidden} tasks more")
        return "\n".join(lines)

    def health(self) -> Health:
        """Return whether it does its work, and what there is to complain of.

        For a liveness probe ``scheduler.health().is_healthy`` is the whole line. Looks at every
        task, while runs wait at the history of each, so ask every few seconds, not for each run.
        """
        waiting = self.ready(_LOOKED_AT)
        with self._calm, self._lock, self._whole:
            now, at = self._primitives.utc_now(), self._primitives.monotonic()
            tasks = list(self._engine.tasks.values())
            live = list(self._engine.live.values())
            obstacle, ticker = _OBSTACLES[self._state], self._ticker
            executor = self._engine.obstacle
            last_tick, age, lags = self._pulse.last_tick, self._pulse.age(at), self._pulse.lags(at)
        if ticker is not None and ticker.thread.ident is not None and not ticker.thread.is_alive():
            obstacle = "its thread has died"
        findings = Findings(
            obstacle=obstacle,
            executor=executor,
            tick=self._tick.total_seconds(),
            last_tick=last_tick,
            age=age,
            lags=lags,
            oldest_wait=oldest_wait(tasks, now),
            waiting=waiting,
            stuck=tuple(run.task.name for run in live if run.is_stuck),
            quarantined=tuple(task.name for task in tasks if task.quarantine is not None),
            untold=self._reporter.untold,
        )
        return health_of(findings, now)

    def stats(self) -> Stats:
        """Return the counters: removed tasks stay in the sums."""
        with self._calm, self._lock, self._whole:
            return self._engine.stats(self._reporter.failures)

    def serve_status(self, path: str | os.PathLike[str]) -> StatusServer:
        """Tell other processes of this user what there is to see, through a Unix socket at *path*.

        ``python -m background_tasks top PATH`` shows it. The socket's file is for its owner
        alone; a folder of the application's is a good place. Who connects is sent a snapshot as
        one JSON line, without arguments, events and results, and can ask for nothing. Does not
        block; call ``close()`` on what is returned, or use it as a context manager.

        Raises:
            ValueError: *path* is too long, is served already, or is something else than a socket.
            TypeError: *path* is not a path.
            OSError: The system refuses, because there is no such folder, say.
        """
        return StatusServer(self, path)

    def add_listener(self, listener: Callable[[Change], object]) -> Callable[[], None]:
        """Have *listener* called with each Change from now on; return a function that ends that.

        It is called with no lock held, in the order of the changes and by one thread at a time:
        whichever made a change, so be quick. Where telling takes longer than a tenth of a second
        a thread of its own goes on with it, so that nobody else is held up; `wait_idle` waits for
        it, and the end of the process for ``exit_grace``. What it raises is logged and harms
        nobody.

        Raises:
            TypeError: *listener* is not callable.
        """
        remove = self._reporter.add(listener)
        self._refresh_level()

        def end() -> None:
            remove()
            self._refresh_level()

        return end

    def __str__(self) -> str:
        """Return the `table`."""
        return self.table()

    def __repr__(self) -> str:
        """Say what state it is in and how much there is to do."""
        stats = self.stats()
        return (
            f"<Scheduler {self._state.value}: {stats.tasks} tasks, {stats.running} of {self._max}"
            f" running, {stats.pending} pending>"
        )

    # What a Task asks of us

    def change_task(self, task: Task, field: str, value: Any) -> None:
        """Set ``enabled`` or ``priority`` of a task; `Task` calls this."""
        with self._calm, self._lock, self._whole:
            now = self._primitives.utc_now()
            if task._is_removed:
                setattr(task, f"_{field}", value)
            elif field == "enabled":
                self._engine.set_enabled(task, value, now)
            else:
                self._engine.set_priority(task, value)
            self._claim_while_ticking()
            self._notify()

    def history_of(self, task: Task) -> tuple[list[Execution], Totals]:
        """Return the ended executions of a task and what others cost before; `Task` calls this."""
        with self._calm, self._lock, self._whole:
            return task._kept()

    # The lock

    def _acquire(self) -> None:
        """Take the lock: try it, and give way while it is held.

        A thread that blocks on a lock is handed it while another one runs, so from then on each
        acquisition costs two thread switches: four slots then need 36 us a run instead of 10.
        """
        while not self._lock.acquire(False):  # by name it takes twice as long
            self._primitives.pause(0)

    def _unlock(self, mans: bool = True) -> None:
        """Let the lock go, then do what must not be done under it; with *mans*, start threads.

        By position: on CPython 3.10 a call by name takes memory, so without any the lock stayed.
        """
        try:
            ticker = self._ticker
            if ticker is not None and ticker.until is not None:
                self._wake_in_time(ticker)
        finally:
            self._lock.release()
        engine = self._engine
        if engine.changes or engine.rung or self._stops or (mans and self._unmanned):
            self._after_lock(mans)

    def _wake_in_time(self, ticker: _Ticker) -> None:
        """Wake the ticking thread, which waits, if that is for too long; the lock is held."""
        until = ticker.until  # once: its thread sets it to None
        if until is not None:
            due = self._engine.next_due()
            if due is not None and due < until:
                ticker.wake()

    def _after_lock(self, mans: bool = True) -> None:
        """Do what must not be done under the lock, which was just let go."""
        engine = self._engine
        if self._dropped_by_fork is not None:
            self._warn_of_fork()
        if self._stops:
            self._heed()
        if mans and self._unmanned:
            self._man()
        if engine.rung:
            self._attend()
        if engine.changes:
            self._tell()

    def _attend(self) -> None:
        """Release and dispatch signals, unless another thread holds the lock.

        Called by `EventTrigger.fire`, maybe in a signal handler, so it never waits for the lock;
        whoever holds it calls this after letting go. Then a signal is seen by one of the two:
        either the other had not let go when this one came, or this one gets the lock.
        """
        engine = self._engine
        try:
            while engine.rung and self._state is _State.RUNNING:
                if self._lock.locked():
                    return
                with self._lock, self._whole:
                    self._dispatch_signals()
                if self._stops:
                    self._heed()
        except BaseException as error:
            self._report(error)

    def _dispatch_signals(self) -> None:
        """Release signals and hand them to idle threads; the lock is held."""
        engine, pool, ticker = self._engine, self._pool, self._ticker
        engine.release_signals(self._primitives.utc_now(), _BATCH)
        try:
            if engine.claim_slots() and pool is not None:
                while len(self._slots) < engine.slots:
                    slot = _Slot(self)
                    self._slots[slot] = None
                    if not pool.hand_over(slot):
                        del self._slots[slot]
                        break
            if len(self._slots) < engine.slots and ticker is not None:
                ticker.wake()  # a thread must be started, which is not for a signal handler
        finally:
            engine.slots = len(self._slots)  # those that were not handed over are given back

    def _tell(self) -> None:
        try:
            told = self._reporter.tell(self._was_told)
        except BaseException as error:
            self._report(error)
            told = True
        if told:
            self._was_told()

    def _was_told(self) -> None:
        """Have those look again who wait for listeners to have been told."""
        try:
            if self._waiters:
                with self._calm, self._lock, self._whole:
                    self._notify()
        except BaseException as error:
            self._report(error)

    def _wait_told(self, end: float) -> None:
        """Wait until all is told, at the end of the process; needs no lock, see `_left_behind`."""
        while self._reporter.is_busy and self._primitives.monotonic() < end:
            self._primitives.pause(_FROZEN_PAUSE)

    def _notify(self) -> None:
        """Let the threads that wait look again, unless tasks run; the lock is held.

        Called after each change that can end a wait, but not by those that wait: they would
        wake themselves for ever.
        """
        if self._waiters and self._engine.running <= self._exempt:
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        for waiter in tuple(self._waiters):
            waiter.set()

    def _refresh_level(self) -> None:
        with self._calm, self._lock, self._whole:
            self._engine.level = self._reporter.level

    # What breaks off

    def _mend(self) -> None:
        """Make the books add up, a change of which broke off; the lock is held.

        Where not even that can be done, for want of memory say, the next tick does it.
        """
        self._whole.is_torn = True
        self._engine.slots = len(self._slots)
        try:
            mend(self._engine, self._primitives.utc_now())
            self._whole.is_torn = False
        except BaseException as error:
            hand_on(error)

    def _report(self, error: BaseException) -> None:
        """Say that the scheduler itself has failed in something; no lock is held.

        An interrupt goes on to the caller.
        """
        hand_on(error)
        if is_main_thread() and not isinstance(error, Exception):
            raise error  # we raise no such thing: it is of a handler written in C
        try:
            self._engine.internal_errors = self._failures()
            log(_ERROR, _INTERNAL, self._error_fields(error))
        except BaseException:  # no memory to say it
            return

    def _error_fields(self, error: BaseException) -> dict[str, object]:
        text = checks.redacted(self._redact, checks.error_text(error))
        kind, _, message = text.partition(": ")
        return {
            "event.name": "background_tasks.internal_error",
            "exception.type": kind,
            "exception.message": message,
            "exception.stacktrace": checks.redacted(self._redact, traceback_text(error)),
        }

    # Waiting

    @property
    def _exempt(self) -> int:
        """How many runs' threads wait for the others; the lock is held."""
        return sum(tuple(self._waiters.values()))  # others leave without the lock

    def _wait_until(self, condition: Callable[[int], bool], end: float | None) -> bool:
        """Wait until *condition*, asked with the lock held, is true; False at monotonic *end*.

        *condition* is told how many running runs do not count. Outside of a task that is none.
        Inside one it is the caller's own, and those of other tasks that wait here as well: two
        tasks that stop the scheduler would wait for each other otherwise, and so would a listener
        and a task, which waits for it to have been told.
        """
        waiter = self._primitives.event()
        try:
            with self._calm, self._lock, self._whole:
                own = self._own_runs()
                self._waiters[waiter] = own
                self._notify()  # another run that waits for the others does so no longer for this
            while True:
                with self._calm, self._lock, self._whole:
                    self._look_after_slots()  # where no thread ticks nobody else does
                    waiter.clear()
                    if condition(self._exempt if own or self._reporter.is_mine else 0):
                        return True
                left = self._tick.total_seconds()
                if end is not None:
                    left = min(left, end - self._primitives.monotonic())
                if left <= 0:
                    return False
                waiter.wait(left)
        finally:
            self._waiters.pop(waiter, None)  # one call, so that no interrupt keeps it here

    def _nothing_runs(self, exempt: int) -> bool:
        return self._engine.running <= exempt

    def _is_idle(self, exempt: int) -> bool:
        now = self._primitives.utc_now()
        return self._engine.is_idle(now, exempt) and not self._reporter.is_busy

    def _join(self, ticker: _Ticker | None, pool: DaemonPool | None, end: float | None) -> None:
        """Wait until the threads have ended, but for the calling one."""
        me, monotonic = self._primitives.get_ident(), self._primitives.monotonic
        # One that is not alive has ended, or is about to be started and will find that it is over.
        if ticker is not None and ticker.thread.is_alive() and ticker.thread.ident != me:
            ticker.thread.join(None if end is None else max(0.0, end - monotonic()))
        if pool is not None:
            pool.join(None if end is None else max(0.0, end - monotonic()))

    def _own_runs(self) -> int:
        """Return how many running runs the caller is inside of."""
        own = self._busy.get(self._primitives.get_ident(), 0)
        return own or int(self._is_inside_elsewhere())

    def _is_inside_elsewhere(self) -> bool:
        """Return whether the caller is inside a run in another thread than the slot's.

        In one of an executor's, or in one that the function gave its context to.
        """
        execution = current_execution()
        run = None if execution is None else self._engine.live.get(execution.id)
        return run is not None and run.execution is execution and execution.status is _RUNNING

    def _enter_run(self) -> None:
        """Note that the calling thread is inside a run from now on; the lock is held."""
        me = self._primitives.get_ident()
        self._busy[me] = self._busy.get(me, 0) + 1

    def _leave_run(self, thread: int) -> None:
        left = self._busy.pop(thread, 0) - 1
        if left > 0:
            self._busy[thread] = left

    def _retry_inline(self, run: Run, delay: float) -> bool:
        """Wait *delay* seconds and start the next attempt; False when the task was removed."""
        end = self._primitives.monotonic() + delay
        self._wait_until(lambda _: run.execution.status.has_ended, end)
        with self._calm, self._lock, self._whole:
            if not self._engine.retry_inline(run, self._primitives.utc_now()):
                return False
            run.thread = self._primitives.get_ident()
            self._enter_run()
            return True

    def _origin(self) -> Context | None:
        """Return the caller's context, if there is anybody to use it."""
        return copy_context() if self._runner.has_around else None

    def _left_behind(self, end: float) -> list[Execution]:
        """Return the executions whose function is being called, at the end of the process.

        That another call has the lock for good must not hold that up: see `looks_free`.
        """
        if looks_free(self._lock, self._primitives.pause, end):
            with self._calm, self._lock, self._whole:
                live = list(self._engine.live.values())
        else:
            live = list(self._engine.live.values())
        return [run.execution for run in live if run.execution.status is _RUNNING]

    # Finding tasks

    def _known(self, number: int) -> Task | None:
        """Return the task of that ID, None when it is gone; the lock is held."""
        if not 0 <= number <= self._engine.last_task_id:
            raise TaskNotFoundError(
                f"no task ever had the ID {checks.shown(number)}", task_id=number
            )
        return self._engine.tasks.get(number)

    def _registered(self, number: int) -> Task:
        task = self._known(number)
        if task is None:
            raise TaskNotFoundError(f"the task with the ID {number} is gone", task_id=number)
        return task

    # Starting

    def _begin(self, *, arm: bool) -> None:
        notice_fork()
        ticker = _Ticker(self._primitives, self._tick_on, "background_tasks")
        before = self._state
        custom: list[Arm] = []
        try:
            with _Asking(self, custom):
                with self._calm, self._lock, self._whole:
                    before = self._state
                    if before is _State.RUNNING:
                        return
                    self._set_out(ticker)
                    if arm:
                        self._arm_all(custom)
                    self._engine.note(ChangeKind.STARTED, self._primitives.utc_now())
                self._arm_custom(custom)
            ticker.thread.start()
        except BaseException:  # can't start new thread, for one
            self._undo_begin(ticker, before)
            raise

    def _set_out(self, ticker: _Ticker) -> None:
        """Be running, with a thread to be started; the lock is held."""
        self._state = _State.RUNNING
        self._ticker = ticker
        self._pulse = Pulse()
        self._engine.is_paused = False
        self._engine.let_go()
        if self._outside is not None:
            self._outside.retry()
        self._engine.level = self._reporter.level

    def _arm_all(self, custom: list[Arm]) -> None:
        """Arm every task; put the arms that are to be asked in *custom*; the lock is held."""
        self._engine.arm_all(self._primitives.utc_now())
        self._engine.custom_arms(self._engine.tasks.values(), custom)

    def _undo_begin(self, ticker: _Ticker, before: _State) -> None:
        with self._calm, self._lock, self._whole:
            ticker.is_over = True
            ticker.wake()
            if self._ticker is ticker:
                self._ticker = None
                self._state = before
                self._engine.is_paused = before is _State.STOPPED

    # The scheduler thread

    def _tick_on(self, ticker: _Ticker) -> None:
        """Tick until *ticker* is over: what the scheduler thread does, whatever breaks off."""
        while not ticker.is_over:
            try:
                self._turn(ticker)
            except BaseException as error:  # noqa: PERF203 - a turn is all there is in it
                self._report(error)
                ticker.timer.wait(self._tick.total_seconds())  # not to spin

    def _turn(self, ticker: _Ticker) -> None:
        """Look around, and wait until that is worth while again."""
        monotonic, tick = self._primitives.monotonic, self._tick.total_seconds()
        ticker.timer.clear()  # before the look around, so that no later call is lost
        began = monotonic()
        poll = began - ticker.polled_at >= tick
        if poll:
            ticker.polled_at = began
        self._tick_once(poll=poll)
        at = monotonic()
        self._reporter.tell_tick(at - began)
        sample = self._gates.wait(at)
        to_poll = ticker.polled_at + tick - at
        if sample is not None:  # the least, since another thread may be at one that is due
            to_poll = min(to_poll, max(sample, _FROZEN_PAUSE))
        wait, now = self._plan_wait(ticker, to_poll, max(ticker.late, at - began))
        if now == ticker.seen:
            wait = max(wait, min(_FROZEN_PAUSE, tick))
        ticker.seen = now
        at = monotonic()
        was_called = ticker.timer.wait(wait)
        ticker.until = None  # from here on it looks by itself
        ticker.late = 0.0 if was_called else monotonic() - at - wait

    def _plan_wait(self, ticker: _Ticker, to_poll: float, lag: float) -> tuple[float, datetime]:
        """Return how long to wait, at most *to_poll* seconds, and the time that was assumed.

        *lag* is how late this look around was.
        """
        with self._calm, self._lock, self._whole:
            now = self._primitives.utc_now()
            if self._ticker is ticker:
                self._pulse.beat(now, self._primitives.monotonic(), lag)
            if ticker.is_over or self._engine.rung or self._engine.has_to_ask:
                return 0.0, now  # the last: a slot came upon it
            if NOBODY in [slot.thread for slot in self._slots]:
                to_poll = min(to_poll, PATIENCE)  # to see whether they have begun
            wait = max(0.0, to_poll)
            ticker.until = now + timedelta(seconds=wait)
            due = self._engine.next_due()
            if due is not None and due < ticker.until:
                ticker.until = due
                wait = max(0.0, (due - now).total_seconds())
            return wait, now

    def _tick_once(self, *, poll: bool) -> int:
        """Release and dispatch what is due; return how many runs were released."""
        self._sample_gates()
        self._renew_executor()
        released = 0
        batch = self._max  # at first as few as there are slots to start with them
        while True:
            arms: list[Arm] = []
            with _Asking(self, arms):
                count, more = self._look_around(batch, arms, poll=poll)
                released += count
                poll = False
                batch = _BATCH
                if self._engine.newly_stuck:
                    self._report_stuck()
                if more:
                    # Or the slots, which give way to whoever holds the lock, would starve: with
                    # one slot the first run of 10,000 started 50 ms late.
                    self._primitives.pause(0)
                if arms:
                    released += self._ask(arms)
                elif not more:
                    return released

    def _look_around(self, batch: int, arms: list[Arm], *, poll: bool) -> tuple[int, bool]:
        """Release what is due, *batch* due times at most; put in *arms* what is to be asked.

        Returns:
            How many runs were released, and whether more is due.
        """
        with self._calm, self._lock, self._whole:
            engine = self._engine
            engine.level = self._reporter.level
            self._look_after_slots()
            now = self._primitives.utc_now()
            if self._ticker is not None:
                engine.compare_clocks(now, self._primitives.monotonic())
            released = engine.release(now, batch)
            self._claim()
            more = engine.has_due(now)
            self._notify()  # what was overdue may have passed without a run
            engine.to_ask(poll=poll, into=arms)
            return released, more

    def _sample_gates(self) -> None:
        """Ask the sensors of the gates, if that is due and no other thread is at it."""
        at = self._primitives.monotonic()
        sampling = self._sampling  # a sensor may fork, and the child has another
        if not self._gates.due(at):
            return
        mine = object()
        try:
            # The second: another thread has just been at it.
            if sampling.setdefault(None, mine) is not mine or not self._gates.due(at):
                return
            news = self._gates.sample(at, self._primitives.utc_now())
            with self._calm, self._lock, self._whole:
                self._engine.set_gates(news, self._gates.closed(), self._primitives.utc_now())
        finally:
            if sampling[None] is mine:
                del sampling[None]

    def _report_stuck(self) -> None:
        """Tell that runs are stuck, with where their threads are; reads source files for that."""
        stuck = list(self._engine.newly_stuck)
        frames = sys._current_frames()
        stacks = [
            (run, checks.redacted(self._redact, stack_text(frames.get(run.thread))))
            for run in stuck
        ]
        with self._calm, self._lock, self._whole:
            for run, stack in stacks:
                if run in self._engine.newly_stuck:  # or another thread has told it
                    self._engine.newly_stuck.remove(run)
                    self._engine.note_stuck(run, stack, self._primitives.utc_now())

    def _renew_executor(self) -> None:
        """Have another executor made in place of a broken one, if that is due."""
        if self._outside is None or not self._engine.obstacle:
            return
        trouble = self._outside.renew()
        if trouble is None:
            return
        trouble = checks.redacted(self._redact, trouble)
        with self._calm, self._lock, self._whole:
            self._engine.renewed(trouble, self._primitives.utc_now())

    # Triggers of the user's, asked with no lock held

    def _ask(self, arms: list[Arm]) -> int:
        """Ask each arm whether it is ready; release and dispatch those that are."""
        ready = [arm for arm in arms if self._is_ready(arm)]
        with self._calm, self._lock, self._whole:
            now = self._primitives.utc_now()
            released = sum([self._engine.answered(arm, now) for arm in ready])
            self._claim()
        asked = {id(arm) for arm in ready}
        self._return([(arm, self._next_of(arm, reset=id(arm) in asked)) for arm in arms])
        return released

    def _is_ready(self, arm: Arm) -> bool:
        try:
            with self._timed(arm):
                if isinstance(arm, EventTrigger):
                    return arm.collect(self._primitives.utc_now())
                return bool(trigger_of(arm).is_ready())
        except BaseException as error:
            hand_on(error)
            self._quarantine(arm, error)
            return False

    def _arm_custom(self, arms: list[Arm]) -> None:
        """Reset the triggers of *arms*, which were just armed, and ask when each is due."""
        # One of our timed kinds may be due already; any other that says so would be asked again
        # and again.
        self._return(
            [
                (arm, self._next_of(arm, reset=True, may_be_due=arm._arm_timed is not None))
                for arm in arms
            ]
        )

    def _unclaim(self, arms: list[Arm]) -> None:
        """Give back arms that were claimed to be asked: an error or an interrupt came up."""
        with self._calm, self._lock, self._whole:
            self._engine.unclaim(arms)
            self._mend()

    def _return(self, answers: list[tuple[Arm, datetime | None]]) -> None:
        """Give arms back to the engine, each with when it is to be asked next."""
        if not answers:
            return
        with self._calm, self._lock, self._whole:
            now = self._primitives.utc_now()
            for arm, due in answers:
                self._engine.rearmed(arm, due, now)
            self._notify()

    def _next_of(self, arm: Arm, *, reset: bool, may_be_due: bool = False) -> datetime | None:
        """Return when *arm* is to be asked next, after a reset or not; None is at every tick."""
        if not isinstance(arm, Asked):
            return None
        before = self._primitives.utc_now()  # the clock may be set forward while it is asked
        try:
            with self._timed(arm):
                if reset:
                    arm.trigger.reset()
                due = arm.trigger.next_fire_time()
            if due is None:
                return None
            due = checks.instant("next_fire_time()", due)
            if due > before or may_be_due:
                return due
            if reset:
                raise InvalidValueError(f"next_fire_time() after reset() must lie ahead, got {due}")
        except BaseException as error:
            hand_on(error)
            self._quarantine(arm, error)
        return None  # not ready although it is due: ask at the next tick

    @contextmanager
    def _timed(self, arm: Arm) -> Iterator[None]:
        """Tell of a trigger that takes long: it keeps all others from being asked meanwhile."""
        began = self._primitives.monotonic()
        try:
            yield
        finally:
            took = self._primitives.monotonic() - began
            if took > _SLOW:
                self._tell_slow(arm, took)

    def _tell_slow(self, arm: Arm, took: float) -> None:
        at = self._primitives.monotonic()
        reason = f"its trigger {type(trigger_of(arm)).__name__} took {took:.3f} seconds to answer"
        with self._calm, self._lock, self._whole:
            task: Task | None = arm._arm_task
            if task is not None and at - self._slow_told.get(task, -math.inf) >= _MINUTE:
                self._slow_told[task] = at
                now = self._primitives.utc_now()
                self._engine.note(ChangeKind.TRIGGER_SLOW, now, task, reason=reason)

    def _quarantine(self, arm: Arm, error: BaseException) -> None:
        name = type(trigger_of(arm)).__name__
        text = checks.redacted(self._redact, checks.error_text(error))
        reason = f"its trigger {name} raised {text}"
        with self._calm, self._lock, self._whole:
            if arm._arm_task is not None:  # it was not removed meanwhile
                self._engine.quarantine(arm._arm_task, reason, self._primitives.utc_now())

    # Slots

    def _claim(self) -> bool:
        """Claim slots for what is ready; the lock is held. `_man` has the pool run them.

        Returns:
            True when there are any.
        """
        engine = self._engine
        try:
            if not engine.claim_slots():
                return False
            if self._pool is None:
                most = self._max + self._replacements
                self._pool = DaemonPool(most, "background_tasks-slot", self._primitives)
            while len(self._slots) < engine.slots:
                slot = _Slot(self)
                self._unmanned.append(slot)
                self._slots[slot] = None
            return True
        except BaseException:
            engine.slots = len(self._slots)
            raise

    def _claim_while_ticking(self) -> None:
        """As `_claim`; none before the start, when only `run_tasks` dispatches."""
        if self._state is _State.RUNNING:
            self._claim()

    def _man(self) -> None:
        """Have the pool run slots that were claimed; for which it has no thread it gives back."""
        while (slot := self._take_unmanned()) is not None:
            pool = self._pool
            try:
                if pool is None:
                    raise RuntimeError("the pool is gone: the scheduler was stopped")
                pool.start(slot)
            except BaseException as error:
                self._not_manned(slot, pool, error)
                return

    def _not_manned(self, slot: _Slot, pool: DaemonPool | None, error: BaseException) -> None:
        """Give back a slot that could not be started, and say why."""
        interrupt = interrupt_of(error)
        if interrupt is None and isinstance(error, RuntimeError):
            self._give_back(slot, pool, checks.error_text(error))
        else:
            self._give_back(slot, pool)
            self._report(interrupt or error)

    def _take_unmanned(self) -> _Slot | None:
        """Take a slot that is to be started; None when others have taken all."""
        try:
            return self._unmanned.pop()
        except IndexError:
            return None

    def _give_back(self, slot: _Slot, pool: DaemonPool | None, trouble: str = "") -> None:
        """Return a slot that *pool* did not take, and those that wait for it.

        At once, with another pool after a resume; one that has no thread to give is tried again at
        the next tick.
        """
        with self._calm, self._lock, self._whole:
            unmanned: _Slot | None = slot
            while unmanned is not None:
                if unmanned.thread == NOBODY:
                    self._drop(unmanned)
                unmanned = self._take_unmanned()
            if trouble and pool is not None and pool is self._pool:
                self._note_refusal(trouble)
            elif self._ticker is not None:
                self._ticker.wake()

    def _drop(self, slot: _Slot) -> None:
        """Claim *slot* no longer; the lock is held."""
        self._slots.pop(slot, None)
        self._engine.slots = len(self._slots)

    def _look_after_slots(self) -> None:
        """Put right, once a second, what an exception has broken off; the lock is held.

        It may come up anywhere in the main thread, from a signal handler, which may have claimed a
        slot; and in any thread that a debugger or profiler is at.
        """
        at = self._primitives.monotonic()
        if at - self._slots_seen_at < PATIENCE:
            return
        self._slots_seen_at = at
        for slot in tuple(self._slots):
            if slot.is_over:
                self._bury(slot)
            elif slot.thread == NOBODY:
                if slot.is_late:
                    self._unmanned.append(slot)
                slot.is_late = True

    def _bury(self, slot: _Slot) -> None:
        """Claim a slot no longer that was left in the midst of a run; the lock is held."""
        self._drop(slot)
        self._leave_run(slot.thread)
        self._lose(slot.run, slot.thread)

    def _note_refusal(self, trouble: str) -> None:
        """Leave it to be told, once a minute, that there is no thread; the lock is held."""
        at = self._primitives.monotonic()
        if at - self._refused_at >= _MINUTE:
            self._refused_at = at
            self._engine.note(ChangeKind.THREAD_REFUSED, self._primitives.utc_now(), reason=trouble)

    def _next_run(self) -> Run | None:
        """Take the best ready run; the lock is held.

        While the scheduler ticks, slots release as well, one due time a run: of 100 runs due at
        once the first then starts after 0.5 ms instead of 1.1, the median one 17 % earlier.
        """
        now = self._primitives.utc_now()
        if self._ticker is not None:
            self._engine.release(now, 1)
        return self._engine.take(now)

    def _work(self, slot: _Slot) -> None:
        """Run what is ready, best first, until nothing is: what a thread of the pool does."""
        me = self._primitives.get_ident()
        run: Run | None = None
        outcome: Outcome | None = None
        try:
            while (run := self._step(slot, outcome, me)) is not None:
                outcome = self._runner.attempt(run.execution, run.task)
        except BaseException as error:
            if run is not None:
                slot.is_over = True
            self._leave_slot(slot, me)
            self._report(error)

    def _step(self, slot: _Slot, outcome: Outcome | None, me: int) -> Run | None:
        """Record how the last run ended, if there was one; return the next one, or None."""
        if not self._lock.acquire(False):
            self._acquire()
        try:
            return self._follow_up(slot, outcome, me)
        except BaseException:
            self._lose(slot.run, me)
            raise
        finally:
            # What others claim they start: this one has a run to see to.
            self._unlock(slot.has_claimed)

    def _follow_up(self, slot: _Slot, outcome: Outcome | None, me: int) -> Run | None:
        """Do what `_step` is for; the lock is held."""
        run = slot.run
        if outcome is None or run is None:
            if slot.thread != NOBODY or slot not in self._slots:
                return None  # it was started twice, or given back
            slot.thread = me
            self._enter_run()
        elif run.execution.status is _RUNNING:
            self._engine.finish(run, outcome)
            if outcome.interrupt is not None:  # an InlineScheduler, in the main thread
                raise outcome.interrupt
        else:
            return None  # this is a child that the task forked: the pool is gone, too
        slot.has_claimed = False
        run = slot.run = self._next_run()
        if run is None:
            self._leave_run(me)
            self._notify()
            self._drop(slot)
            return None
        run.thread = me
        slot.has_claimed = self._claim()
        return run

    def _lose(self, run: Run | None, thread: int) -> None:
        """Mend what broke off, and *run* with it if that *thread* has it; the lock is held."""
        if run is not None and run.thread == thread:
            run.thread = NOBODY
        self._mend()

    def _leave_slot(self, slot: _Slot, me: int) -> None:
        """Go home with an error."""
        with self._calm, self._lock, self._whole:
            if slot in self._slots and slot.thread in (NOBODY, me):
                self._drop(slot)
                if slot.thread == me:
                    self._leave_run(me)
            self._lose(slot.run, me)
            self._notify()

    # A fork

    def _hold(self, end: float, taken: list[bool]) -> None:
        """Take the lock before a fork, for `_let_go`; then put True in *taken*, see `looks_free`.

        In one call, written in C, so that no interrupt comes up between the two.
        """
        while True not in taken and looks_free(self._lock, self._primitives.pause, end):
            taken.extend(map(self._lock.acquire, _AT_ONCE))

    def _let_go(self) -> None:
        """Let the lock go after a fork, in the parent; tells nothing, not to call others there."""
        self._lock.release()
        if self._stops:
            self._heed()
        if self._engine.rung:
            self._attend()

    def _forked(self) -> None:
        """Be a stopped scheduler in a forked child, which has no thread but the one that forked."""
        was_running, pool = self._state is _State.RUNNING, self._pool
        self._lock, self._sampling = self._primitives.lock(), Turn()
        self._calm, self._whole = _Calm(self), _Whole(self)
        self._reporter.forked()
        if self._ticker is not None:
            self._ticker.is_over = True  # it may be the thread that forked: a trigger did
        self._ticker = self._pool = None
        self._waiters, self._busy = {}, {}
        self._slots.clear()
        self._unmanned.clear()
        self._stops.clear()
        if was_running:
            self._state = _State.STOPPED
            self._engine.is_paused = True
        dropped = forked(self._engine, self._primitives.utc_now())
        if pool is not None:
            pool.forked()
        if self._outside is not None:
            self._outside.forked()
        if was_running:
            self._dropped_by_fork = dropped

    def _warn_of_fork(self) -> None:
        """Say that this is a child, once it uses us; no lock is held.

        Not in the fork: another thread of the parent may have held the lock of the log's file.
        """
        dropped, self._dropped_by_fork = self._dropped_by_fork, None
        if dropped is not None:
            fields = {"event.name": "background_tasks.forked", "background_tasks.dropped": dropped}
            log(_WARNING, _STOPPED_BY_FORK, fields)


class _Asking:
    """Arms that were claimed to be asked, which an error gives back."""

    __slots__ = ("_arms", "_scheduler")

    def __init__(self, scheduler: Scheduler, arms: list[Arm]) -> None:
        self._scheduler = scheduler
        self._arms = arms

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and self._arms:
            self._scheduler._unclaim(self._arms)


class _Bell:
    """What an EventTrigger rings; see `SignalOwner`."""

    __slots__ = ("_scheduler",)

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def signalled(self, trigger: EventTrigger) -> None:
        self._scheduler._engine.ring(trigger)
        self._scheduler._attend()

    def signal(self, event: object) -> Signal:
        scheduler = self._scheduler
        return event, scheduler._primitives.utc_now(), scheduler._origin()


def _managers(around: object) -> tuple[Around, ...]:
    """Return what is to be *around* each attempt, refused where it is written."""
    if isinstance(around, (str, bytes)) or not isinstance(around, Iterable):
        raise InvalidTypeError(f"around must be a list or tuple, got {checks.shown(around)}")
    makers = tuple(around)
    for each in makers:
        checks.call("each of around", each, (None,), {})
    return makers


def _aging(aging: object) -> float:
    value = checks.number("aging", aging)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = -1.0
    if seconds < 0:
        raise InvalidValueError(
            f"aging must be at least 0 seconds and a float, got {checks.shown(aging)}"
        )
    return seconds


def _number(task_id: object) -> int:
    """Return *task_id* as a plain int; without the lock, since what is shown may call us."""
    if isinstance(task_id, bool) or not isinstance(task_id, int):
        raise InvalidTypeError(f"task_id must be an int, got {checks.shown(task_id)}")
    return int.__pos__(task_id)


def _summary(function: object) -> str:
    """Return the first line of the function's docstring."""
    return (getattr(function, "__doc__", None) or "").strip().partition("\n")[0]


atexit.register(stop_all)  # after `status` has, which so closes its sockets later
