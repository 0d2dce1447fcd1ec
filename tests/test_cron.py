"""Cron expressions: the table of cases, daylight saving, what was passed, and what is refused."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from freezegun import freeze_time
from hypothesis import example, given
from hypothesis import strategies as st

from background_tasks import BackgroundTasksError, CronExpressionError, PeriodicTrigger
from background_tasks.cron import CronSchedule, every, schedule_of, zone_of
from background_tasks.errors import InvalidTypeError, InvalidValueError
from tests.cron_table import INVALID, TABLE, VALID, Row, instant

UTC = ZoneInfo("UTC")
NEW_YORK = ZoneInfo("America/New_York")


def _fires(expr: str, start: str, n: int, zone: str = "America/New_York") -> list[datetime]:
    trigger = PeriodicTrigger(cron_expr=expr, timezone=zone)
    return trigger.next_runs(n, after=instant(start))


def test_the_whole_table_is_here() -> None:
    """No row is lost on the way into the tests."""
    assert (len(TABLE), len(VALID), len(INVALID)) == (209, 151, 58)


@pytest.mark.parametrize("row", VALID)
def test_a_row_of_the_table(row: Row) -> None:
    """The next times are the instants of the table."""
    trigger = PeriodicTrigger(cron_expr=row.expr, timezone=row.zone)

    assert trigger.next_runs(len(row.expected), after=row.start) == row.expected


@pytest.mark.parametrize("row", VALID)
def test_a_row_of_the_table_in_frozen_time(row: Row) -> None:
    """Time frozen in a repeated hour, where the frozen clock loses ``fold``, changes nothing."""
    with freeze_time("2025-11-02T05:30:00Z"):
        trigger = PeriodicTrigger(cron_expr=row.expr, timezone=row.zone)

        assert trigger.next_runs(len(row.expected), after=row.start) == row.expected


@pytest.mark.parametrize("expr", INVALID)
def test_an_invalid_row_of_the_table(expr: str) -> None:
    """It is refused when the trigger is made, not when it should run."""
    with pytest.raises(ValueError, match="cron_expr must be a cron expression, got ") as caught:
        PeriodicTrigger(cron_expr=expr)

    assert isinstance(caught.value, CronExpressionError)


@pytest.mark.parametrize(
    ("expr", "start", "expected"),
    [
        pytest.param(
            "30 2 * * *",
            "2025-03-08T12:00:00-05:00",
            ["2025-03-09T03:00:00-04:00", "2025-03-10T02:30:00-04:00"],
            id="fixed, swallowed by the gap: once, right after it",
        ),
        pytest.param(
            "0,30 2 * * *",
            "2025-03-08T12:00:00-05:00",
            ["2025-03-09T03:00:00-04:00", "2025-03-10T02:00:00-04:00"],
            id="fixed, two swallowed: one run stands for both",
        ),
        pytest.param(
            "50 * * * *",
            "2025-11-02T01:10:00-04:00",
            ["2025-11-02T01:50:00-04:00", "2025-11-02T01:50:00-05:00"],
            id="wildcard, still ahead in the first pass: both passes",
        ),
        pytest.param(
            "30 1 * * *",
            "2025-11-01T12:00:00-04:00",
            ["2025-11-02T01:30:00-04:00", "2025-11-03T01:30:00-05:00"],
            id="fixed, repeated: once, in the first pass",
        ),
        pytest.param(
            "30 1 * * *",
            "2025-11-02T01:15:00-05:00",
            ["2025-11-03T01:30:00-05:00"],
            id="fixed, asked in the second pass: the next day",
        ),
        pytest.param(
            "30 1,2 * * *",
            "2025-11-02T01:15:00-05:00",
            ["2025-11-02T02:30:00-05:00"],
            id="fixed, asked in the second pass: right after it",
        ),
        pytest.param(
            "30 * * * *",
            "2025-11-02T00:45:00-04:00",
            [
                "2025-11-02T01:30:00-04:00",
                "2025-11-02T01:30:00-05:00",
                "2025-11-02T02:30:00-05:00",
            ],
            id="wildcard hour: both passes",
        ),
        pytest.param(
            "30 0-23 * * *",
            "2025-11-02T00:45:00-04:00",
            ["2025-11-02T01:30:00-04:00", "2025-11-02T01:30:00-05:00"],
            id="all twenty-four hours: both passes",
        ),
        pytest.param(
            "*/30 2 * * *",
            "2025-03-08T12:00:00-05:00",
            ["2025-03-10T02:00:00-04:00"],
            id="wildcard minute: nothing to make up for a skipped hour",
        ),
    ],
)
def test_daylight_saving(expr: str, start: str, expected: list[str]) -> None:
    """The rule of Debian's cron, by the examples of the module's docstring."""
    fires = [instant(fire) for fire in expected]

    assert _fires(expr, start, len(fires)) == fires


README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
CHANGES = re.findall(r"\| `(.+?)` \| (\w+/\w+), (\d{4}-\d\d-\d\d): .* \| (.+) \|\n", README)


@pytest.mark.parametrize(("expr", "zone", "day", "times"), CHANGES)
def test_a_row_of_the_readme(expr: str, zone: str, day: str, times: str) -> None:
    """What the README says of a day on which clocks change, all the runs from one to four."""
    place = ZoneInfo(zone)
    begin = datetime.fromisoformat(f"{day} 01:00").replace(tzinfo=place)
    end = begin.replace(hour=4).astimezone(timezone.utc)
    trigger = PeriodicTrigger(cron_expr=expr, timezone=zone)

    fires = trigger.next_runs(9, begin - timedelta(seconds=1))

    early = [fire.astimezone(place) for fire in fires if fire < end]
    assert [fire.isoformat("T", "minutes")[11:] for fire in early] == times.split(", ")


def test_the_readme_has_rows_of_two_zones() -> None:
    """The pattern finds the table."""
    assert {zone for _, zone, *_ in CHANGES} == {"America/New_York", "Australia/Lord_Howe"}
    assert len(CHANGES) == 6


@pytest.mark.parametrize(
    ("expr", "is_wildcard"),
    [
        ("* 5 * * *", True),
        ("*/7 5 * * *", True),
        ("5 * * * *", True),
        ("5 */2 * * *", True),
        ("5 0-23 * * *", True),
        ("5 5 * * *", False),
        ("0-59 5 * * *", False),
        ("5 0-22 * * *", False),
        ("* 5 5 * * *", False),
        ("5 * 5 * * *", True),
        ("5 5 * * * * *", True),
        ("@hourly", True),
        ("@daily", False),
    ],
)
def test_which_expressions_are_wildcards(expr: str, is_wildcard: bool) -> None:
    """A minute or hour field that starts with ``*``, or all hours, makes one; seconds do not."""
    assert CronSchedule(expr, UTC).is_wildcard is is_wildcard


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2026-01-15T09:59:59.999999+00:00", "2026-01-15T10:00:00+00:00"),
        ("2026-01-15T10:00:00+00:00", "2026-01-15T11:00:00+00:00"),
        ("2026-01-15T10:00:00.000001+00:00", "2026-01-15T11:00:00+00:00"),
        ("2026-01-15T15:00:00+05:00", "2026-01-15T11:00:00+00:00"),
    ],
)
def test_strictly_after(start: str, expected: str) -> None:
    """A fire at the instant itself is not after it, to the microsecond."""
    assert CronSchedule("0 * * * *", UTC).next_after(instant(start)) == instant(expected)


def test_the_answer_is_in_utc() -> None:
    """Whatever the zone of the schedule and of the question."""
    fire = CronSchedule("0 9 * * *", NEW_YORK).next_after(instant("2026-01-15T13:00:00+05:30"))

    assert fire is not None
    assert fire.isoformat() == "2026-01-15T14:00:00+00:00"


@pytest.mark.parametrize(
    "starts",
    [
        pytest.param(["2026-01-15T10:30:00+00:00"] * 2, id="the same again"),
        pytest.param(["2026-01-15T10:10:00+00:00", "2026-01-15T10:30:00+00:00"], id="later"),
        pytest.param(["2026-01-15T10:30:00+00:00", "2026-01-15T10:10:00+00:00"], id="earlier"),
        pytest.param(["2026-01-15T12:00:00+00:00", "2026-01-15T10:30:00+00:00"], id="back"),
        pytest.param(["2026-01-15T07:00:00+00:00", "2026-01-15T10:30:00+00:00"], id="far ahead"),
    ],
)
def test_an_answer_does_not_depend_on_earlier_questions(starts: list[str]) -> None:
    """A schedule that many share answers each as if it were asked for the first time."""
    schedule = CronSchedule("0 * * * *", UTC)

    answers = [schedule.next_after(instant(start)) for start in starts]

    assert answers[-1] == instant("2026-01-15T11:00:00+00:00")


@pytest.mark.parametrize(
    ("expr", "early", "expected"),
    [
        pytest.param(
            "17 4 * * *",
            datetime.min.replace(tzinfo=timezone.utc),
            "2026-01-15T09:17:00+00:00",
            id="before the first local day",
        ),
        pytest.param(
            "0 0 0 1 1 * 2037",
            datetime(1800, 1, 1, tzinfo=timezone.utc),
            "2037-01-01T05:00:00+00:00",
            id="centuries before the year field",
        ),
    ],
)
def test_a_question_about_the_distant_past_does_no_harm(
    expr: str, early: datetime, expected: str
) -> None:
    """Whatever it answers to that, later questions are answered right."""
    schedule = CronSchedule(expr, NEW_YORK)

    schedule.next_after(early)

    assert schedule.next_after(instant("2026-01-15T00:00:00-05:00")) == instant(expected)


def test_the_year_field_is_found_from_the_distant_past() -> None:
    """None would say that there is no fire left, and there is."""
    early = datetime(1800, 1, 1, tzinfo=timezone.utc)

    fire = CronSchedule("0 0 0 1 1 * 2037", UTC).next_after(early)

    assert fire == datetime(2037, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("expr", "after"),
    [
        pytest.param("0 0 0 1 1 * 2027", "2027-01-01T00:00:00+00:00", id="last year passed"),
        pytest.param("0 0 0 1 1 * 2027", "2050-01-01T00:00:00+00:00", id="long ago"),
        pytest.param("0 0 0 29 2 * 2024-2030", "2028-03-01T00:00:00+00:00", id="no leap year left"),
        pytest.param("0 0 * * *", "9999-12-31T23:59:59.999999+00:00", id="end of the calendar"),
    ],
)
def test_nothing_is_left(expr: str, after: str) -> None:
    """An expression whose years are over gives None, and its trigger an empty list."""
    assert CronSchedule(expr, UTC).next_after(instant(after)) is None
    assert _fires(expr, after, 3, "UTC") == []


def test_fewer_are_left_than_asked_for() -> None:
    """A year field that runs out ends the list."""
    assert _fires("0 0 0 1 7 * 2027,2028", "2026-01-01T00:00:00+00:00", 5, "UTC") == [
        datetime(2027, 7, 1, tzinfo=timezone.utc),
        datetime(2028, 7, 1, tzinfo=timezone.utc),
    ]


def test_a_trigger_whose_years_are_over_is_never_due() -> None:
    """It is accepted, since the expression is well formed, and stays silent."""
    trigger = PeriodicTrigger(cron_expr="0 0 0 1 1 * 2020")

    assert trigger.next_fire_time() is None
    assert not trigger.is_ready()


@pytest.mark.parametrize(
    ("expr", "due", "now", "expected"),
    [
        pytest.param(
            "0 * * * *", "2026-01-15T10:00:00", "2026-01-15T10:00:00", (1, "2026-01-15T10:00:00"),
            id="at its time",
        ),
        pytest.param(
            "0 * * * *", "2026-01-15T10:00:00", "2026-01-15T10:59:59.999999",
            (1, "2026-01-15T10:00:00"),
            id="just before the next",
        ),
        pytest.param(
            "0 * * * *", "2026-01-15T10:00:00", "2026-01-15T11:00:00", (2, "2026-01-15T11:00:00"),
            id="at the next",
        ),
        pytest.param(
            "0 * * * *", "2026-01-15T10:00:00", "2026-01-17T15:30:00", (54, "2026-01-17T15:00:00"),
            id="two days",
        ),
        pytest.param(
            "* * * * *", "2026-01-15T00:00:00", "2026-01-15T16:39:00",
            (1000, "2026-01-15T16:39:00"),
            id="exactly a thousand",
        ),
        pytest.param(
            "* * * * *", "2026-01-15T00:00:00", "2026-01-15T16:40:00",
            (1000, "2026-01-15T16:40:00"),
            id="one more than is counted",
        ),
        pytest.param(
            "* * * * *", "2026-01-15T00:00:00", "2027-03-01T12:00:30",
            (1000, "2027-03-01T12:00:00"),
            id="a year",
        ),
        pytest.param(
            "* 0 1 1 *", "2000-01-01T00:00:00", "2026-06-01T00:00:00",
            (1000, "2026-01-01T00:59:00"),
            id="the last one months ago",
        ),
        pytest.param(
            "0 0 0 1 1 * 2027", "2027-01-01T00:00:00", "2030-01-01T00:00:00",
            (1, "2027-01-01T00:00:00"),
            id="the only one",
        ),
        pytest.param(
            "0 * * * * * 2027", "2027-01-01T00:00:00", "2028-06-01T00:00:00",
            (1000, "2027-12-31T23:59:00"),
            id="a thousand and the years are over",
        ),
    ],
)  # fmt: skip
def test_what_was_passed(expr: str, due: str, now: str, expected: tuple[int, str]) -> None:
    """How many fires lie in [due, now], a thousand at most, and the last of them."""
    count, last = CronSchedule(expr, UTC).passed(instant(f"{due}+00:00"), instant(f"{now}+00:00"))

    assert (count, last.isoformat()) == (expected[0], f"{expected[1]}+00:00")


class Asked(CronSchedule):
    """A schedule that counts how often it was asked for the next fire."""

    __slots__ = ("questions",)
    questions: int

    def next_after(self, instant: datetime) -> datetime | None:
        """Count, and answer."""
        self.questions += 1
        return super().next_after(instant)


def test_the_last_fire_is_found_with_few_questions() -> None:
    """Each second of Monday, on Sunday: a thousand are counted, the rest is not walked through."""
    schedule = Asked("* * * * * 1", UTC)
    schedule.questions = 0

    count, last = schedule.passed(
        instant("2026-01-12T00:00:00+00:00"), instant("2026-01-18T12:00:00+00:00")
    )

    assert (count, last) == (1000, instant("2026-01-12T23:59:59+00:00"))
    assert schedule.questions < 1200


def test_what_was_passed_over_a_repeated_hour() -> None:
    """Both passes are counted for a wildcard: 00:30, 01:30 twice, 02:30 and 03:30."""
    schedule = CronSchedule("30 * * * *", NEW_YORK)

    count, last = schedule.passed(
        instant("2025-11-02T00:30:00-04:00"), instant("2025-11-02T03:45:00-05:00")
    )

    assert (count, last) == (5, instant("2025-11-02T03:30:00-05:00"))


@pytest.mark.parametrize(
    ("due", "now", "expected"),
    [
        pytest.param("10:00:00", "12:45:00", (3, "12:00:00"), id="the same span"),
        pytest.param("10:00:00", "13:00:00", (4, "13:00:00"), id="the next one has come"),
        pytest.param("10:00:00", "11:30:00", (2, "11:00:00"), id="the clock went back"),
        pytest.param("11:00:00", "12:30:00", (2, "12:00:00"), id="from another one"),
    ],
)
def test_what_was_passed_does_not_depend_on_earlier_questions(
    due: str, now: str, expected: tuple[int, str]
) -> None:
    """A remembered answer is given only to a question it answers."""
    schedule = CronSchedule("0 * * * *", UTC)
    schedule.passed(instant("2026-01-15T10:00:00+00:00"), instant("2026-01-15T12:30:00+00:00"))

    count, last = schedule.passed(
        instant(f"2026-01-15T{due}+00:00"), instant(f"2026-01-15T{now}+00:00")
    )

    assert (count, f"{last:%H:%M:%S}") == expected


def test_one_schedule_is_shared() -> None:
    """All that name an expression in a zone share one schedule; another zone has its own."""
    schedule = schedule_of("12 3 * * *", NEW_YORK)

    assert schedule_of("12 3 * * *", ZoneInfo("America/New_York")) is schedule
    assert schedule_of("12 3 * * *", UTC) is not schedule
    first, second = (PeriodicTrigger(cron_expr="12 3 * * *", timezone=NEW_YORK) for _ in range(2))
    assert first._schedule is second._schedule is schedule


@pytest.mark.parametrize(
    ("expr", "field"),
    [
        ("60 * * * *", "the minute field cannot be '60'"),
        ("a * * * *", "the minute field cannot be 'a'"),
        ("*/0 * * * *", "the minute field cannot be '*/0'"),
        ("5-5/0 * * * *", "the minute field cannot be '5-5/0'"),
        ("R * * * *", "the minute field cannot be 'R'"),
        ("5,h * * * *", "the minute field cannot be 'h'"),
        ("$ * * * *", "the minute field cannot be '$'"),
        ("50-10 * * * *", "the minute field has the reversed range '50-10'"),
        ("* 24 * * *", "the hour field cannot be '24'"),
        ("* 22-2 * * *", "the hour field has the reversed range '22-2'"),
        ("* * 0 * *", "the day field cannot be '0'"),
        ("* * L-3 * *", "the day field cannot be 'L-3'"),
        ("* * * 13 *", "the month field cannot be '13'"),
        ("* * * january *", "the month field cannot be 'january'"),
        ("* * * abc-5 *", "the month field cannot be 'abc-5'"),
        ("* * * nov-feb *", "the month field has the reversed range 'nov-feb'"),
        ("* * * * 8", "the weekday field cannot be '8'"),
        ("* * * * 1,5#3", "the weekday field cannot be '1,5#3'"),
        ("* * * * fri-mon", "the weekday field has the reversed range 'fri-mon'"),
        ("60 * * * * *", "the second field cannot be '60'"),
        ("* 60 * * * *", "the minute field cannot be '60'"),
        ("* * * * * 8", "the weekday field cannot be '8'"),
        ("0 0 0 1 1 * 1969", "the year field cannot be '1969'"),
        ("0 0 0 1 1 * 2100", "the year field cannot be '2100'"),
        ("0 0 30 2 *", "no date can ever match it"),
        ("0 0 1 * 5#3", "no date can ever match it"),
        ("* * * *", "5, 6 or 7 fields are expected, not 4"),
        ("* * * * * * * *", "5, 6 or 7 fields are expected, not 8"),
        ("@reboot", "'@reboot' is none of @yearly, "),
        ("TZ=Mars/Base * * * * *", "timezone must be the name of a time zone, got 'Mars/Base'"),
        ("@every 1h30", "after @every a duration such as 90s or 1h30m is expected"),
        ("@every", "after @every a duration such as 90s or 1h30m is expected"),
        ("@every -5s", "after @every a duration such as 90s or 1h30m is expected"),
    ],
)
def test_the_message_names_what_is_wrong(expr: str, field: str) -> None:
    """The message quotes the expression and names the field; the error carries the expression."""
    with pytest.raises(CronExpressionError) as caught:
        PeriodicTrigger(cron_expr=expr)

    assert repr(expr) in str(caught.value)
    assert field in str(caught.value)
    assert caught.value.expression == expr


@pytest.mark.parametrize(
    "expr",
    [
        pytest.param("\u0665 * * * *", id="Arabic digit"),
        pytest.param("\uff10 \uff10 * * *", id="full-width digits"),
        pytest.param("0\u00a00\u00a0*\u00a0*\u00a0*", id="no-break spaces"),
        pytest.param("0\u30000\u3000*\u3000*\u3000*", id="ideographic spaces"),
        pytest.param("@every\u00a01h", id="no-break space after @every"),
    ],
)
def test_ascii_only(expr: str) -> None:
    """Digits and blanks of other scripts are refused: nobody can see that they are there."""
    with pytest.raises(CronExpressionError):
        PeriodicTrigger(cron_expr=expr)


def test_an_expression_may_have_256_characters() -> None:
    """One more is refused, before croniter spends seconds on it; the message is short."""
    PeriodicTrigger(cron_expr=f"{'0,' * 123}00 * * * *")

    with pytest.raises(CronExpressionError, match="it has more than 256 characters") as caught:
        PeriodicTrigger(cron_expr=f"{'0,' * 123}000 * * * *")

    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("expr", "seconds"),
    [
        ("@every 90s", 90.0),
        ("@every 1h30m", 5400.0),
        ("@every 1.5h", 5400.0),
        ("@every .5m", 30.0),
        ("@every 250ms", 0.25),
        ("@every 1s500000us", 1.5),
        ("@every 1s500000µs", 1.5),
        ("@every 2500000000ns", 2.5),
        ("  @every   10s ", 10.0),
    ],
)
def test_every(expr: str, seconds: float) -> None:
    """``@every`` takes a duration as Go writes it."""
    assert every(expr) == pytest.approx(seconds)


@pytest.mark.parametrize("expr", ["* * * * *", "@daily", ""])
def test_another_kind_of_expression_is_no_interval(expr: str) -> None:
    """Whether it is a cron expression is for others to say."""
    assert every(expr) is None


@pytest.mark.parametrize("expr", ["@every 0s", "@every 0.5ms", "@every 9999999999h"])
def test_every_within_bounds(expr: str) -> None:
    """A duration no interval may have is an error of the expression, which it names."""
    with pytest.raises(CronExpressionError) as caught:
        PeriodicTrigger(cron_expr=expr)

    assert caught.value.expression == expr


def test_a_zone_prefix_may_stand_before_every() -> None:
    """It changes nothing about a duration, but the expression is good, as in Go."""
    trigger = PeriodicTrigger(cron_expr="CRON_TZ=Asia/Tokyo @every 1h30m")

    assert trigger.interval == timedelta(minutes=90)


@pytest.mark.parametrize("day", ["*", "?", "*/1", "*/01", "1-9,*", "*/1,5"])
def test_a_day_field_of_all_days_restricts_nothing(day: str) -> None:
    """However it is written, only the weekday field counts beside it: the Sundays."""
    fires = _fires(f"0 0 {day} * 0", "2026-01-15T00:00:00+00:00", 2, "UTC")

    assert fires == [instant("2026-01-18T00:00:00+00:00"), instant("2026-01-25T00:00:00+00:00")]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC"])
def test_a_zone_by_name_or_as_an_object(zone: str) -> None:
    """Both name the same zone."""
    assert zone_of(zone) is zone_of(ZoneInfo(zone)) is ZoneInfo(zone)


@pytest.mark.parametrize(
    "zone",
    ["", "Mars/Base", "America", "../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, "\ud800"],
    ids=["empty", "unknown", "folder", "above", "absolute", "nul", "too long", "surrogate"],
)
def test_what_is_no_zone_is_refused(zone: str) -> None:
    """Whatever the system says about such a file, it is a ValueError."""
    with pytest.raises(InvalidValueError, match="timezone must be the name of a time zone, got"):
        zone_of(zone)


@pytest.mark.parametrize("zone", [None, 1, timezone.utc, timedelta(hours=1)])
def test_a_zone_of_another_kind_is_refused(zone: object) -> None:
    """A fixed offset has no daylight saving and no name: it is not guessed at."""
    with pytest.raises(InvalidTypeError, match="timezone must be a name such as"):
        zone_of(zone)


@given(st.text(alphabet="0123456789*/,-?#LWjanmonHR@ \t", max_size=30))
@example("* * * * * *")
@example("0 0 L * *")
def test_any_text_is_a_schedule_or_refused(expr: str) -> None:
    """No text makes another error than ours, and no schedule a fire that is not ahead."""
    try:
        schedule = CronSchedule(expr, NEW_YORK)
    except BackgroundTasksError:
        return
    start = datetime(2025, 11, 2, 5, 30, tzinfo=timezone.utc)
    fire = schedule.next_after(start)
    assert fire is None or fire > start
