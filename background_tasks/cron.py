"""A cron expression in a time zone: "the first instant strictly after t".

croniter reads the expression and is shown naive local seconds only; the step from wall clock to
UTC and the daylight-saving rule are here. So none of croniter's own time-zone code runs, which
repeats fixed jobs, invents runs after a gap, can walk a gap for seconds, and hangs when frozen
time loses ``fold``.

The daylight-saving rule is that of Debian's cron. A *wildcard* expression, whose minute or hour
field starts with ``*`` or whose hours are all twenty-four, follows the clock on the wall: it runs
in both passes of a repeated hour and has nothing to make up for a skipped one. Any other is
*fixed* and runs once for each time it names: right after the gap if the gap swallowed that time,
and in the first pass only of a repeated hour.

In New York the clocks go forward from 02:00 to 03:00, where ``30 2 * * *`` runs at 03:00 EDT, and
back from 02:00 to 01:00, where ``30 1 * * *`` runs at 01:30 EDT only and ``30 * * * *`` at 01:30
EST as well. On Lord Howe Island it is half an hour: ``15 2 * * *`` runs at 02:30+11:00 when 02:00
becomes 02:30; when 02:00 becomes 01:30, ``45 1 * * *`` runs at 01:45+11:00 only and
``45 * * * *`` at 01:45+10:30 as well.

Source: cron(8) of Debian.
"""

from __future__ import annotations

import os
import re
import threading
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

from background_tasks.checks import seconds, shown, text
from background_tasks.errors import CronExpressionError, InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from croniter import croniter

__all__ = ["CronSchedule", "every", "renew_locks", "schedule_of", "zone_of"]

_UTC = ZoneInfo("UTC")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - of the clock on a wall, wherever it hangs
_UTC_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECOND = timedelta(seconds=1)
_NEVER = datetime.max.replace(tzinfo=timezone.utc)
_COUNTED = 1000  # fires; as many as a task may catch up on
_LONGEST = 256  # characters; lists of 100,000 elements cost croniter seconds
_YEARS_AHEAD = 150  # croniter's search; its default of 50 calls a year field of 2099 impossible
_CALENDARS = 28  # years, which hold the fourteen kinds of year there are
_PROBE = 946684799.0  # just before 2000-01-01; of the years a field can name 1970 to 1999 are past
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELD_NAMES = {
    5: ("minute", "hour", "day", "month", "weekday"),
    6: ("second", "minute", "hour", "day", "month", "weekday"),
    7: ("second", "minute", "hour", "day", "month", "weekday", "year"),
}
_MONTHS = dict(zip(("jan", "feb", "mar", "apr", "may", "jun"), range(1, 7), strict=True))
_MONTHS |= dict(zip(("jul", "aug", "sep", "oct", "nov", "dec"), range(7, 13), strict=True))
_WEEKDAYS = dict(zip(("sun", "mon", "tue", "wed", "thu", "fri", "sat"), range(7), strict=True))
_NAMES = {"month": _MONTHS, "weekday": _WEEKDAYS}
_FIELD = re.compile(r"[0-9A-Za-z*/,\-?#]+")
_RANGE = re.compile(r"([0-9]+|[A-Za-z]{3})-([0-9]+|[A-Za-z]{3})(/[0-9]+)?")
_EVERY_ONE = re.compile(r"\*/0*1")
_ZONE_PREFIX = re.compile(r"(?:CRON_)?TZ=(\S*)\s+(.*)", re.DOTALL)
_EVERY = re.compile(r"@every\s+(\S+)")
_EVERY_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MICRO = str.maketrans("µμ", "uu")  # the sign and the letter, as in Go
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


def zone_of(timezone_: object) -> ZoneInfo:
    """Return a time zone given by name or as a ZoneInfo.

    Raises:
        ValueError: No zone has that name.
        TypeError: It is neither.
    """
    if isinstance(timezone_, ZoneInfo):
        return timezone_
    if not isinstance(timezone_, str):
        raise InvalidTypeError(
            f"timezone must be a name such as 'Europe/Berlin' or a ZoneInfo, got {shown(timezone_)}"
        )
    try:
        return ZoneInfo(timezone_)
    except (LookupError, ValueError, OSError):  # OSError: the name of a folder, such as "America"
        raise InvalidValueError(
            f"timezone must be the name of a time zone, got {shown(timezone_)}"
        ) from None


