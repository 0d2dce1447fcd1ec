"""When a task runs: `Trigger` and its kinds, by the clock, by an event, once.

A trigger belongs to one task. Its public methods read the clock; the scheduler uses the methods
below the comment "for the engine", which are told the time, and changes a trigger only under its
lock. All instants are aware UTC datetimes.
"""

from __future__ import annotations

import itertools
import queue
import random
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextvars import Context
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol, cast
from zoneinfo import ZoneInfo

from background_tasks import checks, cron
from background_tasks.checks import Duration
from background_tasks.clock import utc_now
from background_tasks.errors import InvalidTypeError, InvalidValueError
from background_tasks.heap import Entry

__all__ = [
    "Arm",
    "Asked",
    "Channel",
    "EventTrigger",
    "OneTimeTrigger",
    "PeriodicTrigger",
    "Signal",
    "SignalOwner",
    "TimedTrigger",
    "Trigger",
    "arms_of",
    "trigger_of",
]

_MOST_WAITING = 1_000_000  # signals; a permit is kept for each
_SHORTEST = 0.001  # seconds; below it a thread cannot keep up anyway
_SET_BACK = timedelta(hours=3)
_LAST = datetime.max.replace(tzinfo=timezone.utc)
_NO_TIME = timedelta(0)
_TICK = timedelta(microseconds=1)  # the resolution of a datetime


class Trigger(ABC):
    """Says when a task is to run. Write your own by giving it the two methods below.

    The scheduler asks such a trigger at every tick (``tick_interval``, and each ``run_tasks``),
    in the ticking thread and with no lock held; a release makes one run. One that raises gets its
    task disabled, with the reason on it, and harms no other.
    """

    __slots__ = ("_claimed",)  # True once a Task has it

    @abstractmethod
    def is_ready(self) -> bool:
        """Return True when the task should be run."""

    @abstractmethod
    def reset(self) -> None:
        """Start waiting for the next time.

        Called when the task is armed, by ``add_task`` and ``start``, and after each release.
        """

    def next_fire_time(self) -> datetime | None:
        """Return when to ask next, an aware datetime; None, as here, is at every tick."""
        return None


class TimedTrigger(Trigger):
    """A trigger of ours that knows its due time: the base of the two below."""

    __slots__ = ("_arm_entry", "_arm_run", "_arm_task", "_armed", "_due", "_is_fresh", "_made")
    _armed: bool  # False while it counts from its construction only
    _due: datetime | None
    _is_fresh: bool  # armed by a scheduler; the reset that comes with it changes nothing
    _made: datetime | None  # its construction, from which it does not count yet; see `_count`

    _arm_task: Any  # see `Arm`
    _arm_entry: Entry | None
    _arm_run: Any
    _arm_signals = None
    _arm_is_custom = _arm_is_asked = _arm_is_rung = _arm_is_spent = False

    @property
    def _arm_timed(self) -> TimedTrigger:
        return self

    def _count(self) -> None:
        """Count from its construction, if nobody has armed it since.

        Not done in the constructor: most are armed by a scheduler before anybody looks.
        """
        if self._made is not None:
            self.arm(self._made)
            self._armed = False

    def is_ready(self) -> bool:
        """Return True when its time has come; it counts from its construction until armed."""
        self._count()
        return self._due is not None and self._due <= utc_now()

    def reset(self) -> None:
        """Go on to the next time if this one has come; start counting if never armed."""
        if self._is_fresh:
            self._is_fresh = False
            return
        self._count()
        now = utc_now()
        if self._due is not None and self._due <= now:
            self._armed = True
            self.take(now)
        elif not self._armed:
            self.arm(now)

    def next_fire_time(self) -> datetime | None:
        """Return when it is due; None when it never will be (again)."""
        self._count()
        return self._due

    def next_runs(self, n: int, after: datetime | None = None) -> list[datetime]:
        """Return its next *n* times strictly after *after*, now by default; changes nothing.

        Fewer when fewer are left. Jitter is left out. One not armed yet counts from *after*.

        Raises:
            ValueError: *n* is negative or *after* has no time zone.
        """
        checks.whole("n", n, least=0)
        after = utc_now() if after is None else checks.instant("after", after)
        return list(islice(self.fires_after(after), min(n, sys.maxsize)))

    # For the engine.

    def _attach(self, task: object) -> None:
        self._arm_task = task
        self._arm_entry = self._arm_run = None

    @abstractmethod
    def fires_after(self, after: datetime) -> Iterator[datetime]:
        """Yield its times strictly after *after*, jitter left out; changes nothing."""

    @property
    def due(self) -> datetime | None:
        """When to release next; None is not (before something else has happened)."""
        return self._due

    @abstractmethod
    def arm(self, now: datetime) -> None:
        """Start counting anew from *now*."""

    def arm_custom(self, now: datetime) -> None:
        """Arm one whose own ``reset`` is called next, which is not to use up what is due now."""
        self.arm(now)
        self._is_fresh = True

    @abstractmethod
    def take(self, now: datetime) -> tuple[int, datetime]:
        """Use up the occurrences from ``due`` to *now*; return how many, and the last of them.

        Only called when it is due.
        """

    @abstractmethod
    def take_one(self) -> datetime:
        """Use up the first occurrence only and return it."""

    def ended(self, now: datetime) -> bool:
        """Note that a run of it ended; return True if that gave it a due time."""
        return False

    @abstractmethod
    def clock_went_back(self, now: datetime, step: timedelta) -> bool:
        """Come to terms with a clock set back by *step* to *now*; return True if it is due anew."""


