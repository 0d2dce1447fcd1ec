"""Events in the real Scheduler, with its threads in orders drawn at random.

Threads fire, disable, enable, stop, resume, start, remove, add and ask by turns that a `World`
draws, with a switch possible at each line of the scheduler, the pool and the triggers. However
they come: each signal that was taken makes one run, in order, `fire` says the truth, the counters
add up, no thread is stuck, and no wake-up is lost.

INTERLEAVINGS is for more of them than the suite has time for.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from background_tasks import (
    Change,
    ChangeKind,
    EventTrigger,
    Execution,
    PeriodicTrigger,
    Scheduler,
    Status,
    Task,
    current_execution,
    engine,
    pool,
    process,
    reporter,
    scheduler,
    trigger,
)
from tests.interleaving import DeadlockError, World

_SEEDS = int(os.environ.get("INTERLEAVINGS", "300"))
_REST = 0.1  # seconds
_AT_ONCE = 0.5  # seconds; half a tick: nothing waited for one
_ENOUGH = 1000  # stories in which a mistake is found: one in 65 has it, as things stand
_INTERRUPTS = 8  # signals of handlers in one story
_FURTHER = 5  # signals that runs fire in one story


def _file_of(module: ModuleType) -> str:
    assert module.__file__ is not None
    return module.__file__


# Of the engine, which is used under the lock, what is said to others without it.
_UNLOCKED = ("ring", "release_signals", "_take_signals", "has_due", "remove", "claim_slots", "note")
_TRACED: dict[str, tuple[str, ...]] = {
    **{_file_of(module): () for module in (scheduler, pool, trigger, reporter)},
    _file_of(engine): _UNLOCKED,
    __file__: ("_wake_in_time",),
}


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Let the collector, which comes when it likes, not make one order two."""
    gc.disable()
    yield
    gc.enable()


# A story: what there is, what is done to it, and what must be true of it in the end


@dataclass(eq=False, slots=True)
class Shot:
    """One call of ``fire``; it is the signal's payload, too.

    Attributes:
        begun: The moment before it.
        ended: The moment after it; 0 before.
        taken: What it returned.
    """

    begun: int
    ended: int = 0
    taken: bool = False


@dataclass(eq=False, slots=True)
class Channel:
    """A trigger and the signals fired at it."""

    trigger: EventTrigger
    shots: list[Shot] = field(default_factory=list)
    started: int = 0  # calls of the function

    def taken(self) -> list[Shot]:
        """Return the signals that were taken."""
        return [shot for shot in self.shots if shot.taken]

    def is_bounded(self) -> bool:
        """Return whether it may refuse a signal."""
        return self.trigger.maxsize > 0 and not self.trigger.coalesce


@dataclass(eq=False, slots=True)
class Target:
    """A task and its channels; the moments in which its removal began and was done, 0 before."""

    channels: list[Channel]
    task: Task = field(init=False)
    calls: list[Shot] = field(default_factory=list)
    removal: int = 0
    removed: int = 0
    is_added: bool = False


