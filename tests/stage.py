"""Where scenarios are played: a scheduler in a world of its own, and the laws of every world.

A scenario is a function of a `Stage`. It is called in a virtual thread, the director's; it opens
a scheduler, adds tasks, lets threads act together and says what must be true of what came of it.
What must be true of every world, `Stage` looks at when the scheduler has been stopped: each run
has one terminal record and its changes were told in order, the counters add up, each start is one
call of a function, no lock is held and none was over user code, all threads have ended, and
nothing waited for a tick that should have been woken.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from background_tasks import (
    Change,
    ChangeKind,
    EventTrigger,
    Scheduler,
    Task,
    engine,
    pool,
    process,
    reporter,
    scheduler,
    task,
    trigger,
)
from background_tasks.logger import logger
from tests.interleaving import VirtualThread, World

__all__ = [
    "FOR_EVER",
    "SCENARIOS",
    "Elsewhere",
    "Failing",
    "Latch",
    "Nearby",
    "Scenario",
    "Stage",
    "scenario",
]

FOR_EVER = 3600  # seconds; no world lasts so long
_LONGEST = 300  # virtual seconds that a world lasts at most
_AT_ONCE = 0.05  # seconds; far below a tick, so nothing waited for one
_SLOT, _TICKER = "background_tasks-slot", "background_tasks"

# Where threads meet with no lock between them: there each line, or each instruction, is a point.
_RACY: Mapping[ModuleType, Collection[str]] = {
    scheduler: (
        "__enter__", "__exit__", "_after_lock", "_attend", "_begin", "_dispatch_signals",
        "_follow_up", "_give_back", "_man", "_plan_wait", "_register", "_sample_gates", "_step",
        "_tell", "_turn",
        "_wait_until", "_wake_in_time", "_work", "add_task", "release_task", "run_task",
        "signalled", "stop",
    ),
    engine: ("_take_signals", "release_signals", "ring"),
    pool: ("_await_turn", "_hire", "_promise", "_queue", "_send_home", "_work", "hand_over"),
    reporter: ("_tell_all", "_try_to_tell", "is_busy", "tell"),
    task: ("wait",),
    trigger: ("_has_permit", "bind", "close", "fire"),
}  # fmt: skip


def _traced(functions: Mapping[ModuleType, Collection[str]]) -> dict[str, Collection[str]]:
    return {str(module.__file__): names for module, names in functions.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is played, and in what worlds.

    Attributes:
        play: Called in the director's thread.
        within: Seconds after which all is over, unless the world is slow; None is any time.
        is_prompt: Whether each run must be released when it is due, unless the world is slow.
        slow: How often the world is slow.
        interrupting: How likely an interrupt is at each traced line.
        racy: The functions in which each line, or each instruction, is a point.
        by_instruction: How often each instruction is one.
        restless: How likely it is that the turn is given away at a point, one of these; a quarter
            of it when each instruction is one.
    """

    play: Callable[[Stage], object]
    within: float | None = 0.5
    is_prompt: bool = True
    slow: float = 0.1
    interrupting: float = 0.0
    racy: Mapping[ModuleType, Collection[str]] = field(default_factory=lambda: _RACY)
    by_instruction: float = 0.1
    restless: Sequence[float] = (0.03, 0.1, 0.4)
    ranked: float = 0.5

    def world(self, seed: int, draw: random.Random) -> World:
        """Make the world of that number."""
        by_instruction = draw.random() < self.by_instruction
        by_line = draw.random() < 0.2 or self.interrupting > 0
        return World(
            seed,
            traced=_traced(self.racy) if by_instruction or by_line else {},
            by_instruction=by_instruction,
            restless=draw.choice(self.restless) / (4 if by_instruction else 2 if by_line else 1),
            ranked=draw.random() < self.ranked,
            slow=draw.random() < self.slow,
            interrupting=self.interrupting,
            longest=_LONGEST,
        )


SCENARIOS: dict[str, Scenario] = {}  # by the names of their functions

Play = Callable[["Stage"], object]


def scenario(**rules: Any) -> Callable[[Play], Play]:
    """Enter the decorated function as a scenario; *rules* are those of `Scenario`."""

    def enter(play: Play) -> Play:
        SCENARIOS[play.__name__] = Scenario(play=play, **rules)
        return play

    return enter


