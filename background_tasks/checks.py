"""What is accepted from outside, and how the rest is refused: by rule and by value."""

from __future__ import annotations

import functools
import inspect
import math
import reprlib
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from types import CodeType, FunctionType, MethodType

from background_tasks.errors import InvalidTypeError, InvalidValueError
from background_tasks.interrupts import hand_on

__all__ = [
    "LONGEST_SECONDS",
    "Duration",
    "amounts",
    "boolean",
    "call",
    "duration",
    "error_text",
    "has_method",
    "instant",
    "line_text",
    "name_text",
    "number",
    "redacted",
    "seconds",
    "seconds_text",
    "shown",
    "text",
    "whole",
]

Duration = int | float | timedelta

_LONGEST = timedelta(days=36525)  # a hundred years: far above it datetime arithmetic overflows
LONGEST_SECONDS = _LONGEST.total_seconds()
_LONGEST_ERROR = 2_000  # characters
_NAME_LENGTH = 200  # characters; a guess at what still fits a table or a log line
_TAKES_ANY = 0x04  # inspect.CO_VARARGS
_NOT_SYNCHRONOUS = 0x20 | 0x80 | 0x200  # inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 80


def shown(value: object) -> str:
    """Return a short repr of *value* for an error message; never raises."""
    try:
        return _brief.repr(value)
    except BaseException as error:  # a foreign repr may raise anything, SystemExit included
        hand_on(error)
        return f"<{type(value).__name__} that cannot be shown>"


def _named(function: object) -> str:
    """Return the name of a callable; never its repr, which may show arguments or an object."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return repr(str(getattr(function, "__qualname__", type(function).__qualname__)))
    except BaseException as error:  # a foreign attribute may raise anything, SystemExit included
        hand_on(error)
        return f"of type {type(function).__name__!r}"


def line_text(text: str) -> str:
    """Return *text* with what cannot stand in a line escaped, as repr does it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def error_text(error: BaseException) -> str:
    """Return *error* as "ValueError: its text", or its name alone; never raises."""
    name = type.__dict__["__qualname__"].__get__(type(error))  # not what a metaclass makes of it
    try:
        words = str.__getitem__(str(error), slice(_LONGEST_ERROR))  # maybe of a subclass of str
    except BaseException as second:  # a foreign __str__ may raise anything, SystemExit included
        hand_on(second)
        words = "<cannot be shown>"
    return f"{name}: {words}" if words else str(name)


def redacted(redact: Callable[[str], str] | None, text: str) -> str:
    """Return what the user's *redact* makes of a *text* that may hold secrets; never raises."""
    if redact is None or not text:
        return text
    try:
        clean: object = redact(text)
    except BaseException as error:  # a function of the user's may raise anything
        hand_on(error)
        return f"<redacted: the redact function raised {error_text(error).partition(':')[0]}>"
    if not isinstance(clean, str):
        return f"<redacted: the redact function returned {type(clean).__name__}, no str>"
    return str.__str__(clean)  # maybe of a subclass of str


def number(rule: str, value: object) -> int | float:
    """Return *value* if it is a real number, neither a bool nor NaN; *rule* names it."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{rule} must be a number, got {shown(value)}")
    if math.isnan(value):
        raise InvalidValueError(f"{rule} must be a number, got {shown(value)}")
    return value


def seconds(rule: str, value: object, *, least: float = 0.0) -> float:
    """Return *value* (a number of seconds or a timedelta) as float seconds.

    Raises:
        InvalidTypeError: It is neither, or a bool.
        InvalidValueError: It is NaN, below *least* or above a hundred years.
    """
    if isinstance(value, timedelta):
        length: int | float = value.total_seconds()
    else:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidTypeError(f"{rule} must be seconds or a timedelta, got {shown(value)}")
        length = value
    if least <= length <= LONGEST_SECONDS:
        return float(length)
    bound = "at least 0" if least == 0 else f"at least {least:g}"
    raise InvalidValueError(
        f"{rule} must be {bound} and at most {LONGEST_SECONDS:.0f} seconds, got {shown(value)}"
    )


def duration(rule: str, value: object, *, least: float = 0.0) -> timedelta:
    """Return *value* (a number of seconds or a timedelta) as a timedelta; bounds as `seconds`."""
    length = seconds(rule, value, least=least)
    return value if type(value) is timedelta else _timedelta(length)


@functools.lru_cache(maxsize=256)
def _timedelta(length: float) -> timedelta:
    """Return the one timedelta of so many seconds: most tasks share a few intervals."""
    return timedelta(seconds=length)


def whole(rule: str, value: object, *, least: int, most: int | None = None) -> int:
    """Return *value* if it is an int, not a bool, of at least *least* and at most *most*."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{rule} must be an int, got {shown(value)}")
    if value < least:
        raise InvalidValueError(f"{rule} must be at least {least}, got {shown(value)}")
    if most is not None and value > most:
        raise InvalidValueError(f"{rule} must be at most {most}, got {shown(value)}")
    return value