class Story:
    """A scheduler in a world of its own, and threads that use it in every way."""

    def __init__(self, seed: int, scheduler_type: type[Scheduler] = Scheduler) -> None:
        """Draw what there is."""
        self.draw = random.Random(seed)
        by_instruction = self.chance(0.1)
        self.world = World(
            seed,
            traced=_TRACED,
            by_instruction=by_instruction,
            restless=self.draw.choice((0.02, 0.05, 0.2)) / (5 if by_instruction else 1),
            slow=self.chance(0.2),
            interrupting=self.draw.choice((0.0, 0.0, 0.01)),
        )
        self.scheduler = scheduler_type(
            self.draw.randint(1, 3), _primitives=self.world.primitives()
        )
        # One that a story leaves in pieces is nothing for the end of the process to wait for.
        process._members.pop(id(self.scheduler), None)
        self.moment = 0
        self.interrupts, self.further = _INTERRUPTS, _FURTHER
        self.asked = self.scheduler.add_task(Task("asked", int, history=1000))
        later = PeriodicTrigger(interval=3600)  # the scheduler thread always has a time to wait for
        self.scheduler.add_task(Task("later", int, triggers=[later]))
        self.targets = [self._target() for _ in range(self.draw.randint(1, 3))]
        self.late = self._target() if self.chance(0.5) else None
        for target in self.targets:
            self.scheduler.add_task(target.task)
            target.is_added = True
        if self.late is not None:
            self.targets.append(self.late)
        self.told: list[Change] = []
        if self.chance(0.3):
            self.scheduler.add_listener(self.told.append)
        if self.chance(0.7):
            self.scheduler.start()

    def chance(self, likely: float) -> bool:
        """Return True that often."""
        return self.draw.random() < likely

    def _target(self) -> Target:
        channels = [Channel(self._trigger()) for _ in range(self.draw.choice((1, 1, 2)))]
        target = Target(channels)
        target.task = Task(
            "target",
            lambda: self._run(target),
            triggers=[channel.trigger for channel in channels],
            enabled=self.chance(0.8),
            priority=self.draw.randint(-1, 1),
            max_instances=self.draw.choice((1, 1, 2)),
            overlap=self.draw.choice(("queue", "queue", "queue", "skip")),
            history=1000,
        )
        return target

    def _trigger(self) -> EventTrigger:
        return EventTrigger(
            maxsize=self.draw.choice((0, 0, 1, 2, 3)), coalesce=self.draw.random() < 0.25
        )

    def play(self) -> None:
        """Have all of it happen, and look at what came of it."""
        self.world.thread(self.direct, name="direct").start()
        self.world.run()
        assert self.scheduler.stats().internal_errors == 0
        check(self)

    def direct(self) -> None:
        """Let threads act, some at a time; have all run that still waits; fill each channel."""
        for _ in range(self.draw.randint(1, 3)):
            self.act()
            self.rest()
        self.further = 0
        self.run_all()
        for target in self.targets:
            target.task.enabled = False
            for channel in target.channels:
                self.fill(channel, is_gone=target.removed > 0)
        self.run_all()
        assert self.scheduler.stop()

    def act(self) -> None:
        """Have some threads do something, and wait for them."""
        deeds = [self.fire_many] * self.draw.randint(1, 3)
        others = [self.switch, self.stop_and_resume, self.look, self.stop_and_resume, self.remove]
        deeds += [deed for deed in others if self.chance(0.4)]
        if self.late is not None and not self.late.is_added:
            deeds.append(self.add_late)
        threads = [self.world.thread(deed, name=deed.__name__) for deed in deeds]
        self.world.interrupt = self.interrupt
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.world.interrupt = None

    def rest(self) -> None:
        """Wait until all threads wait; then nothing is left that could be done."""
        self.world.sleep(_REST)
        if self.world.is_slow or self.scheduler._state is not scheduler._State.RUNNING:
            return
        assert self.scheduler._engine.slots == self.scheduler.running_tasks_count() == 0
        assert not self.scheduler._engine.changes
        for target in self.targets:
            if target.task.enabled and target.is_added and not target.removed:
                assert target.task._waiting == 0
                assert not any(channel.trigger.waiting for channel in target.channels)

    # What threads do

    def fire_many(self) -> None:
        """Signal here and there."""
        for _ in range(self.draw.randint(1, 3)):
            self.fire()

    def fire(self) -> None:
        """Signal somewhere, and see whether the answer is true."""
        target = self.draw.choice(self.targets)
        if self.late is not None and self.chance(0.3):
            target = self.late
        channel = self.draw.choice(target.channels)
        started = channel.started
        shot = Shot(self.now())
        channel.shots.append(shot)
        shot.taken = channel.trigger.fire(shot)
        shot.ended = self.now()
        if shot.taken:
            assert not 0 < target.removed < shot.begun
            assert_not_overfull(target)
        elif not target.removal:
            under_way = [each for each in channel.shots if each.taken or not each.ended]
            assert channel.is_bounded()
            assert len(under_way) - started >= channel.trigger.maxsize

    def now(self) -> int:
        """Return the number of a moment later than any before."""
        self.moment += 1
        return self.moment

    def interrupt(self) -> None:
        """Do what a signal handler does."""
        if self.interrupts:
            self.interrupts -= 1
            self.fire()

    def _run(self, target: Target) -> None:
        """Be the function of a task."""
        execution = current_execution()
        assert execution is not None
        shot = execution.event
        assert isinstance(shot, Shot)
        target.calls.append(shot)
        for channel in target.channels:
            channel.started += shot in channel.shots
        if self.chance(0.3):
            self.world.pause()
        if self.further and self.chance(0.2):
            self.further -= 1
            self.fire()

    def switch(self) -> None:
        """Disable, enable and put in another order."""
        for _ in range(self.draw.randint(1, 3)):
            task = self.draw.choice(self.targets).task
            if self.chance(0.8):
                task.enabled = not task.enabled
            else:
                task.priority = self.draw.randint(-1, 1)

    def stop_and_resume(self) -> None:
        """Stop and go on, by turns or not."""
        for _ in range(self.draw.randint(1, 3)):
            self.draw.choice(
                (
                    self.scheduler.stop,
                    lambda: self.scheduler.stop(timeout=0),
                    self.scheduler.resume,
                    self.scheduler.start,
                )
            )()

    def remove(self) -> None:
        """Take a task out."""
        target = self.draw.choice([each for each in self.targets if each is not self.late])
        target.removal = target.removal or self.now()
        self.scheduler.remove_task(target.task.id)
        target.removed = target.removed or self.now()

    def add_late(self) -> None:
        """Add a task that others may have signalled already."""
        assert self.late is not None
        self.scheduler.add_task(self.late.task)
        self.late.is_added = True

    def look(self) -> None:
        """Ask for this and that."""
        made = self.scheduler
        asked = self.asked.id
        for _ in range(self.draw.randint(1, 3)):
            self.draw.choice(
                (
                    made.run_tasks,
                    lambda: made.run_task(asked),
                    lambda: made.release_task(asked),
                    lambda: made.wait_idle(timeout=0),
                    lambda: made.running,
                    lambda: made.ready(5),
                    lambda: assert_adds_up(made),
                )
            )()

    # The end

    def run_all(self) -> None:
        """Have all run that waits."""
        for target in self.targets:
            target.task.enabled = True
        self.scheduler.resume()
        assert self.scheduler.wait_idle()

    def fill(self, channel: Channel, *, is_gone: bool) -> None:
        """Fire until it is full; as many must go into it as it says."""
        room = channel.trigger.maxsize if channel.is_bounded() else 3
        answers = [not is_gone] * room + [not channel.is_bounded() and not is_gone]
        for answer in answers:
            shot = Shot(self.now(), taken=answer)
            channel.shots.append(shot)
            assert channel.trigger.fire(shot) is answer
            shot.ended = self.now()


