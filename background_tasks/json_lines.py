"""`JsonLines`: a log formatter that writes each record as one valid JSON line, whatever is in it.

Whoever can choose a value that is logged, the text of an error say, cannot forge a line, nor make
one disappear: what JSON does not know is written as text, what is too long is cut, and a record
that cannot be written at all leaves a line that says so. The only user of python-json-logger.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from datetime import date
from enum import Enum
from itertools import islice
from typing import Any

from background_tasks.checks import error_text, shown

__all__ = ["JsonLines"]

_FORMAT = "%(levelname)s %(name)s %(threadName)s %(message)s"  # as text: a list needs 4.0
_RENAMED = {"levelname": "severity_text", "name": "logger", "threadName": "thread.name"}

_LONGEST_KEY = 200  # characters
_LONGEST_TEXT = 16_000  # characters; a traceback is no longer
_LONGEST_LINE = 64_000  # characters of all values together, before they are escaped
_MOST_ITEMS = 100  # of one list or mapping
_DEEPEST = 5  # lists and mappings inside of each other
_INTEGERS = range(-(2**63), 2**64)  # what readers of JSON take, at best
_MOST_BITS = 1024  # of an integer that is written out
_CUT = "..."
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # no UTF-8 has it, and some readers refuse it


class JsonLines(logging.Formatter):
    """Writes records as JSON lines; never raises."""

    def __init__(self) -> None:
        """Choose the fields."""
        super().__init__()
        from pythonjsonlogger.json import JsonFormatter  # optional at import: it costs 10 ms

        self._formatter = JsonFormatter(
            _FORMAT, rename_fields=_RENAMED, timestamp=True, json_serializer=_line
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line of JSON."""
        try:
            return self._formatter.format(record)
        except (Exception, SystemExit, GeneratorExit) as error:  # an evil value, say
            return _line(
                {
                    "severity_text": record.levelname,
                    "logger": record.name,
                    "message": record.msg,
                    "log_error": error_text(error),
                }
            )


def _line(values: Mapping[Any, Any], **_: object) -> str:
    """Return *values*, once they are plain, as JSON without a line break."""
    ordered = dict.fromkeys(("timestamp", *values))  # what comes last may be cut
    plain = _Plain().mapping({key: values[key] for key in ordered if key in values}, 0)
    return json.dumps(plain, allow_nan=False)


class _Plain:
    """Makes plain values of any: str, int, float, bool, None, lists and dicts of these."""

    def __init__(self) -> None:
        self._left = _LONGEST_LINE

    def of(self, value: object, depth: int) -> object:
        """Return *value* as something that JSON has; never raises."""
        try:
            return self._of(value, depth)
        except BaseException:  # a foreign method may raise anything, SystemExit included
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
        plain = str.__getitem__(value, slice(0, max(0, min(longest, self._left))))
        self._left -= len(plain) + 1
        if len(plain) < str.__len__(value):
            plain += _CUT
        return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain)
