"""When a task runs: the grid of an interval, jitter, windows, one time only, and events."""

from __future__ import annotations

import queue
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from background_tasks import (
    EventTrigger,
    OneTimeTrigger,
    PeriodicTrigger,
    Scheduler,
    Task,
    Trigger,
    trigger,
)
from background_tasks.trigger import Signal, TimedTrigger

ALMOST_ONE = 0.9999999999999999  # the largest number random.random() returns


def at(clock: str) -> datetime:
    """Return a time of one day, in UTC."""
    return datetime.fromisoformat(f"2026-01-15T{clock}+00:00")


def armed(made: TimedTrigger, clock: str) -> TimedTrigger:
    """Return *made*, armed at a time of that day."""
    made.arm(at(clock))
    return made


def draw(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Make every jitter that part of what is possible."""
    monkeypatch.setattr("background_tasks.trigger.random.random", lambda: value)


# The grid


def test_the_first_run_is_one_interval_after_arming() -> None:
    """Not at once."""
    assert armed(PeriodicTrigger(60), "10:00:00").due == at("10:01:00")


def test_a_late_run_moves_nothing() -> None:
    """The grid stays where it was laid: no drift, however late each run is taken."""
    made = armed(PeriodicTrigger(60), "10:00:00")

    taken = [made.take(at(late)) for late in ("10:01:00.250000", "10:02:59", "10:03:00")]

    assert taken == [(1, at("10:01:00")), (1, at("10:02:00")), (1, at("10:03:00"))]
    assert made.due == at("10:04:00")


def test_the_grid_of_a_short_interval_is_exact() -> None:
    """After an hour of 0.7 second steps nothing has been lost to rounding."""
    made = armed(PeriodicTrigger(0.7), "10:00:00")

    for _ in range(5142):
        made.take_one()

    assert made.due == at("11:00:00.100000")


@pytest.mark.parametrize(
    ("now", "expected", "due"),
    [
        pytest.param("10:01:00", (1, "10:01:00"), "10:02:00", id="on time"),
        pytest.param("10:01:59.999999", (1, "10:01:00"), "10:02:00", id="just before the second"),
        pytest.param("10:02:00", (2, "10:02:00"), "10:03:00", id="at the second"),
        pytest.param("13:30:30", (210, "13:30:00"), "13:31:00", id="hours later"),
    ],
)
def test_occurrences_that_were_missed_are_counted(
    now: str, expected: tuple[int, str], due: str
) -> None:
    """All up to now are used up at once: how many, and the last of them."""
    made = armed(PeriodicTrigger(60), "10:00:00")

    count, last = made.take(at(now))

    assert (count, last) == (expected[0], at(expected[1]))
    assert made.due == at(due)


def test_a_year_that_was_missed_is_counted_at_once() -> None:
    """A millisecond interval and a year: nothing is walked through."""
    made = armed(PeriodicTrigger(0.001), "10:00:00")

    count, _ = made.take(at("10:00:00") + timedelta(days=365))

    assert count == 365 * 24 * 3600 * 1000


def test_occurrences_one_by_one() -> None:
    """Each is used up alone, oldest first, whatever the time."""
    made = armed(PeriodicTrigger(60), "10:00:00")

    assert [made.take_one() for _ in range(3)] == [at("10:01:00"), at("10:02:00"), at("10:03:00")]
    assert made.due == at("10:04:00")


def test_an_interval_as_a_timedelta() -> None:
    """Both forms of a duration are accepted and kept as a timedelta."""
    assert PeriodicTrigger(timedelta(minutes=5)).interval == PeriodicTrigger(300).interval
    assert PeriodicTrigger(interval=300).interval == timedelta(minutes=5)


@pytest.mark.parametrize("cron_expr", ["@every 1m30s", "  @every 90s  "])
def test_every_is_an_interval(cron_expr: str) -> None:
    """``@every`` lies on a grid from arming, as an interval does."""
    assert armed(PeriodicTrigger(cron_expr=cron_expr), "10:00:00.500000").due == at(
        "10:01:30.500000"
    )


def test_arming_again_lays_the_grid_anew() -> None:
    """As a second start does."""
    made = armed(PeriodicTrigger(60), "10:00:00")

    made.arm(at("10:00:45"))

    assert made.due == at("10:01:45")


# Cron


def test_cron_times_that_were_missed_are_counted() -> None:
    """10:15, 10:30 and 10:45 have passed; the next is 11:00."""
    made = armed(PeriodicTrigger(cron_expr="*/15 * * * *"), "10:05:00")

    assert made.take(at("10:50:00")) == (3, at("10:45:00"))
    assert made.due == at("11:00:00")


def test_cron_times_one_by_one() -> None:
    """Each is used up alone, oldest first."""
    made = armed(PeriodicTrigger(cron_expr="*/15 * * * *"), "10:05:00")

    assert [made.take_one(), made.take_one()] == [at("10:15:00"), at("10:30:00")]
    assert made.due == at("10:45:00")


def test_the_zone_of_a_cron_expression() -> None:
    """09:00 in New York is 14:00 in UTC in January."""
    made = PeriodicTrigger(cron_expr="0 9 * * *", timezone="America/New_York")

    assert armed(made, "10:00:00").due == at("14:00:00")


def test_a_zone_prefix_wins() -> None:
    """The prefix of the expression stands above the argument."""
    made = PeriodicTrigger(
        cron_expr="CRON_TZ=Europe/Berlin 0 12 * * *", timezone=ZoneInfo("America/New_York")
    )

    assert armed(made, "10:00:00").due == at("11:00:00")


# At once


def test_run_immediately() -> None:
    """It is due when armed, and the grid lies as if it were not."""
    made = armed(PeriodicTrigger(60, run_immediately=True), "10:00:00")

    assert made.due == at("10:00:00")
    assert made.take(at("10:00:20")) == (1, at("10:00:00"))
    assert made.due == at("10:01:00")


def test_run_immediately_late() -> None:
    """The run at once and 10:01 and 10:02 have passed."""
    made = armed(PeriodicTrigger(60, run_immediately=True), "10:00:00")

    assert made.take(at("10:02:30")) == (3, at("10:02:00"))


def test_run_immediately_with_cron() -> None:
    """The run at once and 10:15 have passed."""
    made = armed(PeriodicTrigger(cron_expr="*/15 * * * *", run_immediately=True), "10:05:00")

    assert made.due == at("10:05:00")
    assert made.take(at("10:20:00")) == (2, at("10:15:00"))


def test_run_immediately_one_by_one() -> None:
    """First at once, then the grid."""
    made = armed(PeriodicTrigger(60, run_immediately=True), "10:00:00")

    assert [made.take_one(), made.take_one()] == [at("10:00:00"), at("10:01:00")]


# Delay: from the end of a run


def test_delay_counts_from_the_end_of_a_run() -> None:
    """While the run lasts it is not due; its end gives the next time."""
    made = armed(PeriodicTrigger(60, mode="delay"), "10:00:00")
    assert made.due == at("10:01:00")

    assert made.take(at("10:05:00")) == (1, at("10:01:00"))
    assert made.due is None

    assert made.ended(at("10:05:10"))
    assert made.due == at("10:06:10")


def test_delay_taken_alone() -> None:
    """Used up alone it waits for the end of the run as well."""
    made = armed(PeriodicTrigger(60, mode="delay"), "10:00:00")

    assert made.take_one() == at("10:01:00")
    assert made.due is None


def test_delay_is_planned_once() -> None:
    """The end of another run of the task does not move a time that is planned."""
    made = armed(PeriodicTrigger(60, mode="delay"), "10:00:00")

    assert not made.ended(at("10:00:30"))
    assert made.due == at("10:01:00")


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(PeriodicTrigger(60), id="rate"),
        pytest.param(PeriodicTrigger(cron_expr="* * * * *"), id="cron"),
        pytest.param(OneTimeTrigger(5), id="one time"),
    ],
)
def test_the_end_of_a_run_is_nothing_to_others(made: TimedTrigger) -> None:
    """Only the mode "delay" looks at it."""
    due = made.due

    assert not made.ended(at("10:05:00"))
    assert made.due == due


def test_delay_ends_with_the_window() -> None:
    """A next time after *end* is none."""
    made = armed(PeriodicTrigger(60, mode="delay", end=at("10:02:00")), "10:00:00")
    made.take(at("10:01:00"))

    assert not made.ended(at("10:01:01"))
    assert made.due is None


def test_delay_at_the_end_of_the_window() -> None:
    """A next time at *end* is one."""
    made = armed(PeriodicTrigger(60, mode="delay", end=at("10:02:00")), "10:00:00")
    made.take(at("10:01:00"))

    assert made.ended(at("10:01:00"))
    assert made.due == at("10:02:00")


def test_delay_shows_the_run_it_waits_for() -> None:
    """The next times begin with the one that is planned."""
    made = armed(PeriodicTrigger(60, mode="delay"), "10:00:00")

    assert made.next_runs(2, after=at("10:00:00")) == [at("10:01:00"), at("10:02:00")]


def test_delay_shows_runs_from_the_one_that_is_planned() -> None:
    """As if each ended at once."""
    made = armed(PeriodicTrigger(60, mode="delay"), "10:00:00")
    made.take(at("10:01:00"))
    made.ended(at("10:01:20"))

    assert made.next_runs(2, after=at("10:02:20")) == [at("10:03:20"), at("10:04:20")]


# Windows


@pytest.mark.parametrize(
    ("now", "due"),
    [
        pytest.param("09:00:00", "10:00:30", id="long before the start: at the start"),
        pytest.param("10:00:29.999999", "10:00:30", id="just before the start"),
        pytest.param("10:00:30", "10:01:30", id="at the start: strictly after"),
        pytest.param("10:01:00", "10:01:30", id="after the start: on its grid"),
    ],
)
def test_start_anchors_the_grid(now: str, due: str) -> None:
    """*start* is the first fire and lays the grid, whenever the trigger is armed."""
    assert armed(PeriodicTrigger(60, start=at("10:00:30")), now).due == at(due)


@pytest.mark.parametrize(
    ("start", "due"),
    [
        pytest.param("12:00:00", "12:00:00", id="at a fire"),
        pytest.param("12:00:00.000001", "13:00:00", id="just after a fire"),
        pytest.param("09:00:00", "11:00:00", id="past"),
    ],
)
def test_start_of_a_cron_expression(start: str, due: str) -> None:
    """No fire before it; one at the instant itself counts."""
    made = PeriodicTrigger(cron_expr="0 * * * *", start=at(start))

    assert armed(made, "10:30:00").due == at(due)


def test_start_of_a_delay() -> None:
    """A run that ended before it, since the clock was set back, is followed by one at *start*."""
    made = armed(PeriodicTrigger(60, mode="delay", start=at("09:00:00")), "10:00:00")
    made.take(at("10:01:00"))

    assert made.ended(at("08:00:10"))
    assert made.due == at("09:00:00")


@pytest.mark.parametrize(
    "what",
    [
        pytest.param({"interval": 60}, id="interval"),
        pytest.param({"cron_expr": "* * * * *"}, id="cron"),
    ],
)
def test_no_fire_after_the_end(what: dict[str, Any]) -> None:
    """The one at *end* is the last."""
    made = PeriodicTrigger(**what, end=at("10:02:00"))
    made.arm(at("10:00:00"))

    assert [made.take_one(), made.take_one()] == [at("10:01:00"), at("10:02:00")]
    assert made.due is None


@pytest.mark.parametrize(
    "what",
    [
        pytest.param({"interval": 60}, id="interval"),
        pytest.param({"cron_expr": "* * * * *"}, id="cron"),
    ],
)
def test_what_was_missed_ends_with_the_window(what: dict[str, Any]) -> None:
    """Only 10:01 and 10:02 were missed, however late it is now."""
    made = PeriodicTrigger(**what, end=at("10:02:00"))
    made.arm(at("10:00:00"))

    assert made.take(at("10:30:00")) == (2, at("10:02:00"))
    assert made.due is None


def test_a_window_of_one_instant() -> None:
    """*start* and *end* may be equal: there is one fire."""
    made = PeriodicTrigger(60, start=at("10:00:00"), end=at("10:00:00"))

    assert made.next_runs(3, after=at("09:00:00")) == [at("10:00:00")]


def test_a_window_that_is_over() -> None:
    """It is accepted and never due, not at once either."""
    made = armed(PeriodicTrigger(60, end=at("09:00:00"), run_immediately=True), "10:00:00")

    assert made.due is None


def test_no_fire_before_the_start() -> None:
    """Being run at once does not open the window earlier."""
    made = armed(PeriodicTrigger(60, start=at("12:00:00"), run_immediately=True), "10:00:00")

    assert made.due == at("12:00:00")


def test_run_immediately_inside_the_window() -> None:
    """Inside the window it runs at once, and then on the grid of *start*."""
    made = armed(PeriodicTrigger(60, start=at("09:00:30"), run_immediately=True), "10:00:00")

    assert [made.take_one(), made.take_one()] == [at("10:00:00"), at("10:00:30")]


# Jitter


@pytest.mark.parametrize(
    ("value", "due"),
    [
        pytest.param(0.0, "10:01:00", id="none of it"),
        pytest.param(0.5, "10:01:05", id="half of it"),
        pytest.param(ALMOST_ONE, "10:01:10", id="all of it"),
    ],
)
def test_jitter_is_added_to_a_fire(monkeypatch: pytest.MonkeyPatch, value: float, due: str) -> None:
    """Up to so many seconds are added, drawn evenly."""
    draw(monkeypatch, value)

    assert armed(PeriodicTrigger(60, jitter=10), "10:00:00").due == at(due)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param({"interval": 60}, id="interval"),
        pytest.param({"cron_expr": "* * * * *"}, id="cron"),
    ],
)
def test_jitter_never_reaches_the_next_fire(
    monkeypatch: pytest.MonkeyPatch, what: dict[str, Any]
) -> None:
    """However large it is, a fire stays before the following one."""
    draw(monkeypatch, ALMOST_ONE)
    made = PeriodicTrigger(**what, jitter=3600)
    made.arm(at("10:00:00"))

    assert made.due is not None
    assert at("10:01:59") < made.due < at("10:02:00")


def test_jitter_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fire has a draw of its own, and none moves the grid."""
    made = PeriodicTrigger(60, jitter=10)
    values = iter([0.5, 0.1, 0.9])
    monkeypatch.setattr("background_tasks.trigger.random.random", lambda: next(values))
    made.arm(at("10:00:00"))

    first = made.take(at("10:01:30"))
    second = made.take(at("10:02:30"))

    assert (first, second) == ((1, at("10:01:05")), (1, at("10:02:01")))
    assert made.due == at("10:03:09")


def test_jitter_merges_no_two_fires(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fire late by its jitter alone stands for itself only, though the next is near."""
    draw(monkeypatch, 0.5)
    made = armed(PeriodicTrigger(60, jitter=60), "10:00:00")
    assert made.due == at("10:01:30")

    assert made.take(at("10:02:10")) == (1, at("10:01:30"))
    assert made.due == at("10:02:30")


def test_jitter_and_missed_fires(monkeypatch: pytest.MonkeyPatch) -> None:
    """10:01:05, 10:02:05 and 10:03:05 have passed."""
    draw(monkeypatch, 0.5)
    made = armed(PeriodicTrigger(60, jitter=10), "10:00:00")

    assert made.take(at("10:03:30")) == (3, at("10:03:05"))


def test_jitter_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fire is where it was due, jitter included."""
    draw(monkeypatch, 0.5)
    made = armed(PeriodicTrigger(60, jitter=10), "10:00:00")

    assert [made.take_one(), made.take_one()] == [at("10:01:05"), at("10:02:05")]


def test_jitter_is_no_fire_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last fire is not moved out of the window."""
    draw(monkeypatch, 0.5)
    made = armed(PeriodicTrigger(60, jitter=10, end=at("10:01:00")), "10:00:00")

    assert made.due == at("10:01:00")


def test_jitter_of_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is added whole: in this mode there is no grid that would cut it."""
    draw(monkeypatch, 0.5)
    made = armed(PeriodicTrigger(60, mode="delay", jitter=30), "10:00:00")
    made.take(at("10:01:15"))

    made.ended(at("10:01:59"))

    assert made.due == at("10:03:14")


def test_jitter_is_left_out_of_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next times are those of the grid."""
    draw(monkeypatch, 0.5)
    made = armed(PeriodicTrigger(60, jitter=10), "10:00:00")

    assert made.next_runs(2, after=at("10:00:00")) == [at("10:01:00"), at("10:02:00")]


def test_run_immediately_has_no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once is at once."""
    draw(monkeypatch, 0.5)

    assert armed(PeriodicTrigger(60, jitter=10, run_immediately=True), "10:00:00").due == at(
        "10:00:00"
    )


# The next times, for people


TIMED = [
    pytest.param(lambda: PeriodicTrigger(60), id="interval"),
    pytest.param(lambda: PeriodicTrigger(60, mode="delay"), id="delay"),
    pytest.param(lambda: PeriodicTrigger(60, start=at("09:00:00")), id="start"),
    pytest.param(lambda: PeriodicTrigger(60, jitter=10), id="jitter"),
    pytest.param(lambda: PeriodicTrigger(cron_expr="* * * * *"), id="cron"),
    pytest.param(lambda: OneTimeTrigger(3600), id="delay once"),
    pytest.param(lambda: OneTimeTrigger(at=at("10:05:00")), id="at"),
]


@pytest.mark.parametrize("make", TIMED)
def test_next_runs_changes_nothing(make: Callable[[], TimedTrigger]) -> None:
    """Asked twice it says the same, and the due time stays."""
    made = armed(make(), "10:00:00")
    due = made.due

    first = made.next_runs(5, after=at("10:30:00"))

    assert made.next_runs(5, after=at("10:30:00")) == first
    assert made.due == due


@pytest.mark.parametrize("make", TIMED)
def test_next_runs_are_strictly_after(make: Callable[[], TimedTrigger]) -> None:
    """A run at the instant itself is not listed, and each lies after the one before."""
    made = armed(make(), "10:00:00")
    first = made.next_runs(1, after=at("10:00:00"))[0]

    later = made.next_runs(3, after=first)

    assert all(first < run for run in later)
    assert later == sorted(set(later))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_so_many_next_runs(n: int) -> None:
    """As many as asked for; none is fine too."""
    made = armed(PeriodicTrigger(60), "10:00:00")

    assert (
        made.next_runs(n, after=at("10:00:30"))
        == [
            at("10:01:00"),
            at("10:02:00"),
            at("10:03:00"),
        ][:n]
    )


def test_next_runs_from_now() -> None:
    """Without *after* they are those after the frozen now."""
    with freeze_time("2026-01-15T10:00:00Z"):
        assert PeriodicTrigger(60).next_runs(1) == [at("10:01:00")]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(PeriodicTrigger(60), ["12:01:30", "12:02:30"], id="interval"),
        pytest.param(PeriodicTrigger(cron_expr="@every 1m"), ["12:01:30", "12:02:30"], id="every"),
        pytest.param(PeriodicTrigger(60, mode="delay"), ["12:01:30", "12:02:30"], id="delay"),
        pytest.param(OneTimeTrigger(5), ["12:00:35"], id="delay once"),
        pytest.param(
            PeriodicTrigger(60, start=at("12:00:00")), ["12:01:00", "12:02:00"], id="start"
        ),
        pytest.param(
            PeriodicTrigger(60, start=at("13:00:00")), ["13:00:00", "13:01:00"], id="start ahead"
        ),
        pytest.param(OneTimeTrigger(at=at("12:10:00")), ["12:10:00"], id="at"),
        pytest.param(OneTimeTrigger(at=at("12:00:30")), [], id="at the instant itself"),
    ],
)
def test_next_runs_of_what_is_not_armed(made: TimedTrigger, expected: list[str]) -> None:
    """Durations count from *after*, instants stay where they are."""
    assert made.next_runs(2, after=at("12:00:30")) == [at(clock) for clock in expected]