class PeriodicTrigger(TimedTrigger):
    """Runs again and again: every so many seconds, or by a cron expression.

    Intervals lie on the grid ``anchor + n * interval``: a late run does not move the ones after
    it. The anchor is when the trigger was armed, or *start*.
    """

    __slots__ = (
        "_anchor",
        "_nominal",
        "_schedule",
        "cron_expr",
        "end",
        "interval",
        "jitter",
        "mode",
        "run_immediately",
        "start",
        "timezone",
    )

    def __init__(
        self,
        interval: Duration | None = None,
        cron_expr: str | None = None,
        *,
        timezone: str | ZoneInfo = "UTC",
        mode: str = "rate",
        jitter: Duration = 0,
        run_immediately: bool = False,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> None:
        """Give exactly one of *interval* and *cron_expr*.

        Args:
            interval: Seconds or timedelta between runs, at least 0.001. The first run is one
                interval after the trigger is armed, or at *start*.
            cron_expr: 5 fields, 6 with seconds first, or 7 with the year last too; ``@daily`` and
                its like, ``@every 1h30m``; a prefix ``CRON_TZ=Europe/Berlin`` wins over
                *timezone*. What it does when clocks change is in the README.
            timezone: The zone of *cron_expr*: a name or a ZoneInfo.
            mode: "rate" counts from start to start on the grid, "delay" from the end of a run,
                of which the scheduler tells the trigger.
            jitter: Up to so many seconds are added to each fire, drawn evenly and anew; never so
                many that the next fire is reached.
            run_immediately: Run once when armed, too; does not move the grid.
            start: No fire before it; for an interval also the anchor of the grid.
            end: No fire after it.

        Raises:
            ValueError: Both or neither are given, or one breaks a rule; for *cron_expr* a
                CronExpressionError that names the field.
            TypeError: An argument is of the wrong kind.
        """
        if (interval is None) == (cron_expr is None):
            raise InvalidValueError(
                f"exactly one of interval and cron_expr must be given, got"
                f" interval={checks.shown(interval)} and cron_expr={checks.shown(cron_expr)}"
            )
        self.cron_expr = None if cron_expr is None else checks.text("cron_expr", cron_expr)
        self.timezone = cron.zone_of(timezone)
        self._schedule: cron.CronSchedule | None = None
        if self.cron_expr is not None:
            interval = cron.every(self.cron_expr)
            if interval is None:
                self._schedule = cron.schedule_of(self.cron_expr, self.timezone)
        self.interval = (
            None if interval is None else checks.duration("interval", interval, least=_SHORTEST)
        )
        if checks.text("mode", mode) not in ("rate", "delay") or (
            mode == "delay" and self._schedule is not None
        ):
            raise InvalidValueError(
                f'mode must be "rate", or "delay" with an interval, got {checks.shown(mode)}'
            )
        self.mode = mode
        self.jitter = checks.duration("jitter", jitter)
        self.run_immediately = checks.boolean("run_immediately", run_immediately)
        self.start = None if start is None else checks.instant("start", start)
        self.end = None if end is None else checks.instant("end", end)
        if self.start is not None and self.end is not None and self.end < self.start:
            raise InvalidValueError(
                f"end must not lie before start, got start={self.start} and end={self.end}"
            )
        self._made = utc_now()
        self._due = None
        self._armed = self._is_fresh = False

    # For the engine.

    def fires_after(self, after: datetime) -> Iterator[datetime]:
        """Yield its times strictly after *after*, jitter left out; changes nothing."""
        anchor = self._anchor if self._armed else self.start or after
        planned = self._nominal if self._armed else None
        if planned is not None and self.mode == "delay":
            anchor = planned
        fire = planned if planned is not None and planned > after else None
        if fire is None:
            fire = self._next_after(after, anchor)
        while fire is not None:
            yield fire
            fire = self._next_after(fire, anchor)

    def arm(self, now: datetime) -> None:
        """Start counting anew from *now*."""
        self._armed = True
        self._made = None
        self._anchor = self.start or now
        if self.run_immediately and self._is_open(now):
            self._nominal: datetime | None = now
            self._due = now
        else:
            self._plan(self._next_after(now, self._anchor))

    def take(self, now: datetime) -> tuple[int, datetime]:
        """Use up the occurrences from ``due`` to *now*; return how many, and the last of them."""
        nominal, shift = self._taken()
        if self.mode == "delay":
            self._plan(None)
            return 1, nominal + shift
        # Jitter delays the whole comparison, so it never merges two fires.
        seen = now - shift if shift else now
        if self.end is not None:
            seen = min(seen, self.end)
        count, latest = 1, nominal
        following = self._next_after(nominal, self._anchor)
        if following is not None and following <= seen:
            count, latest = self._passed(nominal, following, seen)
            following = self._next_after(seen, self._anchor)
        self._plan(following)
        return count, latest + shift if shift else latest

    def take_one(self) -> datetime:
        """Use up the first occurrence only and return it."""
        nominal, shift = self._taken()
        self._plan(None if self.mode == "delay" else self._next_after(nominal, self._anchor))
        return nominal + shift

    def ended(self, now: datetime) -> bool:
        """In mode "delay", plan the next run from the end of this one."""
        if self.mode != "delay" or self._due is not None:
            return False
        assert self.interval is not None
        fire = max(now + self.interval, self.start or now)
        self._plan(None if self.end is not None and fire > self.end else fire)
        return self._due is not None

    def clock_went_back(self, now: datetime, step: timedelta) -> bool:
        """Never wait longer than the time between two fires, counted from *now*.

        A fixed cron time that has just passed is not run again when the clock was set back by no
        more than three hours; above that it was a correction, and the new time counts.

        Source: Debian's cron(8), for clock changes of less and of more than three hours.
        """
        if self._nominal is None:
            return False
        if self.interval is not None and self.start is None:
            if self._nominal - now <= self.interval:
                return False
            self._anchor = now
        elif step <= _SET_BACK and self._schedule is not None and not self._schedule.is_wildcard:
            return False
        fire = self._next_after(now, self._anchor)
        if fire == self._nominal:
            return False
        self._plan(fire)
        return True

    def _is_open(self, now: datetime) -> bool:
        """Return whether *now* lies in the window of ``start`` and ``end``."""
        return (self.start is None or self.start <= now) and (self.end is None or now <= self.end)

    def _next_after(self, instant: datetime, anchor: datetime) -> datetime | None:
        """Return the first nominal time strictly after *instant*; None beyond ``end``."""
        if self.start is not None and instant < self.start:
            instant = self.start - _TICK
        if self._schedule is not None:
            fire = self._schedule.next_after(instant)
        else:
            assert self.interval is not None
            first = 0 if self.start is not None else 1
            steps = max((instant - anchor) // self.interval + 1, first)
            try:
                fire = anchor + steps * self.interval
            except OverflowError:  # beyond the year 9999
                return None
        return None if fire is None or (self.end is not None and fire > self.end) else fire

    def _taken(self) -> tuple[datetime, timedelta]:
        """Return the nominal time that is due, and how far jitter has moved it."""
        assert self._nominal is not None and self._due is not None  # noqa: PT018
        return self._nominal, self._due - self._nominal if self.jitter else _NO_TIME

    def _passed(self, nominal: datetime, second: datetime, now: datetime) -> tuple[int, datetime]:
        """Return how many nominal times lie in [nominal, now], and the last; *second* does."""
        if self._schedule is not None:
            return self._schedule.passed(nominal, now)
        assert self.interval is not None
        # Counted from the second: the first may be off the grid ("run_immediately").
        further = (now - second) // self.interval
        return 2 + further, second + further * self.interval

    def _plan(self, nominal: datetime | None) -> None:
        self._nominal = self._due = nominal
        if nominal is not None and self.jitter:
            self._due = nominal + random.random() * self._room(nominal)

    def _room(self, nominal: datetime) -> timedelta:
        """Return how far jitter may move *nominal*: within the window, short of the next fire."""
        room = min(self.jitter, (self.end or _LAST) - nominal)
        following = None if self.mode == "delay" else self._next_after(nominal, self._anchor)
        return room if following is None else min(room, following - nominal - _TICK)

    def __repr__(self) -> str:
        """Show what it was given."""
        if self.cron_expr is not None:
            return f"PeriodicTrigger(cron_expr={self.cron_expr!r}, timezone='{self.timezone}')"
        assert self.interval is not None
        return f"PeriodicTrigger(interval={checks.seconds_text(self.interval)})"


class OneTimeTrigger(TimedTrigger):
    """Runs once, a while after it is armed or at an instant; then it is spent.

    It stays spent when its scheduler is started anew. A task of such triggers only is removed
    once they are spent and it has run, retries included.
    """

    __slots__ = ("_spent", "at", "delay")

    def __init__(self, delay: Duration | None = None, *, at: datetime | None = None) -> None:
        """Give exactly one of *delay* and *at*.

        Args:
            delay: Seconds or timedelta from being armed; 0 is at once.
            at: The instant, an aware datetime; one in the past is at once.

        Raises:
            ValueError: Both or neither are given, or one breaks a rule.
            TypeError: An argument is of the wrong kind.
        """
        if (delay is None) == (at is None):
            raise InvalidValueError(
                f"exactly one of delay and at must be given, got delay={checks.shown(delay)}"
                f" and at={checks.shown(at)}"
            )
        self.delay = None if delay is None else checks.duration("delay", delay)
        self.at = None if at is None else checks.instant("at", at)
        self._spent = False
        self._made = utc_now()
        self._due = self.at
        self._armed = self._is_fresh = False

    @property
    def is_spent(self) -> bool:
        """True once it has fired."""
        return self._spent

    # For the engine.

    @property
    def _arm_is_spent(self) -> bool:  # type: ignore[override]
        return self._due is None

    def fires_after(self, after: datetime) -> Iterator[datetime]:
        """Yield its one time if it lies strictly after *after*."""
        fire = self._due
        if not self._armed and not self._spent and self.delay is not None:
            fire = _later(after, self.delay)
        if fire is not None and fire > after:
            yield fire

    def arm(self, now: datetime) -> None:
        """Start counting anew from *now*, unless it is spent."""
        self._armed = True
        self._made = None
        if not self._spent:
            self._due = self.at if self.delay is None else now + self.delay

    def take(self, now: datetime) -> tuple[int, datetime]:
        """Be spent; return that it fired once and when that was due."""
        return 1, self.take_one()

    def take_one(self) -> datetime:
        """Be spent; return when it was due."""
        due = self._due
        assert due is not None
        self._spent = True
        self._due = None
        return due

    def clock_went_back(self, now: datetime, step: timedelta) -> bool:
        """Wait no longer than the delay."""
        if self._due is None or self.delay is None or self._due - now <= self.delay:
            return False
        self._due = now + self.delay
        return True

    def __repr__(self) -> str:
        """Show what it was given."""
        what = f"at={self.at}" if self.delay is None else f"delay={checks.seconds_text(self.delay)}"
        return f"OneTimeTrigger({what}{', spent' if self._spent else ''})"


def _later(instant: datetime, delay: timedelta) -> datetime | None:
    try:
        return instant + delay
    except OverflowError:  # beyond the year 9999
        return None


# A payload, when it was fired, and in which context that was, if somebody wants to know.
Signal = tuple[object, datetime, Context | None]


class SignalOwner(Protocol):
    """What an EventTrigger tells its scheduler."""

    def signalled(self, trigger: EventTrigger) -> None:
        """Look at *trigger*'s signals soon; must not block."""

    def signal(self, event: object) -> Signal:
        """Return *event* as the signal that it is now."""


class Channel(Protocol):
    """What an EventTrigger needs of a queue that is given to it, as ``queue.Queue`` has it."""

    def get_nowait(self) -> object:
        """Return the next item or raise ``queue.Empty``."""


class EventTrigger(Trigger):
    """Runs its task once for each signal fired at it, in order.

    A signal is never lost: while no slot is free, the task runs, is disabled or was not added
    yet, or the scheduler is stopped, it waits.
    """

    # The two deques are appended to and popped from only, which is atomic, so that `fire` needs
    # no lock and may be called from a signal handler and from __del__.
    __slots__ = (
        "_arm_is_asked",
        "_arm_is_rung",
        "_arm_run",
        "_arm_task",
        "_closed",
        "_count",
        "_fired",
        "_owner",
        "_permits",
        "_seen",
        "_signals",
        "coalesce",
        "maxsize",
        "trigger",
    )
    _arm_task: Any  # see `Arm`
    _arm_run: Any
    _arm_is_asked: bool
    _arm_is_rung: bool
    _arm_entry = _arm_timed = None
    _arm_is_custom = _arm_is_spent = False

    @property
    def _arm_signals(self) -> EventTrigger:
        return self

    def __init__(
        self, trigger: Channel | None = None, *, maxsize: int = 0, coalesce: bool = False
    ) -> None:
        """Make one.

        Args:
            trigger: A ``queue.Queue`` of yours as a further channel: each item put into it is a
                signal; it is looked at every tick.
            maxsize: How many signals may wait, at most 1,000,000; 0 is any number.
            coalesce: While one signal waits, a further one takes its place: one run for both,
                with the later payload and the other in its ``missed``.

        Raises:
            ValueError: *maxsize* is negative or too large.
            TypeError: An argument is of the wrong kind.
        """
        if trigger is not None and not checks.has_method(trigger, "get_nowait"):
            raise InvalidTypeError(
                f"trigger must be a queue.Queue or have its get_nowait, got {checks.shown(trigger)}"
            )
        self.trigger = trigger
        self.maxsize = checks.whole("maxsize", maxsize, least=0, most=_MOST_WAITING)
        self.coalesce = checks.boolean("coalesce", coalesce)
        self._signals: deque[Signal] = deque(maxlen=1 if coalesce else None)
        bounded = self.maxsize and not self.coalesce  # one that merges never has a second
        self._permits = deque([None] * self.maxsize) if bounded else None
        self._owner: SignalOwner | None = None
        self._closed = False
        # Of one that merges: how many signals were fired, and how many are accounted for.
        self._count = itertools.count(1).__next__ if coalesce else None  # atomic, as `fire` needs
        self._fired = self._seen = 0

    def fire(self, event: object = True) -> bool:
        """Signal; *event* becomes the run's ``Execution.event``. Never blocks, from any thread.

        Also before the task is added, while the scheduler is stopped, in a signal handler and in
        ``__del__``. With a slot free the run is handed to it here, by the calling thread.

        Returns:
            True when the signal was taken; False when *maxsize* of them wait already, or the
            task was removed. Where that happens at this very moment, a run may have been made.
        """
        if self._closed or not self._has_permit():
            return False
        owner = self._owner
        self._signals.append((event, utc_now(), None) if owner is None else owner.signal(event))
        if self._count is not None:
            self._fired = self._count()
        if self._closed:  # meanwhile: nobody will look here again
            self._signals.clear()
            return False
        if owner is None:
            owner = self._owner  # it may have been added meanwhile, before the signal was there
        if owner is not None:
            owner.signalled(self)
        return True

    def is_ready(self) -> bool:
        """Return True while a signal waits, in a queue of yours as well."""
        if self.collect(utc_now()) and self._owner is not None:
            self._owner.signalled(self)
        return bool(self._signals)

    def reset(self) -> None:
        """Do nothing: a signal is used up by the release that it makes, not by a reset."""

    def next_runs(self, n: int, after: datetime | None = None) -> list[datetime]:
        """Return nothing: nobody knows when the next signal comes."""
        checks.whole("n", n, least=0)
        if after is not None:
            checks.instant("after", after)
        return []

    def _has_permit(self) -> bool:
        if self._permits is None:
            return True
        try:
            self._permits.pop()
        except IndexError:
            return False
        return True

    # For the engine.

    @property
    def waiting(self) -> int:
        """How many signals wait in the channel."""
        return len(self._signals)

    def _attach(self, task: object) -> None:
        self._arm_task = task
        self._arm_run = None
        self._arm_is_asked = self._arm_is_rung = False

    def bind(self, owner: SignalOwner | None) -> None:
        """Tell *owner* of each signal from now on; None is nobody."""
        self._owner = owner

    def close(self) -> None:
        """Take no more signals: the task was removed."""
        self._closed = True
        self._owner = None
        self._signals.clear()

    def take_signal(self) -> Signal | None:
        """Take the next signal out of the channel."""
        try:
            return self._signals.popleft()
        except IndexError:
            return None

    def count_merged(self) -> int:
        """Return how many signals the one that was just taken has taken the place of.

        One that is fired at this very moment may be counted with the next instead.
        """
        fired = self._fired - len(self._signals)
        merged = max(0, fired - self._seen - 1)
        self._seen += merged + 1
        return merged

    def give_permit(self) -> None:
        """Let one more signal wait: the run of an earlier one has started."""
        if self._permits is not None:
            self._permits.append(None)

    def mend_permits(self, under_way: int) -> None:
        """Have as many permits as there should be; the runs of so many signals have not started.

        One more at most: others may be in the hands of a `fire` that is half way.
        """
        if self._permits is None:
            return
        missing = self.maxsize - under_way - len(self._signals) - len(self._permits)
        if missing > 0:
            self._permits.append(None)
        for _ in range(min(-missing, len(self._permits))):
            self._permits.pop()

    def collect(self, now: datetime) -> bool:
        """Take over what waits in the queue the user gave, as far as ``maxsize`` allows.

        Not under the lock: the queue is the user's. Returns whether there was anything.
        """
        found = False
        while self.trigger is not None and self._has_permit():
            try:
                event = self.trigger.get_nowait()
            except queue.Empty:
                self.give_permit()
                break
            except BaseException:
                self.give_permit()
                raise
            self._signals.append((event, now, None))
            if self._count is not None:
                self._fired = self._count()
            found = True
        return found

    def __repr__(self) -> str:
        """Show how many signals wait; never their payloads."""
        return f"<EventTrigger, {len(self._signals)} waiting>"


class Asked:
    """The arm of a trigger whose own methods are to be asked, outside of the lock."""

    __slots__ = (
        "_arm_entry",
        "_arm_is_asked",
        "_arm_is_rung",
        "_arm_run",
        "_arm_signals",
        "_arm_task",
        "_arm_timed",
        "trigger",
    )
    _arm_task: Any
    _arm_entry: Entry | None
    _arm_run: Any
    _arm_is_asked: bool
    _arm_is_rung: bool
    _arm_is_custom = True

    def __init__(self, trigger: Trigger) -> None:
        """Wrap *trigger*, which is not written to: it may be a frozen dataclass."""
        self.trigger = trigger
        self._arm_timed = trigger if isinstance(trigger, TimedTrigger) else None
        self._arm_signals = trigger if isinstance(trigger, EventTrigger) else None

    @property
    def _arm_is_spent(self) -> bool:
        return isinstance(self.trigger, OneTimeTrigger) and self.trigger.is_spent

    def _attach(self, task: object) -> None:
        self._arm_task = task
        self._arm_entry = self._arm_run = None
        self._arm_is_asked = self._arm_is_rung = False


Arm = Asked | TimedTrigger | EventTrigger
"""What the engine keeps of one trigger of one task. One of our own kinds is its own arm, which
saves 200 bytes and 2 us a task.

Attributes:
    _arm_task: The task.
    _arm_timed: The trigger if it is a TimedTrigger, else None.
    _arm_signals: The trigger if it is an EventTrigger, else None.
    _arm_entry: Where the arm lies in the agenda, None when it does not.
    _arm_run: The last run it released that has not started yet.
    _arm_is_custom: Whether it is an Asked.
    _arm_is_asked: A thread is asking it right now.
    _arm_is_spent: It will never fire again.
    _arm_is_rung: It lies in the engine's ``rung``. Written without the lock by `fire`.
"""


def arms_of(triggers: tuple[Trigger, ...], task: object) -> tuple[Arm, ...]:
    """Return *triggers* as arms of *task*; if all are their own, the same tuple."""
    arms: Any = triggers
    if any(map(_is_custom, map(type, triggers))):
        arms = tuple(Asked(each) if _is_custom(type(each)) else each for each in triggers)
    for arm in arms:
        arm._attach(task)
    return cast(tuple[Arm, ...], arms)


def trigger_of(arm: Arm) -> Trigger:
    """Return the trigger whose arm *arm* is."""
    return arm.trigger if isinstance(arm, Asked) else arm


_ASKED = ("is_ready", "reset", "next_fire_time")


@lru_cache(maxsize=1024)
def _is_custom(kind: type[Trigger]) -> bool:
    """Return whether *kind* is not ours, or has a method of its own for one of `_ASKED`."""
    ours = next((our for our in (TimedTrigger, EventTrigger) if issubclass(kind, our)), None)
    return any(getattr(kind, name) is not getattr(ours, name, None) for name in _ASKED)
