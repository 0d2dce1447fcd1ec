"""When a cron expression fires, found by looking at every minute: slow, short, and on its own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_BACK = 8 * 60  # minutes; Vostok went back seven hours in 1994, no other zone more
_BEGIN = datetime(1990, 1, 1, tzinfo=timezone.utc)
_WEEKS = [_BEGIN + timedelta(weeks=week) for week in range(48 * 52)]  # no zone changed twice in one


class Rule:
    """What an expression of five fields, or of six with the second first, names.

    Attributes:
        seconds: The seconds of a minute it names, in order.
        is_wildcard: Its minute or hour field starts with ``*``, or its hours are all of them.
    """

    def __init__(self, expression: str) -> None:
        """Read *expression*: numbers, ranges, steps and lists, no names."""
        second, minute, hour, day, month, weekday = ["0", *expression.split()][-6:]
        self.seconds = sorted(values(second, 0, 59))
        self._minutes = values(minute, 0, 59)
        self._hours = values(hour, 0, 23)
        self._days = values(day, 1, 31)
        self._months = values(month, 1, 12)
        self._weekdays = {value % 7 for value in values(weekday, 0, 6)}
        self._either_day = day != "*" and weekday != "*"
        self.is_wildcard = minute[0] == "*" or hour[0] == "*" or len(self._hours) == 24

    def names(self, wall: datetime) -> bool:
        """Return whether it names this minute of a clock on the wall."""
        return (
            wall.minute in self._minutes
            and wall.hour in self._hours
            and wall.month in self._months
            and self._names_day_of(wall)
        )

    def _names_day_of(self, wall: datetime) -> bool:
        day, weekday = wall.day in self._days, wall.isoweekday() % 7 in self._weekdays
        return (day or weekday) if self._either_day else (day and weekday)


def values(field: str, low: int, high: int) -> set[int]:
    """Return the numbers from *low* to *high* that *field* names."""
    return {value for term in field.split(",") for value in _values_of(term, low, high)}


def _values_of(term: str, low: int, high: int) -> Iterable[int]:
    span, _, step = term.partition("/")
    if span == "*":
        return range(low, high + 1, int(step or 1))
    first, _, last = span.partition("-")
    end = int(last or (high if step else first))
    return range(int(first), end + 1, int(step or 1))


def first_fire(expression: str, zone: str, start: datetime, until: datetime) -> datetime | None:
    """Return the first fire in (*start*, *until*], None when there is none; all are in UTC."""
    rule, place = Rule(expression), ZoneInfo(zone)
    minute = start.replace(second=0, microsecond=0)
    latest = max(_wall(minute - back * _MINUTE, place) for back in range(1, _BACK))
    while minute <= until:
        wall = _wall(minute, place)
        for fire in _fires(rule, minute, wall, latest):
            if start < fire <= until:
                return fire
        latest = max(latest, wall)
        minute += _MINUTE
    return None


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def _fires(rule: Rule, minute: datetime, wall: datetime, latest: datetime) -> list[datetime]:
    """Return the fires in *minute*, when the wall shows *wall* and has shown *latest* at most."""
    if wall <= latest and not rule.is_wildcard:
        return []
    fires = [minute + at * _SECOND for at in rule.seconds] if rule.names(wall) else []
    if wall - latest > _MINUTE and not rule.is_wildcard and _swallowed(rule, latest, wall):
        return [minute, *fires]
    return fires


def _swallowed(rule: Rule, latest: datetime, wall: datetime) -> bool:
    """Return whether *rule* names a minute between the two, which no clock has shown."""
    missing = (wall - latest) // _MINUTE
    return any(rule.names(latest + ahead * _MINUTE) for ahead in range(1, missing))


@cache
def changes(zone: str) -> list[datetime]:
    """Return the instants from 1990 to 2037 at which *zone* takes another offset from UTC."""
    place = ZoneInfo(zone)
    offsets = [week.astimezone(place).utcoffset() for week in _WEEKS]
    return [
        _change_between(early, late, place)
        for (early, before), (late, after) in pairwise(zip(_WEEKS, offsets, strict=True))
        if before != after
    ]


def _change_between(early: datetime, late: datetime, zone: ZoneInfo) -> datetime:
    before = early.astimezone(zone).utcoffset()
    while late - early > _SECOND:
        middle = early + (late - early) // _SECOND // 2 * _SECOND
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late


def goes_back(change: datetime, zone: str) -> bool:
    """Return whether the clocks of *zone* go back at *change*, and a time of day is repeated."""
    place = ZoneInfo(zone)
    return _wall(change, place) <= _wall(change - _SECOND, place)