def test_next_runs_of_what_is_armed() -> None:
    """They lie on its grid, also when asked about before it was armed."""
    made = armed(PeriodicTrigger(60), "10:00:30")

    assert made.next_runs(1, after=at("12:00:00")) == [at("12:00:30")]
    assert made.next_runs(1, after=at("08:00:00")) == [at("10:01:30")]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(datetime(2026, 1, 15, 11, tzinfo=ZoneInfo("Europe/Berlin")), id="Berlin"),
        pytest.param(datetime(2026, 1, 15, 5, tzinfo=ZoneInfo("America/New_York")), id="New York"),
    ],
)
def test_next_runs_after_an_instant_of_any_zone(after: datetime) -> None:
    """They are in UTC all the same."""
    (run,) = PeriodicTrigger(cron_expr="30 * * * *").next_runs(1, after=after)

    assert run == at("10:30:00")
    assert run.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(PeriodicTrigger(60), id="interval"),
        pytest.param(PeriodicTrigger(cron_expr="* * * * *"), id="cron"),
        pytest.param(OneTimeTrigger(5), id="delay once"),
    ],
)
def test_next_runs_at_the_end_of_the_calendar(made: TimedTrigger) -> None:
    """Fewer when fewer are left: none after the last instant there is."""
    assert made.next_runs(3, after=datetime.max.replace(tzinfo=timezone.utc)) == []


