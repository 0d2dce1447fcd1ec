"""Cron expressions in every time zone: against a scan of every minute, and what they cost."""

from __future__ import annotations

import calendar
import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import cycle, islice
from random import Random
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import pytest
import time_machine
from croniter import croniter

from background_tasks import CronExpressionError, PeriodicTrigger
from background_tasks.cron import CronSchedule
from tests.cron_oracle import Rule, changes, first_fire, goes_back, values
from tests.cron_table import VALID, Row, instant

CASES = int(os.environ.get("ZONES_CASES", "300"))
SEED = "cron in every zone"
SPAN = timedelta(hours=36)  # what is scanned after each start
ZONES = sorted(available_timezones())

# What an expression may cost in steps of croniter (see Meter). Nothing a user types should hold a
# thread for more than 50 ms; a step takes 5 to 16 µs, so that these are 32 ms at most. The dearest
# below, the 31st of months that have 30 days, takes 1,219: two for each month of 150 years.
MOST_STEPS = 2000
AS_LONG_AS_MAY_BE = [
    f"{'0,' * 123}00 * * * *",
    f"{'0-59,' * 49}0 * * * *",
    f"{'0-58/2,' * 35}0 * * * *",
    f"0 0 0 1 1 * {'1970-2099,' * 23}2000",
    f"* * * * * * {'1970-2099,' * 23}2100",
    f"{'0-5,' * 60}99 * * * *",
    f"* * * * {','.join(f'{day}#{nth}' for day in range(7) for nth in range(1, 6))}",
]
SELDOM = [
    "0 0 29 2 *",
    "0 0 29 2 1",
    "0 0 29 2 1#5",
    "0 0 29 2 L1",
    "0 0 29W 2 *",
    "0 0 31 12 1#5",
    "0 0 0 29 2 * 2096",
    "59 59 23 L 2 * 2099",
]
NEVER = [
    "0 0 30 2 *",
    "0 0 31 4,6,9,11 *",
    "0 0 31 2 1#5",
    "0 0 0 30 2 * 1970-2099",
    "0 0 0 29 2 * 2001-2003",
    "0 0 0 1 1 * 2020",
    "99 99 99 99 99",
]
OFTEN = [
    "* * * * * *",
    "*/10 * * * * *",
    "59 * * * * *",
    "* 30 2 * * *",
    "* 1-59 0-22 * * *",
    "*/5 * * * *",
    "* * 30 * *",
    "* * * 30 12 *",
]


@pytest.mark.parametrize("row", VALID)
def test_a_row_of_the_table_by_a_clock_set_to_its_start(row: Row) -> None:
    """The next times are the instants of the table when it is *start* by the clock."""
    with time_machine.travel(row.start, tick=False):
        trigger = PeriodicTrigger(cron_expr=row.expr, timezone=row.zone)

        assert trigger.next_runs(len(row.expected), after=row.start) == row.expected


@pytest.mark.parametrize("minutes", [-10, 10], ids=["first pass", "second pass"])
@pytest.mark.parametrize("row", VALID)
def test_a_row_of_the_table_in_a_repeated_hour_of_its_zone(row: Row, minutes: int) -> None:
    """The next times are the same when a time of day is repeated right now, and right here."""
    with time_machine.travel(_repeated(row.zone) + timedelta(minutes=minutes), tick=False):
        trigger = PeriodicTrigger(cron_expr=row.expr, timezone=row.zone)

        assert trigger.next_runs(len(row.expected), after=row.start) == row.expected


def _repeated(zone: str) -> datetime:
    """Return when the clocks of *zone* last go back, those of New York if its own never do."""
    back = [change for change in changes(zone) if goes_back(change, zone)]
    return back[-1].astimezone(ZoneInfo(zone)) if back else _repeated("America/New_York")