class Stage:
    """A scheduler in a world of its own, and what was seen of it.

    Attributes:
        seed: The number of the world.
        draw: What the scenario draws from.
        world: The world.
        scheduler: The scheduler, once it was opened.
        tasks: The tasks that were made here.
        told: The changes that a listener was told.
        calls: How many calls of functions have begun.
        inside: The threads that are inside of a function, by number, each as often as it is.
        faults: What user code found wrong: what it raises would be recorded as its own failure.
    """

    def __init__(self, played: Scenario, seed: int) -> None:
        """Make the world; it is empty."""
        self.scenario = played
        self.seed = seed
        self.draw = random.Random(seed)
        self.world = played.world(seed, self.draw)
        self.scheduler: Any = None
        self.tasks: list[Task] = []
        self.told: list[Change] = []
        self.calls = 0
        self.inside: Counter[int] = Counter()
        self.faults: list[BaseException] = []
        self._handlers: list[logging.Handler] = []
        self._listens = self.chance(0.8)
        self.took = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether time passes only while all threads wait."""
        return not self.world.is_slow

    def play(self) -> None:
        """Have all of it happen, and look at what came of it."""
        self.world.thread(self._direct, name="director").start()
        try:
            self.world.run()
        finally:
            for handler in self._handlers:
                logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
        _check(self)

    def _direct(self) -> None:
        self.scenario.play(self)
        self.world.interrupt = None
        assert self.scheduler.stop()
        self.took = self.world.time  # without the while that a thread waits for more to tell

    # What there is

    def open(self, slots: int = 2, **options: Any) -> Scheduler:
        """Make the scheduler."""
        made = Scheduler(slots, _primitives=self.world.primitives(), **options)
        # One that a failure leaves in pieces is nothing for the end of the process to wait for.
        process._members.pop(id(made), None)
        self.scheduler = made
        self.most = slots + options.get("replacements", 0)
        if self._listens:
            made.add_listener(self.user_code(self.told.append))
        return made

    def task(self, act: Callable[[], object] = int, **options: Any) -> Task:
        """Make a task whose function is *act*."""
        made = Task("task", self._function(act), **{"history": 1000, **options})
        self.tasks.append(made)
        return made

    def add(self, act: Callable[[], object] = int, **options: Any) -> Task:
        """Make a task and add it."""
        made = self.task(act, **options)
        self.scheduler.add_task(made)
        return made

    def add_event(self, act: Callable[[], object] = int, **options: Any) -> EventTrigger:
        """Add a task with an EventTrigger, and return that."""
        made = EventTrigger()
        self.add(act, triggers=[made], **options)
        return made

    def _function(self, act: Callable[[], object]) -> Callable[[], object]:
        act = self.user_code(act)

        def function() -> object:
            self.calls += 1
            me = self.world.ident()
            is_first = not self.inside[me] and self.world.thread_name.startswith(_SLOT)
            self.inside[me] += 1
            if is_first:
                self.check(self._slots_in_use() <= self.most, "more runs than slots")
            try:
                return act()
            finally:
                self.inside[me] -= 1

        return function

    def _slots_in_use(self) -> int:
        threads = [each.number for each in self.world.threads if each.name.startswith(_SLOT)]
        return sum(self.inside[number] > 0 for number in threads)

    def user_code(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """Return *act* as it is given to the scheduler: no lock is over it; faults are kept."""

        def called(*args: Any) -> Any:
            self.check(not self.scheduler._lock.is_mine(), "the lock is held over user code")
            try:
                return act(*args)
            except AssertionError as error:
                self.faults.append(error)
                raise

        return called

    def check(self, is_true: bool, rule: str) -> None:
        """Note a fault if a rule is broken; for user code."""
        if not is_true:
            self.faults.append(AssertionError(rule))

    def handle(self, act: Callable[[logging.LogRecord], object]) -> None:
        """Have *act* called with each record that is logged."""
        handler = _Handler(self, self.user_code(act))
        self._handlers.append(handler)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)

    # What happens

    def chance(self, likely: float) -> bool:
        """Return True that often."""
        return self.draw.random() < likely

    def begin(self, *works: Callable[[], object]) -> list[VirtualThread]:
        """Start a thread for each of *works*."""
        threads = [self.world.thread(work, name=_name_of(work)) for work in works]
        for thread in threads:
            thread.start()
        return threads

    def together(self, *works: Callable[[], object]) -> None:
        """Have threads do each of *works*, and wait until all have ended."""
        for thread in self.begin(*works):
            thread.join()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition*, which takes no lock, is true."""
        self.world.wait(condition, None)

    def rest(self) -> None:
        """Wait until all threads wait; then nothing is left that could be done."""
        self.world.settle()
        made, engine = self.scheduler, self.scheduler._engine
        if made._state is not scheduler._State.RUNNING:
            return
        # What `fire` released is told by whoever takes the lock next: it may be a signal handler.
        untold = {change.kind for change in engine.changes}
        assert untold <= {ChangeKind.RUN_RELEASED}, "not all was told"
        assert not engine.rung, "signals are not attended to"
        assert engine.claim_slots() == 0, "runs wait though slots are free"
        assert engine.slots == engine.running - engine._inline, "a slot runs nothing"
        for each in engine.tasks.values():
            assert not (each.enabled and _signals(each)), "signals wait in a channel"

    def alive(self, name: str = _TICKER) -> int:
        """Return how many threads of that name have not ended."""
        return sum(each.name == name for each in self.world.threads)

    def turns_of_the_ticker(self) -> int:
        """Return how often the scheduler's thread was handed the turn."""
        numbers = [each.number for each in self.world.threads if each.name == _TICKER]
        return sum(each in numbers for each in self.world.order)

    def kinds(self, kind: ChangeKind) -> int:
        """Return how many changes of a kind were told."""
        return sum(each.kind is kind for each in self.told)

    @property
    def hears(self) -> bool:
        """Whether all changes are told to a listener."""
        return self._listens