def test_next_runs_up_to_the_end_of_the_calendar() -> None:
    """A century from 2026 on, 79 times: the eightieth would be in the year 10026."""
    made = PeriodicTrigger(timedelta(days=36525))

    assert len(made.next_runs(100, after=at("10:00:00"))) == 79


def test_a_start_at_the_end_of_the_calendar() -> None:
    """The only fire is the last instant there is, with jitter too."""
    last = datetime.max.replace(tzinfo=timezone.utc)

    assert PeriodicTrigger(60, start=last, jitter=1).next_runs(2) == [last]


@given(
    interval=st.integers(1, 10**6),
    lag=st.integers(0, 10**8),
    late=st.integers(0, 10**6),
)
def test_what_is_taken_is_what_was_shown(interval: int, lag: int, late: int) -> None:
    """Together with the fires still shown, none is lost or taken twice."""
    made = armed(PeriodicTrigger(timedelta(milliseconds=interval)), "10:00:00")
    now = at("10:00:00") + timedelta(milliseconds=interval + lag, microseconds=late)
    following = made.next_runs(1, after=now)

    count, last = made.take(now)

    assert last == at("10:00:00") + count * timedelta(milliseconds=interval)
    assert last <= now
    assert [made.due] == following


# Alone, without a scheduler


def test_alone_an_interval_counts_from_its_construction() -> None:
    """is_ready says when; reset goes on to the next."""
    with freeze_time("2026-01-15T10:00:00Z") as frozen:
        made = PeriodicTrigger(60)
        assert not made.is_ready()
        assert made.next_fire_time() == at("10:01:00")

        frozen.tick(60)
        assert made.is_ready()
        made.reset()

        assert not made.is_ready()
        assert made.next_fire_time() == at("10:02:00")


