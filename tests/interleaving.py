"""Virtual threads: what a real Scheduler does in threads, in an order drawn from a number.

A `World` makes the primitives of a scheduler. Its threads are real ones of which exactly one goes
on at a time. Whenever that one comes to a point it draws whether another goes on instead: a point
is each use of a lock, event, queue or thread and, in the functions that are `traced`, each line
or each instruction. So races in code that takes no lock are met as well, and the same number gives
the same order again.

Time is virtual. Each reading of a clock takes a microsecond; beside that time passes only while
all threads wait, up to the first timeout. So a wake-up that is lost shows in the time that passed
until something else put it right. In a world that is `slow` a wait may also time out while others
could go on, as it does when those are slow.

A thread may be interrupted at each line by a function, as it is by a signal handler or by
``__del__``; the system may have no thread to give; the wall clock may be set. When all threads wait
and none has a timeout, the world ends in a `DeadlockError`; so it does when threads go round in
circles, asking again and again for what nobody will give them.
"""

from __future__ import annotations

import math
import queue
import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta, timezone
from types import FrameType
from typing import Any

from background_tasks.primitives import Primitives

__all__ = ["DeadlockError", "VirtualThread", "World"]

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_READING = 1e-6  # seconds that it takes to read a clock
_EARLY = 0.02  # how often a wait times out early in a slow world
_LAST = 1e9  # seconds; no wait with a timeout is longer
_SLOWEST = 5.0  # seconds by which others are late there at most
_MOST_TURNS = 200_000  # beyond it threads go round in circles
_MOST_IN_VAIN = 1000  # turns that go only to threads which pause


class DeadlockError(AssertionError):
    """All threads wait, and nothing will ever wake one."""


class _WorldEnded(BaseException):
    """Ends the threads that are left."""