@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        pytest.param(
            "30 2 * * *", "America/New_York",
            "2025-03-08T12:00:00-05:00", "2025-03-09T03:00:00-04:00",
            id="fixed, swallowed",
        ),
        pytest.param(
            "*/30 2 * * *", "America/New_York",
            "2025-03-08T12:00:00-05:00", "2025-03-10T02:00:00-04:00",
            id="wildcard, swallowed",
        ),
        pytest.param(
            "30 1 * * *", "America/New_York",
            "2025-11-02T01:30:00-04:00", "2025-11-03T01:30:00-05:00",
            id="fixed, repeated",
        ),
        pytest.param(
            "30 0-23 * * *", "America/New_York",
            "2025-11-02T01:30:00-04:00", "2025-11-02T01:30:00-05:00",
            id="all hours, repeated",
        ),
        pytest.param(
            "*/20 * * * *", "Australia/Lord_Howe",
            "2025-04-06T01:40:00+11:00", "2025-04-06T01:40:00+10:30",
            id="wildcard, half an hour repeated",
        ),
        pytest.param(
            "15 2 * * *", "Australia/Lord_Howe",
            "2024-10-05T22:30:00+10:30", "2024-10-06T02:30:00+11:00",
            id="fixed, half an hour swallowed",
        ),
        pytest.param(
            "0 3 * * *", "Pacific/Chatham",
            "2024-09-29T01:45:00+12:45", "2024-09-29T03:45:00+13:45",
            id="fixed, swallowed at a quarter to three",
        ),
        pytest.param(
            "0 * * * *", "Pacific/Chatham",
            "2024-09-29T02:00:00+12:45", "2024-09-29T04:00:00+13:45",
            id="wildcard, swallowed at a quarter to three",
        ),
        pytest.param(
            "30 1 * * *", "Antarctica/Troll",
            "2025-10-26T01:30:00+02:00", "2025-10-27T01:30:00+00:00",
            id="fixed, two hours repeated",
        ),
        pytest.param(
            "0 12 30 * *", "Pacific/Apia",
            "2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00",
            id="fixed, a day swallowed",
        ),
        pytest.param(
            "0,30 59 1 * * *", "America/New_York",
            "2025-11-02T01:59:00-04:00", "2025-11-02T01:59:30-04:00",
            id="seconds",
        ),
        pytest.param(
            "0 12 18 * 5", "UTC", "2026-01-15T00:00:00+00:00", "2026-01-16T12:00:00+00:00",
            id="either day field",
        ),
        pytest.param(
            "0 12 */17 * *", "UTC", "2026-01-15T00:00:00+00:00", "2026-01-18T12:00:00+00:00",
            id="the whole span, its end included",
        ),
        pytest.param(
            "0 12 19 * *", "UTC", "2026-01-15T00:00:00+00:00", None, id="none within the span"
        ),
    ],
)  # fmt: skip
def test_the_scan_of_every_minute(
    expression: str, zone: str, start: str, expected: str | None
) -> None:
    """What the expressions are held against below is itself held against the calendar."""
    begin = instant(start).astimezone(timezone.utc)

    fire = first_fire(expression, zone, begin, begin + timedelta(days=3, hours=12))

    assert fire == (expected and instant(expected))


class Case(NamedTuple):
    """An expression in a zone and a start near *change*, where the clocks of the zone change."""

    expression: str
    zone: str
    change: datetime
    start: datetime


def _cases(count: int) -> Iterator[Case]:
    """Yield so many cases, the same each time; the zones take turns."""
    names = ZONES.copy()
    Random(SEED).shuffle(names)
    turns = (name for name in cycle(names) if changes(name))
    for number, name in enumerate(islice(turns, count)):
        yield _case(Random(f"{SEED} {name} {number}"), name)


def _case(rand: Random, zone: str) -> Case:
    change = rand.choice(changes(zone))
    start = change + rand.choice([_far, _near, _sharp])(rand)
    return Case(_expression(rand, change.astimezone(ZoneInfo(zone))), zone, change, start)


def _far(rand: Random) -> timedelta:
    return timedelta(seconds=rand.uniform(-1.5, 1.5) * 86400)


def _near(rand: Random) -> timedelta:
    return timedelta(seconds=rand.randint(-4 * 3600, 4 * 3600))


def _sharp(rand: Random) -> timedelta:
    return timedelta(minutes=rand.randint(-9, 9) * 15, microseconds=rand.randint(-1, 1))


def _expression(rand: Random, wall: datetime) -> str:
    """Return an expression that is likely to name times near *wall*."""
    hour, day = (wall.hour + rand.randint(-3, 2)) % 24, wall.day + rand.randint(-1, 1)
    month = _field(rand, 0.8, 1, 12, wall.month)
    fields = [
        _field(rand, 0.2, 0, 59, rand.choice([0, 15, 30, wall.minute])),
        "0-23" if rand.random() < 0.1 else _field(rand, 0.3, 0, 23, hour),
        _day_field(rand, 1, 31 if month == "*" else 28, day),
        month,
        _day_field(rand, 0, 6, wall.isoweekday() % 7),
    ]
    return " ".join([_field(rand, 0.3, 0, 59, 30), *fields] if rand.random() < 0.1 else fields)


def _day_field(rand: Random, low: int, high: int, near: int) -> str:
    """Return a field of days; a list of all days is avoided, since crons disagree on it."""
    field = _field(rand, 0.6, low, high, near)
    return "*" if len(values(field, low, high)) > high - low else field


def _field(rand: Random, stars: float, low: int, high: int, near: int) -> str:
    """Return a field: ``*`` in the share *stars* of all, and else a list of one to three terms."""
    if rand.random() < stars:
        return "*"
    terms = (_term(rand, low, high, near) for _ in range(rand.choice([1, 1, 2, 3])))
    return ",".join(terms)