def test_alone_a_late_reset_goes_past_what_was_missed() -> None:
    """The next time lies ahead and on the grid."""
    with freeze_time("2026-01-15T10:00:00Z") as frozen:
        made = PeriodicTrigger(60)

        frozen.tick(200)
        made.reset()

        assert made.next_fire_time() == at("10:04:00")


def test_alone_an_early_reset_starts_the_count() -> None:
    """The first one arms it; a later one changes nothing."""
    with freeze_time("2026-01-15T10:00:00Z") as frozen:
        made = PeriodicTrigger(60)
        frozen.tick(30)
        made.reset()
        assert made.next_fire_time() == at("10:01:30")

        frozen.tick(10)
        made.reset()

        assert made.next_fire_time() == at("10:01:30")


def test_alone_the_runs_that_are_shown_are_those_that_come() -> None:
    """After a reset the grid is laid, whoever laid it."""
    with freeze_time("2026-01-15T10:00:00Z") as frozen:
        made = PeriodicTrigger(60)
        frozen.tick(60)
        made.reset()
        frozen.tick(30)

        assert made.next_runs(1) == [made.next_fire_time()] == [at("10:02:00")]


def test_alone_a_cron_expression() -> None:
    """It is ready at its time and then waits for the next."""
    with freeze_time("2026-01-15T10:07:00Z") as frozen:
        made = PeriodicTrigger(cron_expr="*/15 * * * *")
        frozen.move_to("2026-01-15T10:15:00Z")
        assert made.is_ready()

        made.reset()

        assert made.next_fire_time() == at("10:30:00")