def assert_not_overfull(target: Target) -> None:
    """No more waits in a task's channels and in its queue than may."""
    if not target.removal and all(channel.is_bounded() for channel in target.channels):
        # Not trigger.waiting, which is a place where threads may be switched.
        waiting = sum(len(channel.trigger._signals) for channel in target.channels)
        room = sum(channel.trigger.maxsize for channel in target.channels)
        assert waiting + target.task._waiting <= room


def assert_adds_up(made: Scheduler) -> None:
    """Every run that was released is somewhere."""
    stats = made.stats()
    ended = stats.succeeded + stats.failed + stats.missed + stats.cancelled + stats.dropped
    assert stats.released == ended + stats.pending + stats.running


def check(story: Story) -> None:
    """All that must be true of a story that has ended."""
    made = story.scheduler
    assert not made._lock.locked()
    assert_adds_up(made)
    records = [(target, target.task.execution_hist) for target in story.targets]
    for target, found in records:
        check_target(target, found)
    stats = made.stats()
    runs = [run for _, found in records for run in found]
    assert (stats.pending, stats.running, stats.failed) == (0, 0, 0)
    assert stats.released == len(runs) + len(story.asked.execution_hist)
    assert stats.skipped == sum(run.missed for run in runs)
    if story.told:
        kinds = [change.kind for change in story.told]
        assert kinds.count(ChangeKind.RUN_RELEASED) == stats.released - stats.missed
        assert kinds.count(ChangeKind.RUN_SUCCEEDED) == stats.succeeded
    if not story.world.is_slow:
        assert story.world.time < _AT_ONCE


def check_target(target: Target, records: list[Execution]) -> None:
    """Each signal of a task was dealt with once, in order."""
    runs = sorted(records, key=lambda run: run.id)
    assert all(run.status in allowed(target) for run in runs)
    succeeded = [run.event for run in runs if run.status is Status.SUCCESS]
    assert same(succeeded, target.calls)
    for channel in target.channels:
        mine = [run for run in runs if run.event in channel.shots]
        check_channel(channel, mine, is_gone=target.removed > 0)
        if target.task.max_instances == 1:
            assert_in_order([shot for shot in target.calls if shot in channel.shots])


def allowed(target: Target) -> set[Status]:
    """Return how the runs of a task may have ended."""
    status = {Status.SUCCESS}
    if target.removed:
        status.add(Status.DROPPED)
    if target.task.overlap == "skip":
        status.add(Status.MISSED)
    return status