def seconds_text(length: timedelta) -> str:
    """Return *length* in seconds, as short as it can be said exactly."""
    seconds_ = length.total_seconds()
    return str(int(seconds_)) if seconds_.is_integer() else repr(seconds_)


def has_method(value: object, name: str) -> bool:
    """Return True if *value* is an object, not a class, that has a method of that name."""
    return not isinstance(value, type) and callable(getattr(value, name, None))


def boolean(rule: str, value: object) -> bool:
    """Return *value* if it is True or False."""
    if value is True or value is False:
        return value
    raise InvalidTypeError(f"{rule} must be True or False, got {shown(value)}")


def instant(rule: str, value: object) -> datetime:
    """Return *value* in UTC if it is an aware datetime; naive ones are refused, not guessed at."""
    if not isinstance(value, datetime):
        raise InvalidTypeError(f"{rule} must be an aware datetime, got {shown(value)}")
    if value.utcoffset() is None:
        raise InvalidValueError(f"{rule} must have a time zone, got the naive {shown(value)}")
    try:
        return value.astimezone(timezone.utc)
    except OverflowError:
        raise InvalidValueError(f"{rule} must be a date in UTC, got {shown(value)}") from None


def text(rule: str, value: object) -> str:
    """Return *value* if it is a str."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{rule} must be a str, got {shown(value)}")
    return value


def name_text(rule: str, value: object) -> str:
    """Return *value* if it can stand in a log line: a str of 1 to 200 printable characters."""
    name = text(rule, value)
    if not name or len(name) > _NAME_LENGTH or not name.isprintable():
        raise InvalidValueError(
            f"{rule} must be 1 to {_NAME_LENGTH} printable characters, got {shown(name)}"
        )
    return name


def amounts(rule: str, value: object) -> dict[str, float]:
    """Return a copy of *value* if it maps names to numbers above 0 that have an end."""
    if not isinstance(value, Mapping):
        raise InvalidTypeError(f"{rule} must be a mapping of names to numbers, got {shown(value)}")
    for name, amount in value.items():
        name_text(f"each name in {rule}", name)
        if not 0 < number(f"{rule}[{name!r}]", amount) <= sys.float_info.max:
            raise InvalidValueError(
                f"{rule}[{name!r}] must be above 0 and finite, got {shown(amount)}"
            )
    return dict(value)


def call(rule: str, function: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Refuse a *function* that is not one, is not synchronous or does not take the arguments.

    A callable that says nothing about its parameters, as some builtins, is taken on trust.

    Raises:
        InvalidTypeError: As above; it says which.
    """
    if not callable(function):
        raise InvalidTypeError(f"{rule} must be callable, got {shown(function)}")
    code = _plain_code(function)
    if isinstance(function, MethodType) and code is not None and not code.co_argcount:
        _check_has_self(rule, function, code)
    plain = code is not None and not code.co_flags & _NOT_SYNCHRONOUS and not args and not kwargs
    if plain and code is not None and _required(function, code) == 0:
        return  # the common case without inspect, which costs ten times all the other checks
    _check_synchronous(rule, function)
    _check_arguments(rule, function, args, kwargs)


def _check_has_self(rule: str, function: object, code: CodeType) -> None:
    if not code.co_flags & _TAKES_ANY:
        raise InvalidTypeError(
            f"{rule} {_named(function)} must take args and kwargs: it is a method without self"
        )


def _plain_code(function: object) -> CodeType | None:
    """Return the code of a plain function or bound method, None for any other callable."""
    if type(function) is MethodType:
        function = function.__func__
    return function.__code__ if type(function) is FunctionType else None


def _required(function: Callable[..., object], code: CodeType) -> int:
    """Return how many arguments a call of this plain function or method cannot leave out."""
    bound = type(function) is MethodType
    plain = function.__func__ if bound else function  # type: ignore[attr-defined]
    defaults = plain.__defaults__ or ()
    if code.co_kwonlyargcount:
        return 1  # some may be required: let inspect.signature see
    return max(0, code.co_argcount - bound - len(defaults))


def _check_synchronous(rule: str, function: Callable[..., object]) -> None:
    bare: object = function
    while isinstance(bare, functools.partial):
        bare = bare.func
    for each in (bare, type(bare).__call__):
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            raise InvalidTypeError(
                f"{rule} must be synchronous, got the coroutine function {_named(function)}"
            )
        if inspect.isgeneratorfunction(each):
            raise InvalidTypeError(
                f"{rule} must return when it is done, got the generator function {_named(function)}"
            )


def _check_arguments(
    rule: str, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # a builtin that tells nothing about its parameters
        if isinstance(function, functools.partial):  # or one that was given too many already
            args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
            _check_arguments(rule, function.func, args, kwargs)
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidTypeError(
            f"{rule} {_named(function)} must take args and kwargs: {error}"
        ) from None