def test_alone_a_delay_waits_to_be_told_of_the_end() -> None:
    """Used up by the reset, it has no next time before its run has ended."""
    with freeze_time("2026-01-15T10:00:00Z") as frozen:
        made = PeriodicTrigger(60, mode="delay")
        frozen.tick(75)
        assert made.is_ready()

        made.reset()
        assert made.next_fire_time() is None

        assert made.ended(at("10:01:30"))
        assert made.next_fire_time() == at("10:02:30")


def test_alone_a_one_time_trigger() -> None:
    """It is ready once; after the reset it is spent and never again."""
    with freeze_time("2026-01-15T10:00:00Z") as frozen:
        made = OneTimeTrigger(5)
        assert not made.is_ready()
        frozen.tick(5)
        assert made.is_ready()

        made.reset()

        assert made.is_spent
        assert not made.is_ready()
        assert made.next_fire_time() is None


def test_alone_a_spent_one_time_trigger_shows_no_runs() -> None:
    """There is nothing to come."""
    with freeze_time("2026-01-15T10:00:00Z") as frozen:
        made = OneTimeTrigger(5)
        frozen.tick(5)
        made.reset()

        assert made.next_runs(1) == []


def test_alone_an_early_reset_of_a_one_time_trigger() -> None:
    """The first one starts its delay; a later one changes nothing."""
    with freeze_time("2026-01-15T10:00:00Z") as frozen:
        made = OneTimeTrigger(60)
        frozen.tick(30)
        made.reset()
        frozen.tick(10)
        made.reset()

        assert made.next_fire_time() == at("10:01:30")


# A clock that is set back


@pytest.mark.parametrize(
    ("now", "moved", "due"),
    [
        pytest.param("10:00:00", False, "10:01:00", id="by less than it waits"),
        pytest.param("09:59:59", True, "10:00:59", id="by a little more"),
        pytest.param("07:00:00", True, "07:01:00", id="by hours"),
    ],
)
def test_an_interval_waits_no_longer_than_itself(now: str, moved: bool, due: str) -> None:
    """If the due time is further away than one interval, it counts anew from now."""
    made = armed(PeriodicTrigger(60), "10:00:00")

    assert made.clock_went_back(at(now), timedelta(hours=2)) is moved
    assert made.due == at(due)