class World:
    """Virtual threads and the time that they live in.

    Attributes:
        time: Seconds since the beginning.
        turns: How many times it was drawn who goes on.
        order: The numbers of those who did, whenever that was another one.
        is_over: Whether its threads have ended.
        interrupt: Called by a thread in the middle of its work, at a traced line; None is nothing.
        refuse: Told the name of each thread that is to be started; returns whether there is none
            for it.
        wall_ahead: Seconds by which the wall clock was set forward.
    """

    # Every attribute belongs to the one thread that goes on; another one reads it only after it
    # was handed the turn. `run`, in the thread of the test, waits meanwhile.
    def __init__(
        self,
        seed: int,
        *,
        traced: Mapping[str, Collection[str]] = {},
        by_instruction: bool = False,
        restless: float = 1.0,
        ranked: bool = False,
        slow: bool = False,
        interrupting: float = 0.0,
        longest: float = math.inf,
    ) -> None:
        """Make a world without threads.

        Args:
            seed: What the order is drawn from.
            traced: The functions in which each line is a point, by the name of their file; no
                name is all of that file.
            by_instruction: In these each instruction is.
            restless: How likely it is that the turn is given away at a point.
            ranked: Whether it goes to the thread of the highest rank that can go on, and whoever
                gives it away falls behind all others. Ranks are drawn. So a thread may stand still
                for as long as others have something to do.
            slow: Whether waits may time out early.
            interrupting: How likely an interrupt is at each traced line.
            longest: Seconds after which threads that still wait are in a deadlock.
        """
        self._draw = random.Random(seed).random
        self._traced = traced
        self._by_instruction = by_instruction
        self._restless = restless
        self._staying = self._stay()  # points at which the turn is still kept
        self._is_ranked = ranked
        self._lowest = 0.0  # rank
        self.is_slow = slow
        self._interrupting = interrupting
        self._longest = longest
        self.threads: list[VirtualThread] = []  # those that have begun and not ended
        self._begun = 0
        self._current: VirtualThread | None = None
        self._error: BaseException | None = None
        self.is_over = False
        self._over = threading.Event()
        self.time = 0.0
        self.turns = 0
        self.order: list[int] = []
        self._pausing: list[VirtualThread] = []  # they do not go on next if another can
        self._in_vain = 0  # how many turns went to these, one after the other
        self.interrupt: Callable[[], object] | None = None
        self.refuse: Callable[[str], bool] = lambda _: False
        self.wall_ahead = 0.0

    def primitives(self) -> Primitives:
        """Return what a Scheduler needs to live in this world."""
        return Primitives(
            lock=lambda: _Lock(self),
            event=lambda: _Event(self),
            thread=self.thread,
            queue=lambda: _Queue(self),
            get_ident=self.ident,
            pause=self.pause,
            utc_now=self.wall_time,
            monotonic=self.read_clock,
        )

    def thread(
        self,
        target: Callable[..., object],
        args: tuple[object, ...] = (),
        name: str = "",
        daemon: bool = True,
    ) -> VirtualThread:
        """Return a thread that is still to be started."""
        return VirtualThread(self, lambda: target(*args), name)

    def run(self) -> None:
        """Let the threads that were started go on until all have ended; once in a world's life.

        Raises:
            BaseException: The first that a thread did not catch.
        """
        first = self.threads[0]
        threads = self.threads.copy()
        self._current = first
        first.turn.release()
        assert self._over.wait(60), "the virtual threads stand still"
        for thread in {*threads, *self.threads}:
            assert thread.left.acquire(timeout=10), f"{thread.name} does not end"
        self._current = None
        if self._error is not None:
            raise self._error

    def read_clock(self) -> float:
        """Return the seconds since the beginning; reading takes time, too."""
        self.time += _READING
        return self.time

    def wall_time(self) -> datetime:
        """Return the time of the wall clock, an aware UTC datetime."""
        return _START + timedelta(seconds=self.read_clock() + self.wall_ahead)

    @property
    def thread_name(self) -> str:
        """The name of the thread that goes on; "" outside of `run`."""
        return "" if self._current is None else self._current.name

    def ident(self) -> int:
        """Return the number of the thread that goes on; 0 outside of `run`."""
        return 0 if self._current is None else self._current.number

    def _stay(self) -> float:
        """Draw at how many points the turn is kept, as if it were drawn at each of them."""
        if self._restless >= 1:
            return 0
        if self._restless <= 0:
            return math.inf
        return math.log1p(-self._draw()) // math.log1p(-self._restless)

    # For the primitives; called outside of `run`, nothing waits.

    def point(self) -> None:
        """Let another thread go on, or not."""
        if self._current is None:
            return
        if self.is_over:
            raise _WorldEnded
        self._staying -= 1
        if self._staying < 0:
            self._staying = self._stay()
            self._fall_behind(self._current)
            self._switch(self._current)

    def wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until *ready* or for *timeout* seconds; return what *ready* says then."""
        me = self._current
        if me is None:
            self.time += timeout or 0.0
            return ready()
        me.ready = ready
        me.deadline = math.inf if timeout is None else self.time + timeout
        self._switch(me)
        me.ready, me.deadline = None, math.inf
        return ready()

    def pause(self, _seconds: float = 0.0) -> None:
        """Let another thread go on, if one can."""
        me = self._current
        if me is None:
            return
        self._pausing.append(me)
        self._fall_behind(me)
        self._switch(me)

    def sleep(self, seconds: float) -> None:
        """Wait that long; unless the world is slow, all other threads wait by then."""
        self.wait(lambda: False, seconds)

    def settle(self) -> None:
        """Wait until all other threads wait; no time passes."""
        me = self._current
        self.wait(lambda: all(each is me or each.is_waiting() for each in self.threads), None)

    def begin(self, thread: VirtualThread) -> None:
        """Let a thread that was started go on from now on."""
        self._begun += 1
        thread.number = self._begun
        thread.rank = self._draw()
        self.threads.append(thread)

    def live(self, thread: VirtualThread) -> None:
        """Do what a thread does: the whole of its life, in the real one."""
        thread.turn.acquire()
        tracer = sys.gettrace()  # that of a coverage tool
        if self._traced:
            sys.settrace(self._trace)
        try:
            if not self.is_over:
                thread.work()
        except _WorldEnded:
            pass
        except BaseException as error:
            self._end(error)
        finally:
            sys.settrace(tracer)
        self._leave(thread)

    def _leave(self, thread: VirtualThread) -> None:
        """Give the turn away for good."""
        if self.is_over:
            return
        self.threads.remove(thread)
        thread.has_ended = True
        following = self._choose() if self.threads else None
        if following is None:
            self._end(self._stuck() if self.threads else None)
        else:
            self._hand_to(following)

    # Whose turn it is

    def _switch(self, me: VirtualThread) -> None:
        """Have any thread go on that can, maybe this one."""
        if self.is_over:
            raise _WorldEnded
        following = self._choose()
        if following is me:
            return
        if following is None:
            self._end(self._stuck())
        else:
            self._hand_to(following)
            me.turn.acquire()
        if self.is_over:
            raise _WorldEnded

    def _fall_behind(self, me: VirtualThread) -> None:
        self._lowest -= 1
        me.rank = self._lowest

    def _hand_to(self, following: VirtualThread) -> None:
        self._current = following
        self.order.append(following.number)
        following.turn.release()

    def _choose(self) -> VirtualThread | None:
        """Draw who goes on; None when nobody can."""
        self.turns += 1
        if self.turns > _MOST_TURNS:
            return None
        pausing, self._pausing = self._pausing, []
        if self.is_slow and self._draw() < _EARLY:
            early = self._time_out(_SLOWEST)
            if early is not None:
                return early
        following = self._able(pausing)
        if following is not None:
            self._in_vain = 0
            return following
        if pausing:
            self._in_vain += 1
            return pausing[-1] if self._in_vain <= _MOST_IN_VAIN else None
        return self._time_out(_LAST)

    def _able(self, pausing: list[VirtualThread]) -> VirtualThread | None:
        """Return one that can go on and does not pause; None when there is none."""
        if self._is_ranked:
            able = [each for each in self.threads if each not in pausing and not each.is_waiting()]
            return max(able, key=lambda each: each.rank, default=None)
        count = len(self.threads)
        first = int(self._draw() * count)
        for number in range(first, first + count):  # each of them may be it, not equally likely
            thread = self.threads[number % count]
            if thread not in pausing and not thread.is_waiting():
                return thread
        return None

    def _time_out(self, most: float) -> VirtualThread | None:
        """Let the first wait time out that does so in *most* seconds; return whose it is."""
        first = min(self.threads, key=lambda each: each.deadline)
        if first.deadline > min(self.time + most, self._longest):
            return None
        self.time = max(self.time, first.deadline)
        return first

    def _stuck(self) -> DeadlockError:
        waiting = "\n".join(f"{each.name}{_place(each)}" for each in self.threads)
        return DeadlockError(
            f"after {self.turns} turns and {self.time:.3f} seconds these still wait:\n{waiting}"
        )

    def _end(self, error: BaseException | None) -> None:
        """End all threads that are left; *error* is why, None when none is left."""
        if self.is_over:
            return
        self._error = error
        self.is_over = True
        for thread in self.threads:
            thread.turn.release()
        self._over.set()

    # Points in code that uses no primitive

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        names = self._traced.get(frame.f_code.co_filename)
        if names is None or (names and frame.f_code.co_name not in names):
            return None
        frame.f_trace_opcodes = self._by_instruction
        return self._at_line

    def _at_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event in ("line", "opcode") and not self.is_over:
            if self.interrupt is not None and self._draw() < self._interrupting:
                self.interrupt()
            self.point()
        return self._at_line


def _place(thread: VirtualThread) -> str:
    """Return where a thread waits: the innermost lines outside of this file."""
    frame = sys._current_frames().get(thread.real)
    if frame is None:
        return ""
    frames = [each for each in traceback.extract_stack(frame) if each.filename != __file__]
    return "".join(f" < {each.name}:{each.lineno}" for each in reversed(frames[-5:]))


class VirtualThread:
    """A virtual thread, made and used as a `threading.Thread`."""

    def __init__(self, world: World, work: Callable[[], object], name: str) -> None:
        self._world = world
        self.work = work
        self.name = name
        self.number = 0  # 0 before it begins
        self.turn = threading.Lock()  # let go by whoever hands it the turn
        self.turn.acquire()
        self.ready: Callable[[], bool] | None = None  # what it waits for; None: it can go on
        self.deadline = math.inf  # when it waits no longer
        self.rank = 0.0  # who has the highest goes on, in a world that is ranked
        self.has_ended = False
        self.left = threading.Lock()  # let go when it is no longer lived
        self.real = 0  # the ident of the real thread

    def is_waiting(self) -> bool:
        """Return whether it waits, neither for what has come nor for a time that has."""
        if self.ready is None or self.deadline <= self._world.time:
            return False
        return not self.ready()

    @property
    def ident(self) -> int | None:
        """Its number; None before it was started."""
        return self.number or None

    def start(self) -> None:
        """Begin.

        Raises:
            RuntimeError: The world has no thread for it.
        """
        self._world.point()
        if self._world.refuse(self.name):
            raise RuntimeError("can't start new thread")
        self._world.begin(self)
        self.left.acquire()
        self.real = _live(self._live)
        self._world.point()

    def _live(self) -> None:
        self._world.live(self)
        self.left.release()

    def is_alive(self) -> bool:
        """Return whether it was started and has not ended."""
        self._world.point()
        return self.number > 0 and not self.has_ended

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most so many seconds."""
        self._world.wait(lambda: self.has_ended, timeout)