def every(expression: str) -> float | None:
    """Return the seconds of ``@every 1h30m``, None for an expression of another kind.

    Raises:
        CronExpressionError: It starts with ``@every`` and goes on wrongly.
    """
    _, rest = _split(expression, _UTC)
    if not rest.startswith("@every"):
        return None
    match = _EVERY.fullmatch(rest)
    parts = _EVERY_PART.findall(match.group(1)) if match else []
    if not match or "".join(number + unit for number, unit in parts) != match.group(1):
        raise _error(expression, "after @every a duration such as 90s or 1h30m is expected")
    try:
        return seconds(
            "the duration", sum(float(number) * _UNITS[unit] for number, unit in parts), least=0.001
        )
    except InvalidValueError as error:
        raise _error(expression, str(error)) from None


class CronSchedule:
    """One expression in one zone. Safe to share between threads; nothing of it changes.

    Attributes:
        is_wildcard: Which of the two daylight-saving rules of this module it follows.
    """

    # _lock guards _croniter, which writes each search's start into itself, and the memo.
    __slots__ = ("__weakref__", "_croniter", "_lock", "_memo", "_passed", "_zone", "is_wildcard")

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        """Read *expression*: 5 fields, 6 with seconds first, or 7 with the year last, too.

        Raises:
            CronExpressionError: It is malformed, or no date can ever match it.
        """
        zone, fields = _read(expression, zone)
        self._zone = zone
        self._lock = threading.Lock()
        self._memo: tuple[datetime, datetime | None] | None = None
        self._passed: tuple[datetime, int, datetime, datetime] | None = None
        self._croniter, hours = _parsed(expression, fields)
        minute = len(fields) > 5
        self.is_wildcard = (
            fields[minute].startswith("*") or fields[minute + 1].startswith("*") or hours >= 24
        )
        _schedules[id(self)] = self

    def forked(self) -> None:
        """In a forked child: the thread that held the lock, if any, is not there."""
        self._lock = threading.Lock()

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first fire strictly after *instant*, in UTC; None when there is none left.

        Both instants are aware; one before 1970 counts as 1970. Costs about 0.1 ms; the last
        answer is remembered, so that many tasks that share an expression pay once.
        """
        instant = max(instant, _UTC_EPOCH)  # croniter looks 150 years ahead, not further
        with self._lock:
            memo = self._memo
            if memo is not None and memo[0] <= instant and (memo[1] is None or instant < memo[1]):
                return memo[1]
            # datetime arithmetic of our own: a frozen clock's would lose `fold`.
            try:
                at = self._next((instant - _UTC_EPOCH) / _SECOND)
            except (ValueError, OverflowError):  # croniter found no further date
                due = None
            else:
                due = _UTC_EPOCH + at * _SECOND
            self._memo = (instant, due)
            return due

    def passed(self, due: datetime, now: datetime) -> tuple[int, datetime]:
        """Return how many fires lie in [due, now], and the last of them; *due* is a fire.

        Counts 1,000 at most, at 0.1 ms each; beyond that the last is looked for in ever longer
        spans before *now*.
        """
        with self._lock:
            memo = self._passed
        if memo is not None and memo[0] == due and memo[2] <= now < memo[3]:
            return memo[1], memo[2]
        count, last, following = 1, due, self.next_after(due)
        while following is not None and following <= now and count < _COUNTED:
            count, last, following = count + 1, following, self.next_after(following)
        if following is not None and following <= now:
            last, following = self._last_before(now)
        with self._lock:
            self._passed = (due, count, last, following or _NEVER)
        return count, last

    def _last_before(self, now: datetime) -> tuple[datetime, datetime | None]:
        """Return the last fire at or before *now* and the one after it; there is one."""
        span = _SECOND
        while not self._fires_within(now - span, now):
            span *= 2
        early, late = now - span, now  # a fire lies after the first, none after the second
        while late - early > _SECOND:
            middle = early + (late - early) / 2
            if self._fires_within(middle, now):
                early = middle
            else:
                late = middle
        return self.next_after(early) or now, self.next_after(now)

    def _fires_within(self, after: datetime, until: datetime) -> bool:
        fire = self.next_after(after)
        return fire is not None and fire <= until

    # Below, times are float seconds: `instant` since the epoch, `local` the same for the clock on
    # the wall read as if it were UTC. `first` and `second` are the UTC offsets of a wall time
    # before and after a change: first < second in a gap, first > second in an overlap.

    def _next(self, instant: float) -> float:
        local = instant + self._offset_at(instant)
        found = self._first_from(self._match_after(local), instant)
        return self._earlier_in_second_pass(instant, local, found) if self.is_wildcard else found

    def _first_from(self, match: float, instant: float) -> float:
        """Return the first instant after *instant* that wall time *match* or a later one means."""
        while True:
            first, second = self._offsets(match)
            if first < second:  # the wall clock jumped over it
                end = self._change_between(match - second - 1, match - first)
                if not self.is_wildcard:
                    return end
                match = self._match_after(end + second - 1e-3)
            elif match - first > instant:
                return match - first
            elif self.is_wildcard and match - second > instant:
                return match - second
            else:  # a fixed time whose first pass has gone: skip the rest of the overlap
                end = self._change_between(match - first - 1, match - second + 1)
                match = self._match_after(max(match, end + first - 1e-3))

    def _earlier_in_second_pass(self, instant: float, local: float, found: float) -> float:
        """Return *found*, or a match in the second pass of the hour that *instant* is first in."""
        first, second = self._offsets(local)
        if first <= second or self._offset_at(instant) != first:
            return found
        # From the overlap on: up to seven hours of seconds may lie before it.
        change = self._change_between(instant, local - second + 1)
        match = self._match_after(change + second - 1e-3)
        return min(found, match - second) if match <= local else found

    def _match_after(self, local: float) -> float:
        return float(self._croniter.get_next(float, start_time=local))

    def _offset_at(self, instant: float) -> float:
        naive = _EPOCH + instant * _SECOND
        local = self._zone.fromutc(naive.replace(tzinfo=self._zone))
        return (local.replace(tzinfo=None) - naive) / _SECOND

    def _offsets(self, local: float) -> tuple[float, float]:
        wall = (_EPOCH + local * _SECOND).replace(tzinfo=self._zone)
        first, second = wall.utcoffset(), wall.replace(fold=1).utcoffset()
        assert first is not None and second is not None  # noqa: PT018 - a ZoneInfo has both
        return first / _SECOND, second / _SECOND

    def _change_between(self, before: float, after: float) -> float:
        """Return the first whole second in (before, after] at which the offset is another."""
        low, high = int(before), int(after)
        offset = self._offset_at(low)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset_at(middle) == offset:
                low = middle
            else:
                high = middle
        return float(high)


_schedules: WeakValueDictionary[int, CronSchedule] = WeakValueDictionary()


def renew_locks() -> None:
    """Do away with locks that threads held which a forked child does not have."""
    for schedule in list(_schedules.values()):
        schedule.forked()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows does not fork
    os.register_at_fork(after_in_child=renew_locks)


@lru_cache(maxsize=1024)
def schedule_of(expression: str, zone: ZoneInfo) -> CronSchedule:
    """Return the one CronSchedule of *expression* in *zone*; all tasks that name it share it."""
    return CronSchedule(expression, zone)


def _read(expression: object, zone: ZoneInfo) -> tuple[ZoneInfo, list[str]]:
    """Return the zone and the fields of *expression*, in a form croniter reads as cron would."""
    written = text("cron_expr", expression)
    zone, rest = _split(written, zone)
    if rest.startswith("@"):
        if rest not in _ALIASES:
            raise _error(written, f"{shown(rest)} is none of {', '.join(_ALIASES)} or @every")
        rest = _ALIASES[rest]
    fields = rest.split()
    if len(fields) not in _FIELD_NAMES:
        raise _error(written, f"5, 6 or 7 fields are expected, not {len(fields)}")
    names = _FIELD_NAMES[len(fields)]
    return zone, [_field(written, *each) for each in zip(names, fields, strict=True)]


def _split(written: str, zone: ZoneInfo) -> tuple[ZoneInfo, str]:
    """Return the zone that *written* is in, *zone* if it names none, and the rest of it."""
    if len(written) > _LONGEST:
        raise _error(written[:20] + "...", f"it has more than {_LONGEST} characters")
    # Digits and blanks of other scripts look like what they are not.
    if not written.translate(_MICRO).isascii():
        raise _error(written, "it has characters that are not ASCII")
    rest = written.strip()
    prefix = _ZONE_PREFIX.fullmatch(rest)
    if not prefix:
        return zone, rest
    try:
        return zone_of(prefix.group(1)), prefix.group(2).strip()
    except InvalidValueError as error:
        raise _error(written, str(error)) from None


def _field(expression: str, name: str, field: str) -> str:
    if not _FIELD.fullmatch(field):
        raise _error(expression, f"the {name} field cannot be {shown(field)}")
    terms = [_term(expression, name, term) for term in field.split(",")]
    return "*" if "*" in terms else ",".join(terms)


def _term(expression: str, name: str, term: str) -> str:
    if term[:1] in {"h", "H", "r", "R"}:  # croniter's hashed and random terms
        raise _error(expression, f"the {name} field cannot be {shown(term)}")
    match = _RANGE.fullmatch(term)
    if match:
        names = _NAMES.get(name, {})
        first, last = (
            int(end) if end.isdigit() else names.get(end.lower()) for end in match.group(1, 2)
        )
        if first is not None and last is not None:
            if first > last:
                raise _error(expression, f"the {name} field has the reversed range {shown(term)}")
            if first == last and _is_step(match.group(3)):
                return match.group(1)  # croniter reads 5-5 as the whole cycle
    return "*" if _EVERY_ONE.fullmatch(term) else term  # croniter ORs */1 with the other day field


def _is_step(step: str | None) -> bool:
    return step is None or int(step[1:]) > 0


def _parsed(expression: str, fields: list[str]) -> tuple[croniter, int]:
    """Return the croniter of *fields* and how many hours of a day it names."""
    from croniter import CroniterBadDateError  # optional at import: it costs 50 ms

    try:
        # Days that never come are told in 28 years for a fifth of what 150 cost; a year needs all.
        parsed = _croniter(fields[:6], _CALENDARS)
        parsed.get_next(float, start_time=_PROBE)
        parsed = _croniter(fields, _YEARS_AHEAD)
        if len(fields) == 7:
            parsed.get_next(float, start_time=_PROBE)
    except CroniterBadDateError:
        raise _error(expression, "no date can ever match it") from None
    except (ValueError, OverflowError, KeyError) as error:
        raise _error(expression, _at_fault(fields) or str(error)) from None
    hours = parsed.expanded[1]
    return parsed, 24 if hours == ["*"] else len(hours)


def _croniter(fields: list[str], years: int) -> croniter:
    """Return the croniter of *fields*, which looks so many years ahead."""
    from croniter import croniter

    return croniter(
        " ".join(fields),
        0.0,
        ret_type=float,
        second_at_beginning=True,
        max_years_between_matches=years,
    )


def _at_fault(fields: list[str]) -> str:
    """Return which field croniter refuses on its own, "" when it is no single one."""
    names = _FIELD_NAMES[len(fields)]
    refused = (
        f"the {name} field cannot be {shown(field)}"
        for position, (name, field) in enumerate(zip(names, fields, strict=True))
        if not _is_good_alone(position, field, len(fields))
    )
    return next(refused, "")


def _is_good_alone(position: int, field: str, count: int) -> bool:
    alone = ["*"] * count
    alone[position] = field
    try:
        _croniter(alone, _YEARS_AHEAD)
    except (ValueError, OverflowError, KeyError):
        return False
    return True


def _error(expression: str, why: str) -> CronExpressionError:
    return CronExpressionError(
        f"cron_expr must be a cron expression, got {shown(expression)}: {why}",
        expression=expression,
    )