def test_a_delay_waits_no_longer_than_its_interval() -> None:
    """The mode "delay" as well."""
    made = armed(PeriodicTrigger(60, mode="delay"), "10:00:00")

    assert made.clock_went_back(at("08:00:00"), timedelta(hours=2))
    assert made.due == at("08:01:00")


def test_a_delay_that_waits_for_a_run_is_left_alone() -> None:
    """It has no due time that could be too far away."""
    made = armed(PeriodicTrigger(60, mode="delay"), "10:00:00")
    made.take(at("10:01:00"))

    assert not made.clock_went_back(at("08:00:00"), timedelta(hours=2))
    assert made.due is None


@pytest.mark.parametrize(
    ("what", "due"),
    [
        pytest.param({"interval": 60, "start": at("06:00:30")}, "06:30:30", id="grid of a start"),
        pytest.param({"interval": 60, "start": at("12:00:00")}, "12:00:00", id="start ahead"),
        pytest.param({"cron_expr": "*/15 * * * *"}, "06:45:00", id="wildcard cron"),
        pytest.param({"cron_expr": "0 9,12 * * *"}, "09:00:00", id="fixed cron"),
    ],
)
def test_a_clock_set_back_by_hours_stalls_nothing(
    scheduler: Scheduler, what: dict[str, Any], due: str
) -> None:
    """It goes on with the next of its times that the clock will show; a start is waited for."""
    with freeze_time("2026-01-15T10:05:00Z") as frozen:
        scheduler.add_task(Task("report", int, triggers=[PeriodicTrigger(**what)]))
        scheduler.run_tasks()

        frozen.move_to("2026-01-15T06:30:15Z")
        scheduler.run_tasks()

        assert [each.at for each in scheduler.upcoming(1)] == [at(due)]


def test_a_clock_set_back_a_little_runs_no_fixed_time_twice(scheduler: Scheduler) -> None:
    """By up to three hours, as for summer time: 09:00 has been, so 12:00 is next."""
    with freeze_time("2026-01-15T10:05:00Z") as frozen:
        made = PeriodicTrigger(cron_expr="0 9,12 * * *")
        scheduler.add_task(Task("report", int, triggers=[made]))
        scheduler.run_tasks()

        frozen.move_to("2026-01-15T08:30:00Z")
        scheduler.run_tasks()

        assert [each.at for each in scheduler.upcoming(1)] == [at("12:00:00")]


# One time


def test_a_delay_counts_from_arming() -> None:
    """Not from its construction."""
    assert armed(OneTimeTrigger(90), "10:00:00").due == at("10:01:30")


def test_a_delay_of_zero_is_at_once() -> None:
    """It is due when it is armed."""
    assert armed(OneTimeTrigger(delay=0), "10:00:00").due == at("10:00:00")


def test_an_instant_is_where_it_is() -> None:
    """Whenever it is armed, and if it has passed."""
    made = OneTimeTrigger(at=datetime(2026, 1, 15, 11, tzinfo=ZoneInfo("Europe/Berlin")))

    assert armed(made, "09:00:00").due == armed(made, "12:00:00").due == at("10:00:00")


@pytest.mark.parametrize("alone", [True, False])
def test_one_time_is_once(alone: bool) -> None:
    """Once it was taken it is spent, whichever way, and arming it again does not help."""
    made = OneTimeTrigger(5)
    made.arm(at("10:00:00"))

    taken = made.take_one() if alone else made.take(at("10:09:00"))

    assert taken == at("10:00:05") if alone else taken == (1, at("10:00:05"))
    assert made.is_spent
    made.arm(at("11:00:00"))
    assert made.due is None


def test_one_time_is_not_spent_before() -> None:
    """Being made and armed does not spend it."""
    made = OneTimeTrigger(5)

    made.arm(at("10:00:00"))

    assert not made.is_spent


@pytest.mark.parametrize(
    ("made", "now", "moved", "due"),
    [
        pytest.param(OneTimeTrigger(60), "09:59:59", True, "10:00:59", id="delay"),
        pytest.param(OneTimeTrigger(60), "10:00:00", False, "10:01:00", id="delay in time"),
        pytest.param(OneTimeTrigger(at=at("10:01:00")), "07:00:00", False, "10:01:00", id="at"),
    ],
)
def test_one_time_and_a_clock_that_is_set_back(
    made: OneTimeTrigger, now: str, moved: bool, due: str
) -> None:
    """A delay is waited for no longer than it is; an instant is an instant."""
    made.arm(at("10:00:00"))

    assert made.clock_went_back(at(now), timedelta(hours=2)) is moved
    assert made.due == at(due)


def test_a_spent_trigger_is_not_moved() -> None:
    """There is nothing to move."""
    made = armed(OneTimeTrigger(60), "10:00:00")
    made.take_one()

    assert not made.clock_went_back(at("08:00:00"), timedelta(hours=2))
    assert made.due is None


# Events


class Owner:
    """What a scheduler is to an EventTrigger: it notes who signalled."""

    def __init__(self) -> None:
        """Start with none."""
        self.signals: list[EventTrigger] = []

    def signalled(self, made: EventTrigger) -> None:
        """Note it."""
        self.signals.append(made)

    def signal(self, event: object) -> Signal:
        """Make it one of a time of its own."""
        return event, at("11:00:00"), None


def taken(made: EventTrigger) -> list[object]:
    """Return the payloads of all signals that wait, and take them."""
    found: list[object] = []
    while (signal := made.take_signal()) is not None:
        found.append(signal[0])
    return found