class _Hand:
    """A real thread that is one virtual thread after the other, which saves starting many."""

    def __init__(self) -> None:
        self._wanted = threading.Semaphore(0)
        self._life: Callable[[], object] = int
        self._thread = threading.Thread(target=self._work, name="virtual", daemon=True)
        self._thread.start()

    def take(self, life: Callable[[], object]) -> int:
        self._life = life
        self._wanted.release()
        assert self._thread.ident is not None
        return self._thread.ident

    def _work(self) -> None:
        while True:
            self._wanted.acquire()
            life, self._life = self._life, int
            life()
            del life
            _hands.append(self)


_hands: list[_Hand] = []  # those that have nothing to do


def _live(life: Callable[[], object]) -> int:
    """Have a real thread call *life*; return its ident."""
    hand = _hands.pop() if _hands else _Hand()
    return hand.take(life)


class _Lock:
    """A lock that is not re-entrant, as `threading.Lock` is."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_held = False
        self.holder = 0  # the number of the thread that took it last, also after that let it go

    def locked(self) -> bool:
        self._world.point()
        return self._is_held

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._world.point()
        if self._is_held and blocking:
            self._world.wait(lambda: not self._is_held, None if timeout < 0 else timeout)
        if self._is_held and not self._world.is_over:  # what its end left is nobody's
            return False
        self._is_held = True
        self.holder = self._world.ident()
        self._world.point()
        return True

    def is_mine(self) -> bool:
        """Return whether the thread that goes on holds it."""
        return self._is_held and self.holder == self._world.ident()

    def release(self) -> None:
        if not self._is_held:
            raise RuntimeError("release unlocked lock")
        self._world.point()
        self._is_held = False
        self._world.point()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class _Event:
    """An event, as `threading.Event` is."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._world.point()
        self._is_set = True
        self._world.point()

    def clear(self) -> None:
        self._world.point()
        self._is_set = False
        self._world.point()

    def wait(self, timeout: float | None = None) -> bool:
        return self._world.wait(lambda: self._is_set, timeout)


class _Queue:
    """An unbounded queue, as `queue.SimpleQueue` is."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._items: deque[object] = deque()

    def put(self, item: object) -> None:
        self._items.append(item)
        if not self._world.is_over:  # a pool that is collected later still says good-bye
            self._world.point()

    def empty(self) -> bool:
        return not self._items

    def get(self, block: bool = True, timeout: float | None = None) -> object:
        self._world.point()
        if block:
            self._world.wait(lambda: bool(self._items), timeout)
        if not self._items:
            raise queue.Empty
        return self._items.popleft()