def _term(rand: Random, low: int, high: int, near: int) -> str:
    first = min(max(near, low), high) if rand.random() < 0.6 else rand.randint(low, high)
    last, step = rand.randint(first, high), rand.randint(2, (high - low) // 2)
    spans = [f"{first}", f"{first}-{last}", f"{first}-{last}/{step}", f"{first}/{step}"]
    return rand.choice([*spans, f"{first}", f"*/{step}"])


def test_the_next_fire_is_what_a_scan_of_every_minute_finds() -> None:
    """By the rule of the module's docstring; ZONES_CASES=20000 in the environment asks more."""
    for case in _cases(CASES):
        until = case.start + SPAN
        expected = first_fire(case.expression, case.zone, case.start, until)

        got = CronSchedule(case.expression, ZoneInfo(case.zone)).next_after(case.start)

        within = got if got is None or got <= until else None
        assert within == expected, (
            f"{case.expression!r} in {case.zone} after {case.start.isoformat()}: "
            f"expected {expected} (within {SPAN}), got {got}"
        )


def test_the_cases_are_of_every_kind() -> None:
    """Both kinds of expression, five fields and six, and clocks that go forward and back."""
    kinds = Counter(
        (Rule(case.expression).is_wildcard, goes_back(case.change, case.zone))
        for case in _cases(300)
    )
    lengths = Counter(len(case.expression.split()) for case in _cases(300))

    assert min(kinds.values()) >= 40, kinds
    assert (len(kinds), set(lengths)) == (4, {5, 6})


def test_a_long_run_visits_every_zone_that_has_a_change() -> None:
    """With as many cases as there are zones, each zone whose offset changes has had its turn."""
    changing = {name for name in ZONES if changes(name)}

    assert {case.zone for case in _cases(len(ZONES))} == changing
    assert len(changing) > 300


class Meter:
    """Counts the steps of croniter: what its work, and so its time, is made of."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.steps = 0

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return *function* as one that counts a step with each call."""

        def counted(*args: object, **kwargs: object) -> object:
            self.steps += 1
            return function(*args, **kwargs)

        return counted


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    """Return a Meter of values read, searches, moves of a search, and months laid out."""
    made, module = Meter(), importlib.import_module("croniter.croniter")
    monkeypatch.setattr(croniter, "value_alias", staticmethod(made.on(croniter.value_alias)))
    monkeypatch.setattr(croniter, "get_next", made.on(croniter.get_next))
    monkeypatch.setattr(module, "relativedelta", made.on(module.relativedelta))
    month_days = made.on(calendar.Calendar.monthdayscalendar)
    monkeypatch.setattr(calendar.Calendar, "monthdayscalendar", month_days)
    return made


@pytest.mark.parametrize(
    ("expression", "zone", "start"),
    [
        pytest.param(expression, zone, start, id=f"{expression[:24]} {zone} {start}")
        for zone, start, expressions in [
            ("UTC", "2026-01-15T00:00:00+00:00", AS_LONG_AS_MAY_BE),
            ("UTC", "2096-03-01T00:00:00+00:00", SELDOM),
            ("UTC", "2026-01-15T00:00:00+00:00", NEVER),
            ("America/New_York", "2025-03-09T06:59:59+00:00", OFTEN),
            ("America/New_York", "2025-11-02T06:00:00+00:00", OFTEN),
            ("Pacific/Apia", "2011-12-30T09:59:59+00:00", OFTEN),
            ("Pacific/Apia", "2011-12-29T12:00:00+00:00", ["0 12 30 12 *", "0 0 12 30 12 *"]),
            ("Antarctica/Troll", "2025-03-30T00:59:59+00:00", OFTEN),
            ("Antarctica/Troll", "2025-10-26T01:00:00+00:00", OFTEN),
            ("Antarctica/Casey", "2023-03-08T13:00:00+00:00", ["* 0 * * *"]),
            # Wildcards with seconds, hours before their second pass; 20,000 steps when walked.
            ("America/New_York", "2025-11-02T05:00:00+00:00", OFTEN),
            ("Antarctica/Troll", "2025-10-25T23:00:00+00:00", OFTEN),
            ("Antarctica/Casey", "2023-03-08T13:00:00+00:00", OFTEN),
            # Days that never come.
            ("UTC", "2026-01-15T00:00:00+00:00", ["0 0 1 * 5#3", "0 0 15W * 0", "0 0 1 * L5"]),
            ("America/New_York", "1970-01-01T00:00:00+00:00", ["0 0 0 31 12 * 2099"]),
        ]
        for expression in expressions
    ],
)
def test_no_expression_is_dear(meter: Meter, expression: str, zone: str, start: str) -> None:
    """Reading or refusing one and asking it once takes a bounded number of steps."""
    with suppress(CronExpressionError):
        CronSchedule(expression, ZoneInfo(zone)).next_after(instant(start))

    assert 0 < meter.steps <= MOST_STEPS