def test_signals_wait_in_order() -> None:
    """Each keeps its payload; taken is first come, first served."""
    made = EventTrigger()

    assert [made.fire(1), made.fire("two"), made.fire(None)] == [True, True, True]
    assert made.waiting == 3
    assert taken(made) == [1, "two", None]
    assert made.waiting == 0


def test_a_signal_without_a_payload() -> None:
    """It is True, as on the channel of the specification."""
    made = EventTrigger()

    made.fire()

    assert taken(made) == [True]


def test_a_signal_knows_when_it_was_fired() -> None:
    """By the clock before it has an owner, by the owner's afterwards."""
    made = EventTrigger()
    with freeze_time("2026-01-15T10:00:00Z"):
        made.fire("before")
    made.bind(Owner())
    made.fire("after")

    assert made.take_signal() == ("before", at("10:00:00"), None)
    assert made.take_signal() == ("after", at("11:00:00"), None)
    assert made.take_signal() is None


def test_the_owner_is_told_of_each_signal() -> None:
    """From binding on."""
    made, owner = EventTrigger(), Owner()
    made.fire()
    assert owner.signals == []

    made.bind(owner)
    made.fire()

    assert owner.signals == [made]


def test_an_owner_that_comes_while_a_signal_is_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound after the look for an owner and before the signal was there, it is told as well."""
    made, owner = EventTrigger(), Owner()

    def bind_and_tell_the_time() -> datetime:
        made.bind(owner)
        return at("10:00:00")

    monkeypatch.setattr(trigger, "utc_now", bind_and_tell_the_time)

    assert made.fire()
    assert owner.signals == [made]


def test_at_most_maxsize_signals_wait() -> None:
    """One more is refused, until the run of one has started."""
    made = EventTrigger(maxsize=2)

    assert [made.fire(1), made.fire(2), made.fire(3)] == [True, True, False]

    made.take_signal()
    assert not made.fire(4)
    made.give_permit()
    assert made.fire(5)
    assert taken(made) == [2, 5]


def test_without_maxsize_a_permit_is_nothing() -> None:
    """Any number may wait."""
    made = EventTrigger()

    made.give_permit()

    assert all(made.fire(n) for n in range(100))


def test_coalesce_keeps_the_latest() -> None:
    """While one signal waits a further one takes its place; both are taken."""
    made = EventTrigger(coalesce=True)

    assert [made.fire(1), made.fire(2)] == [True, True]
    assert taken(made) == [2]


def test_those_that_merge_in_the_channel_are_counted() -> None:
    """Each once, with the signal that took its place; from a queue of the user's, too."""
    channel: queue.Queue[object] = queue.Queue()
    made = EventTrigger(channel, coalesce=True)
    counts = []
    for signals in (3, 1, 2):
        for number in range(signals):
            made.fire(number)
        made.take_signal()
        counts.append(made.count_merged())
    for number in range(4):
        channel.put(number)
    made.collect(at("10:00:00"))
    made.take_signal()

    assert [*counts, made.count_merged()] == [2, 0, 1, 3]


def test_one_that_waits_already_is_not_counted_as_merged() -> None:
    """Fired after the other was taken and before anybody counts, it is one of its own."""
    made = EventTrigger(coalesce=True)
    made.fire(1)
    made.fire(2)
    made.take_signal()
    made.fire(3)

    assert made.count_merged() == 1
    made.take_signal()
    assert made.count_merged() == 0


def test_one_that_is_fired_at_that_very_moment_is_counted_with_the_next() -> None:
    """Its signal is there and its number is not yet; nothing is counted twice or left out."""
    made = EventTrigger(coalesce=True)
    made.fire(1)
    made._fired = 0  # as another thread finds it between the two
    made.take_signal()
    assert made.count_merged() == 0
    made._fired = 1
    made.fire(2)
    made.fire(3)
    made.take_signal()

    assert made.count_merged() == 1


def test_coalesce_never_refuses() -> None:
    """With a maxsize too: there is never a second that waits."""
    made = EventTrigger(maxsize=1, coalesce=True)

    assert [made.fire(1), made.fire(2), made.fire(3)] == [True, True, True]
    assert taken(made) == [3]


def test_a_closed_trigger_takes_no_signals() -> None:
    """Those that waited are gone, later ones are refused, and nobody is told."""
    made, owner = EventTrigger(), Owner()
    made.bind(owner)
    made.fire(1)

    made.close()

    assert not made.fire(2)
    assert (made.waiting, owner.signals) == (0, [made])


