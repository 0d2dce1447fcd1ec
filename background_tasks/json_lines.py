"""`JsonLines`: a log formatter that writes each record as one valid JSON line, whatever is in it.

Whoever can choose a value that is logged, the text of an error say, cannot forge a line, nor make
one disappear: what JSON does not know is written as text, what is too long is cut, and a record
that cannot be written at all leaves a line that says so. The only user of python-json-logger.

Fields are named as OpenTelemetry has them, and by request as the Elastic Common Schema (ECS) has
them. Where neither has a name there is one below ``background_tasks``.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime, timezone
from enum import Enum
from itertools import islice
from typing import Any

from background_tasks.checks import error_text, shown
from background_tasks.interrupts import hand_on

__all__ = ["LIBRARY", "NAMINGS", "JsonLines", "error_fields"]

LIBRARY = "background_tasks"  # the name of our own logger
_FORMAT = "%(levelname)s %(name)s %(threadName)s %(message)s"  # as text: a list needs 4.0
_RENAMED = {"levelname": "severity_text", "name": "logger", "threadName": "thread.name"}

# What ECS calls the fields that have other names in OpenTelemetry.
_ECS_NAMES = {
    "timestamp": "@timestamp",
    "severity_text": "log.level",
    "logger": "log.logger",
    "thread.name": "process.thread.name",
    "event.name": "event.action",
    "trace_id": "trace.id",
    "span_id": "span.id",
    "exception.type": "error.type",
    "exception.message": "error.message",
    "exception.stacktrace": "error.stack_trace",
}
_ECS_VERSION = "8.11.0"  # one that has them all; they are older
_ECS_OUTCOMES = {"success": "success", "failure": "failure", "timeout": "failure"}  # or "unknown"
_TIMESTAMPS = ("timestamp", "@timestamp")
_OUTCOME = "background_tasks.run.outcome"
_DURATION = "background_tasks.run.duration_s"

_LONGEST_KEY = 200  # characters
_LONGEST_TEXT = 16_000  # characters; a traceback is no longer
_LONGEST_LINE = 64_000  # characters of all values together, before they are escaped
_MOST_ITEMS = 100  # of one list or mapping
_DEEPEST = 5  # lists and mappings inside of each other
_INTEGERS = range(-(2**63), 2**64)  # what readers of JSON take, at best
_MOST_BITS = 1024  # of an integer that is written out
_CUT = "..."
_encode = json.JSONEncoder(allow_nan=False).encode
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # no UTF-8 has it, and some readers refuse it


def error_fields(text: str, traceback: str = "") -> dict[str, str]:
    """Return the fields of an error from its text, as `error_text` returns it."""
    kind, _, message = text.partition(": ")
    fields = {"exception.type": kind, "exception.message": message, "error.type": kind}
    if traceback:
        fields["exception.stacktrace"] = traceback
    return fields


class JsonLines(logging.Formatter):
    """Writes records as JSON lines; never raises.

    A record that is made while an OpenTelemetry span is current has its ``trace_id``, ``span_id``
    and ``trace_flags``, also from a logger of yours; one with an exception has its fields.
    """

    def __init__(self, naming: str = "otel") -> None:
        """Name the fields in one of the `NAMINGS`."""
        super().__init__()
        from pythonjsonlogger.json import JsonFormatter  # optional at import: it costs 10 ms

        self._write = _writer(NAMINGS[naming])
        self._formatter = JsonFormatter(
            _FORMAT, rename_fields=_RENAMED, timestamp=True, json_serializer=self._write
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line of JSON."""
        try:
            return self._formatter.format(self._completed(record))
        except BaseException as error:  # an evil value, say
            hand_on(error)
            return self._write(_what_is_left(record, error))

    def _completed(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return *record* with all that is to be in its line; a copy, if something is added."""
        fields = _span_fields(record)
        if record.exc_info and record.exc_info[1] is not None:
            stack = _end_of(self.formatException(record.exc_info))
            fields.update(error_fields(error_text(record.exc_info[1]), stack))
        if not fields:
            return record
        completed = copy.copy(record)  # other handlers have the same record
        completed.exc_info = completed.exc_text = None
        vars(completed).update(fields)
        return completed


def _span_fields(record: logging.LogRecord) -> dict[str, object]:
    """Return where the current span is, if there is one and *record* does not say it itself.

    The changes that the library logs are of runs whose span is not that of whoever tells them.
    """
    trace = sys.modules.get("opentelemetry.trace")  # nobody has a span without it
    if trace is None or record.name == LIBRARY or "trace_id" in vars(record):
        return {}
    try:
        span = trace.get_current_span().get_span_context()
        return _hexadecimal(span.trace_id, span.span_id, span.trace_flags) if span.is_valid else {}
    except BaseException as error:
        hand_on(error)
        return {}


def _hexadecimal(trace_id: int, span_id: int, flags: int) -> dict[str, object]:
    return {
        "trace_id": f"{trace_id:032x}",
        "span_id": f"{span_id:016x}",
        "trace_flags": f"{flags:02x}",
    }


def _end_of(stack: str) -> str:
    """Return the end of a long traceback, which says where it happened."""
    most = _LONGEST_TEXT - len(_CUT)
    return stack if len(stack) <= _LONGEST_TEXT else _CUT + stack[-most:]


def _what_is_left(record: logging.LogRecord, error: BaseException) -> dict[str, object]:
    """Return the fields of a record that could not be written because of *error*."""
    return {
        "timestamp": _instant(record.created),
        "severity_text": record.levelname,
        "logger": record.name,
        "thread.name": record.threadName,
        "message": record.msg,
        "log_error": error_text(error),
    }


def _instant(created: float) -> object:
    try:
        return datetime.fromtimestamp(created, timezone.utc)
    except BaseException as error:  # somebody has made the record by hand
        hand_on(error)
        return created


# The two namings


def _as_otel(values: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return values


def _as_ecs(values: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return *values*, which are named as OpenTelemetry has them, as ECS has them."""
    named = {_ECS_NAMES.get(key, key): value for key, value in values.items()}
    level, outcome, duration = map(values.get, ("severity_text", _OUTCOME, _DURATION))
    if type(level) is str:  # somebody else's fields may have any of these names
        named["log.level"] = level.lower()
    named["ecs.version"] = _ECS_VERSION
    if type(outcome) is str:
        named["event.outcome"] = _ECS_OUTCOMES.get(outcome, "unknown")
    if type(duration) is float and math.isfinite(duration):
        named["event.duration"] = round(1e9 * duration)  # nanoseconds
    return named


NAMINGS: dict[str, Callable[[Mapping[Any, Any]], Mapping[Any, Any]]] = {
    "otel": _as_otel,
    "ecs": _as_ecs,
}


def _writer(naming: Callable[[Mapping[Any, Any]], Mapping[Any, Any]]) -> Callable[..., str]:
    """Return what writes values, named as OpenTelemetry has them, as JSON without a line break."""

    def write(values: Mapping[Any, Any], **_: object) -> str:
        named = naming(values)
        first = {key: named[key] for key in _TIMESTAMPS if key in named}  # what is last may be cut
        return _encode(_Plain().mapping({**first, **named}, 0))

    return write


class _Plain:
    """Makes plain values of any: str, int, float, bool, None, lists and dicts of these."""

    def __init__(self) -> None:
        self._left = _LONGEST_LINE

    def of(self, value: object, depth: int) -> object:
        """Return *value* as something that JSON has; never raises."""
        if type(value) is str:  # most are, and of no class that could do anything
            return self.text(value)
        try:
            return self._of(value, depth)
        except BaseException as error:  # a foreign method may raise anything, SystemExit included
            hand_on(error)
            return self.text(shown(value))

    def _of(self, value: object, depth: int) -> object:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int):
            return self._integer(int.__pos__(value))
        if isinstance(value, float):
            number = float.__pos__(value)
            return number if math.isfinite(number) else repr(number)
        if isinstance(value, date):
            return self.text(value.isoformat())
        if depth < _DEEPEST and isinstance(value, Mapping):
            return self.mapping(value, depth)
        if depth < _DEEPEST and isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        return self.text(shown(value))

    def mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, object]:
        """Return *value* with keys that are str, all different."""
        found: dict[str, object] = {}
        for key, each in islice(value.items(), _MOST_ITEMS):
            if self._left <= 0:
                break
            name = self.text(key if isinstance(key, str) else shown(key), _LONGEST_KEY)
            while name in found:
                name += "'"
            found[name] = self.of(each, depth + 1)
        if len(value) > len(found):
            found[_CUT] = f"{len(value) - len(found)} more"
        return found

    def _items(self, value: Any, depth: int) -> list[object]:
        found: list[object] = []
        for each in islice(value, _MOST_ITEMS):
            if self._left <= 0:
                break
            found.append(self.of(each, depth + 1))
        if len(value) > len(found):
            found.append(f"{_CUT} {len(value) - len(found)} more")
        return found

    def _integer(self, value: int) -> object:
        self._left -= 1
        if value in _INTEGERS:
            return value
        bits = value.bit_length()
        return str(value) if bits <= _MOST_BITS else f"<an integer of {bits} bits>"

    def text(self, value: str, longest: int = _LONGEST_TEXT) -> str:
        """Return *value*, cut to what there is room for, in characters that UTF-8 has."""
        most = min(longest, self._left)
        if type(value) is str and len(value) <= most and value.isascii():
            self._left -= len(value) + 1  # the usual case, in a third of the time
            return value
        plain = str.__getitem__(value, slice(0, max(0, most)))
        self._left -= len(plain) + 1
        if len(plain) < str.__len__(value):
            plain += _CUT
        return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain)