def _name_of(work: Callable[[], object]) -> str:
    return str(getattr(work, "__name__", type(work).__name__))


def _signals(task: Task) -> int:
    return sum(each.waiting for each in task.triggers if isinstance(each, EventTrigger))


# The laws

_ENDS = {
    ChangeKind.RUN_SUCCEEDED: "succeeded",
    ChangeKind.RUN_CANCELLED: "cancelled",
    ChangeKind.RUN_DROPPED: "dropped",
    ChangeKind.RUN_MISSED: "missed",
    ChangeKind.RUN_TIMED_OUT: "timed_out",
    ChangeKind.RUN_LOST: "lost",
    ChangeKind.RUN_FAILED: "failed",
}
_WAITING, _RUNNING, _BETWEEN, _ENDED = "waiting", "running", "between attempts", "ended"
# What may be told of a run, by where it stands, and where it stands then.
_COURSE: dict[str, dict[ChangeKind, str]] = {
    "": {ChangeKind.RUN_RELEASED: _WAITING, ChangeKind.RUN_MISSED: _ENDED},
    _WAITING: {
        ChangeKind.RUN_STARTED: _RUNNING,
        ChangeKind.RUN_CANCELLED: _ENDED,
        ChangeKind.RUN_DROPPED: _ENDED,
    },
    _RUNNING: {
        ChangeKind.RUN_OVERDUE: _RUNNING,
        ChangeKind.RUN_STUCK: _RUNNING,
        ChangeKind.ATTEMPT_FAILED: _RUNNING,
        ChangeKind.RUN_RETRYING: _BETWEEN,
        ChangeKind.RUN_STARTED: _RUNNING,  # an executor refused it
        **{kind: _ENDED for kind in _ENDS if kind is not ChangeKind.RUN_MISSED},
    },
    _BETWEEN: {
        ChangeKind.RUN_STARTED: _RUNNING,
        ChangeKind.RUN_CANCELLED: _ENDED,
        ChangeKind.RUN_DROPPED: _ENDED,
    },
    _ENDED: {},
}


def _check(stage: Stage) -> None:
    """All that must be true of a world that has ended."""
    if stage.faults:
        raise stage.faults[0]
    _check_locks(stage.scheduler)
    _check_records(stage)
    if stage.hears:
        _check_told(stage)
    if stage.is_exact:
        _check_time(stage)


def _check_locks(made: Scheduler) -> None:
    assert not made._lock.locked()
    assert not made._sampling.locked()
    assert not made._reporter._telling.locked()
    assert made._engine.slots == made._engine.running == made._exempt == 0
    assert not made._busy
    assert not made._waiters


def _check_records(stage: Stage) -> None:
    """Every run that was released is somewhere, once."""
    stats = stage.scheduler.stats()
    ended = stats.succeeded + stats.failed + stats.missed + stats.cancelled + stats.dropped
    assert stats.released == ended + stats.pending
    assert not stage.scheduler._engine.internal_errors
    records = [run for task in stage.tasks for run in task.execution_hist]
    assert len({run.id for run in records}) == len(records) == ended
    assert all(run.status.has_ended for run in records)
    if stage.scheduler._outside is None:
        live = [run.execution for run in stage.scheduler._engine.live.values()]
        assert stage.calls == sum(run.attempts for run in [*records, *live])


def _check_told(stage: Stage) -> None:
    """The changes of each run were told in order, and as many as there were."""
    stands: dict[int, str] = {}
    for change in stage.told:
        if change.execution is not None:
            stands[change.execution.id] = _following(stands, change)
    stats = stage.scheduler.stats()
    for kind, counter in _ENDS.items():
        counted = getattr(stats, counter)
        if kind is ChangeKind.RUN_FAILED:
            counted -= stats.timed_out + stats.lost
        assert stage.kinds(kind) == counted
    assert len(stands) == stats.released