def test_closed_while_a_signal_is_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed after the look and before the signal was there, it was not taken."""
    made = EventTrigger()

    def close_and_tell_the_time() -> datetime:
        made.close()
        return at("10:00:00")

    monkeypatch.setattr(trigger, "utc_now", close_and_tell_the_time)

    assert not made.fire()
    assert made.waiting == 0


def test_is_ready_while_a_signal_waits() -> None:
    """A reset does not use it up: the release does that makes a run of it."""
    made = EventTrigger()
    assert not made.is_ready()
    made.fire()

    made.reset()

    assert made.is_ready()
    made.take_signal()
    assert not made.is_ready()


def test_is_ready_while_an_item_waits_in_the_queue() -> None:
    """An item put into the queue is a signal like any other."""
    channel: queue.Queue[object] = queue.Queue()
    made = EventTrigger(channel)
    assert not made.is_ready()

    channel.put("item")

    assert made.is_ready()


def test_an_item_found_by_asking_is_not_kept_from_the_owner() -> None:
    """Whoever looks first takes it over into the signals, so the owner is told."""
    channel: queue.Queue[object] = queue.Queue()
    made, owner = EventTrigger(channel), Owner()
    made.bind(owner)
    channel.put("item")

    assert made.is_ready()

    assert owner.signals == [made]
    assert taken(made) == ["item"]


@pytest.mark.parametrize("kind", [queue.Queue, queue.LifoQueue, queue.SimpleQueue])
def test_what_waits_in_a_queue_is_collected(kind: Callable[[], queue.Queue[object]]) -> None:
    """Each item becomes a signal, with the time it was found."""
    channel = kind()
    channel.put("item")
    made = EventTrigger(channel)

    assert made.collect(at("10:00:00"))
    assert made.take_signal() == ("item", at("10:00:00"), None)
    assert channel.empty()
    assert not made.collect(at("10:00:01"))


def test_without_a_queue_there_is_nothing_to_collect() -> None:
    """Signals that were fired are not what is meant."""
    made = EventTrigger()
    made.fire()

    assert not made.collect(at("10:00:00"))


def test_items_beyond_maxsize_stay_in_the_queue() -> None:
    """They are collected when there is room again."""
    channel: queue.Queue[object] = queue.Queue()
    for item in (1, 2, 3):
        channel.put(item)
    made = EventTrigger(channel, maxsize=2)

    assert made.collect(at("10:00:00"))
    assert (made.waiting, channel.qsize()) == (2, 1)
    assert not made.collect(at("10:00:01"))

    made.take_signal()
    made.give_permit()
    assert made.collect(at("10:00:02"))
    assert taken(made) == [2, 3]


def test_an_empty_queue_costs_no_permit() -> None:
    """Looking and finding nothing leaves room for the signals to come."""
    made = EventTrigger(queue.Queue(), maxsize=1)

    made.collect(at("10:00:00"))

    assert made.fire()


def test_items_are_coalesced() -> None:
    """Of several in the queue the last one waits."""
    channel: queue.Queue[object] = queue.Queue()
    for item in (1, 2, 3):
        channel.put(item)
    made = EventTrigger(channel, coalesce=True)

    assert made.collect(at("10:00:00"))
    assert taken(made) == [3]


class Broken:
    """A channel of the user's that raises."""

    def get_nowait(self) -> object:
        """Raise."""
        raise RuntimeError("broken")


def test_a_channel_that_raises_costs_no_permit() -> None:
    """The error is the scheduler's to handle, and there is room for a signal as before."""
    made = EventTrigger(Broken(), maxsize=1)

    with pytest.raises(RuntimeError, match="broken"):
        made.collect(at("10:00:00"))

    assert made.fire()


def test_nobody_knows_when_the_next_event_comes() -> None:
    """It has no next times and no due time."""
    made = EventTrigger()
    made.fire()

    assert made.next_runs(5) == made.next_runs(5, after=at("10:00:00")) == []
    assert made.next_fire_time() is None


# A trigger of the user's


class Always(Trigger):
    """The least a trigger can be."""

    def is_ready(self) -> bool:
        """Return True."""
        return True

    def reset(self) -> None:
        """Do nothing."""


def test_a_trigger_of_the_users_is_asked_at_every_tick() -> None:
    """It need not know a due time."""
    assert Always().next_fire_time() is None


@pytest.mark.parametrize("missing", ["is_ready", "reset"])
def test_a_trigger_must_have_both_methods(missing: str) -> None:
    """One that lacks either cannot be made."""
    methods = {name: vars(Always)[name] for name in ("is_ready", "reset") if name != missing}
    kind = type("Half", (Trigger,), methods)

    with pytest.raises(TypeError, match=missing):
        kind()


# What they look like


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (PeriodicTrigger(90), "PeriodicTrigger(interval=90)"),
        (PeriodicTrigger(timedelta(days=15)), "PeriodicTrigger(interval=1296000)"),
        (PeriodicTrigger(1234567.5), "PeriodicTrigger(interval=1234567.5)"),
        (
            PeriodicTrigger(cron_expr="0 9 * * 1-5", timezone="Europe/Berlin"),
            "PeriodicTrigger(cron_expr='0 9 * * 1-5', timezone='Europe/Berlin')",
        ),
        (
            PeriodicTrigger(cron_expr="@daily"),
            "PeriodicTrigger(cron_expr='@daily', timezone='UTC')",
        ),
        (OneTimeTrigger(5), "OneTimeTrigger(delay=5)"),
        (
            OneTimeTrigger(at=datetime(2026, 1, 15, 10, tzinfo=timezone.utc)),
            "OneTimeTrigger(at=2026-01-15 10:00:00+00:00)",
        ),
        (EventTrigger(), "<EventTrigger, 0 waiting>"),
    ],
)
def test_a_trigger_shows_what_it_was_given(made: Trigger, expected: str) -> None:
    """The repr names what matters."""
    assert repr(made) == expected


def test_a_spent_trigger_says_so() -> None:
    """In its repr."""
    made = armed(OneTimeTrigger(5), "10:00:00")
    made.take_one()

    assert repr(made) == "OneTimeTrigger(delay=5, spent)"


def test_payloads_are_not_shown() -> None:
    """They may be secret."""
    made = EventTrigger()

    made.fire("secret")

    assert repr(made) == "<EventTrigger, 1 waiting>"