def check_channel(channel: Channel, runs: list[Execution], *, is_gone: bool) -> None:
    """Each signal that was taken is one run, the first first; or was merged, or was cleared."""
    seen = [run.event for run in runs if isinstance(run.event, Shot)]
    taken = channel.taken()
    assert len(set(map(id, seen))) == len(seen)
    assert all(shot in taken for shot in seen)
    assert_in_order(seen)
    if channel.trigger.coalesce:
        assert len(runs) + sum(run.missed for run in runs) <= len(taken)
        if taken and not is_gone:
            assert all(shot.begun < seen[-1].ended for shot in taken)
    elif not is_gone:
        assert same(seen, taken)


def assert_in_order(shots: list[Shot]) -> None:
    """No signal comes before one whose call had ended when its own began."""
    begun = 0
    for shot in shots:
        assert begun < shot.ended
        begun = max(begun, shot.begun)


def same(some: Iterable[object], others: Iterable[object]) -> bool:
    """Return whether both hold the same objects, in any order."""
    return sorted(map(id, some)) == sorted(map(id, others))


def tell(seed: int) -> None:
    """Play the story of that number."""
    try:
        Story(seed).play()
    except Exception as error:
        raise AssertionError(f"story {seed}") from error


@pytest.mark.parametrize("first", range(0, _SEEDS, 100))
def test_each_signal_makes_one_run(first: int) -> None:
    """Whatever the order of the threads; a failure names the number of its story."""
    for seed in range(first, min(first + 100, _SEEDS)):
        tell(seed)


# The simulation itself: what it must find


class ReadsTwice(Scheduler):
    """A scheduler with a mistake that the real one once had."""

    def _wake_in_time(self, ticker: Any) -> None:
        if ticker.until is not None:
            due = self._engine.next_due()
            if due is not None and due < ticker.until:  # its thread may have set it to None
                ticker.wake()


class AttendsOnce(Scheduler):
    """A scheduler that does not look at events again after letting the lock go."""

    def _after_lock(self, mans: bool = True) -> None:
        pass


@pytest.mark.parametrize(
    ("broken", "error"), [(ReadsTwice, (TypeError, AssertionError)), (AttendsOnce, AssertionError)]
)
def test_a_mistake_is_found(
    broken: type[Scheduler],
    error: type[Exception] | tuple[type[Exception], ...],
    internal_errors: list[str],
) -> None:
    """At the latest when the suite has been played a few times; by what it left, if not by us."""

    def play_all() -> None:
        for seed in range(_ENOUGH):
            Story(seed, broken).play()

    with pytest.raises(error):
        play_all()
    internal_errors.clear()


def test_the_same_number_gives_the_same_story() -> None:
    """So that what was found can be found again."""
    one, other = Story(3), Story(3)

    one.play()
    other.play()

    assert (one.world.turns, one.world.time) == (other.world.turns, other.world.time)
    assert one.moment == other.moment


def _run(world: World, *works: Callable[[], object]) -> None:
    for work in works:
        world.thread(work).start()
    world.run()


def _hold(first: Any, second: Any) -> None:
    with first, second:
        pass


def test_a_deadlock_is_found() -> None:
    """Two locks taken in either order, each by one thread."""

    def meet(seed: int) -> None:
        world = World(seed)
        one, other = world.primitives().lock(), world.primitives().lock()
        _run(world, lambda: _hold(one, other), lambda: _hold(other, one))

    def meet_often() -> None:
        for seed in range(20):
            meet(seed)

    with pytest.raises(DeadlockError):
        meet_often()


def test_an_update_is_lost_between_two_lines() -> None:
    """Two threads that add to a number without a lock."""
    count = 0

    def add() -> None:
        nonlocal count
        before = count
        count = before + 1

    counts = set()
    for seed in range(20):
        count = 0
        _run(World(seed, traced={__file__: ("add",)}), add, add)
        counts.add(count)

    assert counts == {1, 2}


def test_time_passes_while_all_wait() -> None:
    """Up to the first timeout; who is woken does not wait for its own."""
    world = World(0)
    event = world.primitives().event()
    answers: list[tuple[str, bool, float]] = []

    def wait() -> None:
        answers.append(("woken", event.wait(10), round(world.time)))

    def wake() -> None:
        world.sleep(3)
        event.set()
        answers.append(("late", world.primitives().event().wait(4), round(world.time)))

    _run(world, wait, wake)

    assert answers == [("woken", True, 3), ("late", False, 7)]


def test_a_thread_that_raises_ends_the_world() -> None:
    """Those that wait are not waited for."""
    world = World(0)

    def fail() -> None:
        raise ValueError("uncaught")

    with pytest.raises(ValueError, match="uncaught"):
        _run(world, world.primitives().event().wait, fail)