def _following(stands: Mapping[int, str], change: Change) -> str:
    assert change.execution is not None
    before = stands.get(change.execution.id, "")
    allowed = _COURSE[before]
    assert change.kind in allowed, f"{change.kind} was told of a run that is {before or 'new'}"
    return allowed[change.kind]


def _check_time(stage: Stage) -> None:
    """Nothing waited for a tick."""
    within = stage.scenario.within
    assert within is None or stage.took < within, f"it took {stage.took:.3f} seconds"
    if stage.scenario.is_prompt:
        records = [run for task in stage.tasks for run in task.execution_hist]
        late = [run for run in records if run.lateness > _AT_ONCE]
        assert not late, f"{late[0]} was released {late[0].lateness:.3f} seconds late"


# What scenarios use


class Latch:
    """A function that stays until it is let go."""

    def __init__(self, stage: Stage) -> None:
        """Be closed."""
        self._world = stage.world
        self._left = stage.world.primitives().event()
        self.entered = 0

    def __call__(self) -> None:
        """Be the function of a task."""
        self.entered += 1
        self._left.wait()

    def let_go(self) -> None:
        """Let all leave, those that enter later as well."""
        self._left.set()

    def wait_entered(self, times: int = 1) -> None:
        """Wait until it was entered so often."""
        self._world.wait(lambda: self.entered >= times, None)


class Failing:
    """A function that raises so many times, then returns."""

    def __init__(self, *errors: BaseException) -> None:
        """Raise each of *errors*, one a call."""
        self._errors = list(errors)

    def __call__(self) -> str:
        """Be the function of a task."""
        if self._errors:
            raise self._errors.pop(0)
        return "done"


class Elsewhere(Executor):
    """An executor in a world: each call has a thread there.

    Attributes:
        is_broken: Whether it takes no call any more.
        lost: Numbers of calls, from 1 on, of which nobody will know how they ended.
        fatal: Numbers of calls that break it.
        taken: How many calls it took.
    """

    def __init__(
        self, stage: Stage, *, lost: Iterable[int] = (), fatal: Iterable[int] = ()
    ) -> None:
        """Be whole."""
        self._world = stage.world
        self.is_broken = False
        self.is_shut_down = False
        self.lost, self.fatal = tuple(lost), tuple(fatal)
        self.taken = 0
        self._open: list[_Answer] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Have a thread call the function."""
        self._world.point()
        if self.is_broken or self.is_shut_down:
            raise BrokenExecutor("it is broken")
        self.taken += 1
        answer = _Answer(self._world)
        self._open.append(answer)
        call = (answer, self.taken, fn, args)
        self._world.thread(self._call, call, name="elsewhere").start()
        return answer

    def _call(
        self, answer: _Answer, number: int, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        if number in self.fatal:
            self.break_down()
        elif number in self.lost:
            answer.give(error=OSError("its worker was lost"))
        else:
            answer.give(fn(*args))

    def break_down(self) -> None:
        """Lose all calls that have not ended, and take no more."""
        self.is_broken = True
        for answer in self._open:
            answer.give(error=BrokenExecutor("a worker died"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls."""
        self.is_shut_down = True


class Nearby(Elsewhere, ThreadPoolExecutor):
    """One whose threads are of this process: what they call is no copy."""


class _Answer:
    """What an Elsewhere returns, as a Future."""

    def __init__(self, world: World) -> None:
        self._given = world.primitives().event()
        self._result: Any = None
        self._error: BaseException | None = None

    def give(self, result: object = None, error: BaseException | None = None) -> None:
        if not self._given.is_set():  # the first counts
            self._result, self._error = result, error
            self._given.set()

    def result(self) -> Any:
        self._given.wait()
        if self._error is not None:
            raise self._error
        return self._result


class _Handler(logging.Handler):
    """A log handler whose lock is one of the world's."""

    def __init__(self, stage: Stage, act: Callable[[logging.LogRecord], object]) -> None:
        self._stage = stage
        super().__init__()
        self._act = act

    def createLock(self) -> None:  # noqa: N802 - as logging calls it
        self.lock = _Reentrant(self._stage.world)  # type: ignore[assignment] # as good as an RLock

    def emit(self, record: logging.LogRecord) -> None:
        self._act(record)


class _Reentrant:
    """A lock that the thread which holds it may take again, as logging's is."""

    def __init__(self, world: World) -> None:
        self._lock: Any = world.primitives().lock()
        self._depth = 0

    def acquire(self) -> None:
        if not self._lock.is_mine():
            self._lock.acquire()
        self._depth += 1

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()
