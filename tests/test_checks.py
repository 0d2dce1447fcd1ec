"""What is accepted from outside is returned in one form; what is refused is named."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from freezegun import freeze_time

from background_tasks import checks
from background_tasks.errors import InvalidTypeError, InvalidValueError


class _Sulky:
    """Its text and its repr end the process, for whoever does not look out."""

    def __repr__(self) -> str:
        raise SystemExit("no")


class _SulkyError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("text", "'text'", id="text"),
        pytest.param(None, "None", id="none"),
        pytest.param(timedelta(seconds=1), "datetime.timedelta(seconds=1)", id="timedelta"),
        pytest.param([1, 2], "[1, 2]", id="list"),
        pytest.param(_Sulky(), "<_Sulky that cannot be shown>", id="repr that raises"),
        pytest.param(10**5000, "<int that cannot be shown>", id="int of 5,001 digits"),
    ],
)
def test_a_value_is_shown(value: object, expected: str) -> None:
    """A value is shown as its repr, or by its type when that fails."""
    assert checks.shown(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x" * 100_000, id="text"),
        pytest.param(10**2000, id="int"),
        pytest.param(["x" * 10_000] * 10_000, id="list"),
        pytest.param(dict.fromkeys(range(10_000)), id="dict"),
    ],
)
def test_a_large_value_is_shown_briefly(value: object) -> None:
    """A repr is cut, so that an error message stays readable."""
    assert len(checks.shown(value)) < 1000


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ValueError("text"), "ValueError: text", id="text"),
        pytest.param(ValueError(), "ValueError", id="empty"),
        pytest.param(_SulkyError(), "_SulkyError: <cannot be shown>", id="str that raises"),
        pytest.param(ValueError("x" * 9_000), "ValueError: " + "x" * 2_000, id="long"),
    ],
)
def test_the_text_of_an_error(error: BaseException, expected: str) -> None:
    """An error is shown as its type and its text, of which 2,000 characters are kept."""
    assert checks.error_text(error) == expected


class _WholeNumber(int):
    """A subclass, as numpy and enums make them."""


@pytest.mark.parametrize("value", [0, -3, 2.5, math.inf, _WholeNumber(7), 10**400])
def test_a_number_is_returned_as_it_is(value: float) -> None:
    """An int or a float, infinite ones too, is a number."""
    assert checks.number("x", value) == value


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param(True, InvalidTypeError, id="bool"),
        pytest.param("1", InvalidTypeError, id="text"),
        pytest.param(None, InvalidTypeError, id="none"),
        pytest.param(1j, InvalidTypeError, id="complex"),
        pytest.param(math.nan, InvalidValueError, id="nan"),
    ],
)
def test_what_is_no_number_is_refused(value: object, error: type[Exception]) -> None:
    """Neither a bool nor NaN is a number."""
    with pytest.raises(error, match="x must be a number, got"):
        checks.number("x", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(0, 0.0, id="zero"),
        pytest.param(5, 5.0, id="int"),
        pytest.param(0.25, 0.25, id="float"),
        pytest.param(timedelta(minutes=1, milliseconds=5), 60.005, id="timedelta"),
        pytest.param(3_155_760_000, 3_155_760_000.0, id="a hundred years"),
    ],
)
def test_seconds_come_as_a_float(value: object, expected: float) -> None:
    """A number or a timedelta becomes float seconds."""
    seconds = checks.seconds("x", value)

    assert seconds == expected
    assert type(seconds) is float


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param(-0.001, InvalidValueError, id="negative"),
        pytest.param(timedelta(microseconds=-1), InvalidValueError, id="negative timedelta"),
        pytest.param(math.nan, InvalidValueError, id="nan"),
        pytest.param(math.inf, InvalidValueError, id="inf"),
        pytest.param(3_155_760_001, InvalidValueError, id="above a hundred years"),
        pytest.param(10**400, InvalidValueError, id="no float"),
        pytest.param(False, InvalidTypeError, id="bool"),
        pytest.param("5", InvalidTypeError, id="text"),
        pytest.param(None, InvalidTypeError, id="none"),
    ],
)
def test_what_is_no_duration_is_refused(value: object, error: type[Exception]) -> None:
    """A duration is a number of seconds or a timedelta within bounds."""
    with pytest.raises(error, match=r"x must be .*seconds"):
        checks.seconds("x", value)


def test_a_duration_may_have_a_least() -> None:
    """The least itself is accepted, what lies below is refused and the message names it."""
    assert checks.seconds("x", 0.5, least=0.5) == 0.5

    with pytest.raises(InvalidValueError, match=r"x must be at least 0\.5 .*, got 0\.499"):
        checks.seconds("x", 0.499, least=0.5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(90, timedelta(minutes=1, seconds=30), id="int"),
        pytest.param(0.000001, timedelta(microseconds=1), id="float"),
        pytest.param(timedelta(days=1), timedelta(days=1), id="timedelta"),
    ],
)
def test_a_duration_comes_as_a_timedelta(value: object, expected: timedelta) -> None:
    """A number of seconds or a timedelta becomes a timedelta."""
    assert checks.duration("x", value) == expected


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param(0, InvalidValueError, id="too small"),
        pytest.param(1.0, InvalidTypeError, id="float"),
        pytest.param(True, InvalidTypeError, id="bool"),
        pytest.param("1", InvalidTypeError, id="text"),
    ],
)
def test_what_is_no_whole_number_is_refused(value: object, error: type[Exception]) -> None:
    """An int is an int, not a bool or a float, and has a least."""
    with pytest.raises(error, match=f"x must be .*, got {value!r}"):
        checks.whole("x", value, least=1)


def test_a_whole_number_is_returned() -> None:
    """The least itself is accepted."""
    assert checks.whole("x", 1, least=1) == 1


@pytest.mark.parametrize("value", [1, 0, None, "True", [True]])
def test_what_is_no_boolean_is_refused(value: object) -> None:
    """True and False only: neither 1 nor 0."""
    with pytest.raises(InvalidTypeError, match="x must be True or False, got"):
        checks.boolean("x", value)


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_is_returned(value: bool) -> None:
    """Both are accepted."""
    assert checks.boolean("x", value) is value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(datetime(2026, 1, 15, 12, tzinfo=timezone.utc), id="utc"),
        pytest.param(datetime(2026, 1, 15, 13, tzinfo=ZoneInfo("Europe/Berlin")), id="Berlin"),
        pytest.param(datetime(2026, 1, 15, 7, tzinfo=ZoneInfo("America/New_York")), id="New York"),
    ],
)
def test_an_instant_comes_in_utc(value: datetime) -> None:
    """An aware datetime of any zone becomes the same instant in UTC."""
    instant = checks.instant("x", value)

    assert instant == datetime(2026, 1, 15, 12, tzinfo=timezone.utc)
    assert instant.utcoffset() == timedelta(0)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_second_pass_of_a_repeated_hour_is_kept(frozen: bool) -> None:
    """fold=1 names the second pass, while time is frozen too."""
    with freeze_time("2025-11-02T05:30:00Z") if frozen else nullcontext():
        second = datetime(2025, 11, 2, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York"))

        instant = checks.instant("x", second)

        assert instant == datetime(2025, 11, 2, 6, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param(datetime(2026, 1, 15), InvalidValueError, id="naive"),  # noqa: DTZ001
        pytest.param(
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
            InvalidValueError,
            id="after the year 9999 in UTC",
        ),
        pytest.param("2026-01-15T12:00:00Z", InvalidTypeError, id="text"),
        pytest.param(1_768_478_400, InvalidTypeError, id="epoch seconds"),
        pytest.param(datetime(2026, 1, 15).date(), InvalidTypeError, id="date"),  # noqa: DTZ001
        pytest.param(None, InvalidTypeError, id="none"),
    ],
)
def test_what_is_no_instant_is_refused(value: object, error: type[Exception]) -> None:
    """Naive datetimes are refused, not guessed at."""
    with pytest.raises(error, match="x must "):
        checks.instant("x", value)


@pytest.mark.parametrize("value", [None, 5, b"text"])
def test_what_is_no_text_is_refused(value: object) -> None:
    """A str only."""
    with pytest.raises(InvalidTypeError, match="x must be a str, got"):
        checks.text("x", value)


@pytest.mark.parametrize("name", ["a", "x" * 200, "Größe 2 äöü ✓", "peer discovery"])
def test_a_name_is_returned(name: str) -> None:
    """1 to 200 printable characters of any script."""
    assert checks.name_text("name", name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 201, id="201 characters"),
        pytest.param("a\nb", id="newline"),
        pytest.param("a\x1b[31mb", id="escape"),
        pytest.param("a\x00b", id="nul"),
        pytest.param("a\u202eb", id="right-to-left override"),
        pytest.param("a\ud800b", id="lone surrogate"),
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    """What would break a log line is no name."""
    with pytest.raises(InvalidValueError, match="name must be 1 to 200 printable characters, got"):
        checks.name_text("name", name)


def _nothing() -> None:
    pass


def _one(x: object) -> None:
    pass


def _default(x: object = 1) -> None:
    pass


def _any(*args: object, **kwargs: object) -> None:
    pass


def _keyword_default(*, x: object = 1) -> None:
    pass


def _keyword(*, x: object) -> None:
    pass


def _giving_one(function: Callable[..., None]) -> Callable[..., None]:
    """Be a decorator that gives the first argument itself."""

    @functools.wraps(function)
    def wrapper(*args: object) -> None:
        function("given", *args)

    return wrapper


@_giving_one
def _two(given: object, x: object) -> None:
    pass


class _Owner:
    """Methods of each kind, and a class that can be called."""

    def __init__(self, x: object = 1) -> None:
        pass

    def __call__(self, x: object) -> None:
        pass

    def method(self, x: object) -> None:
        pass

    def nothing(self) -> None:
        pass

    def anything(*args: object) -> None:
        pass

    @classmethod
    def of_class(cls, x: object) -> None:
        pass

    @staticmethod
    def static(x: object) -> None:
        pass


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        pytest.param(_nothing, (), {}, id="function"),
        pytest.param(_one, (1,), {}, id="positional"),
        pytest.param(_one, (), {"x": 1}, id="positional by name"),
        pytest.param(_default, (), {}, id="default"),
        pytest.param(_any, (1, 2, 3), {"y": 4}, id="args and kwargs"),
        pytest.param(_keyword_default, (), {}, id="keyword with default"),
        pytest.param(_keyword, (), {"x": 1}, id="keyword"),
        pytest.param(lambda: None, (), {}, id="lambda"),
        pytest.param(_Owner().method, (1,), {}, id="method"),
        pytest.param(_Owner().nothing, (), {}, id="method without arguments"),
        pytest.param(_Owner().anything, (), {}, id="method with args only"),
        pytest.param(_Owner.of_class, (1,), {}, id="classmethod"),
        pytest.param(_Owner.static, (1,), {}, id="staticmethod"),
        pytest.param(_Owner(), (1,), {}, id="callable object"),
        pytest.param(_Owner, (1,), {}, id="class"),
        pytest.param(functools.partial(_one, 1), (), {}, id="partial"),
        pytest.param(functools.partial(functools.partial(_any), 1), (2,), {}, id="partial twice"),
        pytest.param(functools.partial(_one), (1,), {}, id="partial of nothing"),
        pytest.param(print, ("a", "b"), {"sep": ""}, id="builtin"),
        pytest.param(len, ([],), {}, id="builtin of one"),
        pytest.param(dict, (), {"a": 1}, id="builtin type that tells nothing"),
        pytest.param(time.sleep, (0,), {}, id="builtin of a module"),
        pytest.param(_two, (1,), {}, id="decorator that gives an argument"),
    ],
)
def test_a_function_that_takes_its_arguments_is_accepted(
    function: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Whatever can be called with the arguments, and what says nothing about them, is accepted."""
    checks.call("function", function, args, kwargs)
