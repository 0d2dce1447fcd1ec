"""JSON lines: each record is one valid line, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from background_tasks import Status
from background_tasks.json_lines import JsonLines


class Evil:
    """Something whose repr raises what no handler expects."""

    def __repr__(self) -> str:
        """Raise."""
        raise SystemExit("evil")


class EvilText(str):
    """A str that does not want to be looked at."""

    __slots__ = ()

    def __getitem__(self, _: object) -> str:
        """Raise."""
        raise RuntimeError("evil")


class EvilMapping(Mapping[str, object]):
    """A mapping that cannot be walked."""

    def __getitem__(self, key: str) -> object:
        """Raise."""
        raise RuntimeError("evil")

    def __iter__(self) -> Any:
        """Raise."""
        raise RuntimeError("evil")

    def __len__(self) -> int:
        """Say one."""
        return 1

    def __repr__(self) -> str:
        """Be shown."""
        return "<an evil mapping>"


_CYCLE: list[object] = []
_CYCLE.append(_CYCLE)
_DEEP: list[object] = []
for _ in range(100_000):
    _DEEP = [_DEEP]

_ODD: dict[str, object] = {
    "evil": Evil(),
    "evil text": EvilText("x"),
    "evil mapping": EvilMapping(),
    "cycle": _CYCLE,
    "deep": _DEEP,
    "huge": 10**5000,
    "negative": -(2**64),
}


class Odd(str):
    """Stands for one of _ODD, which Hypothesis could not show."""

    __slots__ = ()


def _alive(value: object) -> object:
    """Return *value* with what each Odd stands for in its place."""
    if isinstance(value, Odd):
        return _ODD[value]
    if isinstance(value, (list, tuple)):
        return type(value)(map(_alive, value))
    if isinstance(value, dict):
        return {key: _alive(each) for key, each in value.items()}
    return value


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
    | st.binary(max_size=8)
    | st.datetimes()
    | st.sampled_from(sorted(_ODD)).map(Odd),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(max_size=5) | st.tuples(st.booleans()), inner)
    ),
    max_leaves=12,
)


@given(value=_VALUES, key=st.text(st.characters(exclude_categories=()), max_size=10))
def test_any_value_is_one_valid_line(value: object, key: str) -> None:
    """It can be read back by any reader of JSON, and is no other line's beginning."""
    line = _line({f"x{key}": _alive(value)})

    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line, parse_constant=pytest.fail)["message"] == "said"


@given(message=_VALUES, args=st.lists(_VALUES, max_size=2))
def test_any_message_is_one_valid_line(message: object, args: list[object]) -> None:
    """Also one that its arguments do not fit."""
    line = JsonLines().format(_record({}, _alive(message), tuple(map(_alive, args))))

    assert "\n" not in line
    assert isinstance(json.loads(line, parse_constant=pytest.fail), dict)


_WRITTEN: dict[str, tuple[object, object]] = {
    "nan": (float("nan"), "nan"),
    "minus infinity": (float("-inf"), "-inf"),
    "float": (1.5, 1.5),
    "bool": (True, True),
    "longest int": (2**64 - 1, 2**64 - 1),
    "too long int": (2**64, "18446744073709551616"),
    "huge int": (10**5000, "<an integer of 16610 bits>"),
    "bytes": (b"\x00\xff", "b'\\x00\\xff'"),
    "control characters": ("a\nb\x1b[2K\u2028", "a\nb\x1b[2K\u2028"),
    "lone surrogate": ("\ud83d", "\\ud83d"),
    "astral": ("\U0001f600", "\U0001f600"),
    "enum": (Status.FAILED, "FAILED"),
    "datetime": (datetime(2026, 3, 1, tzinfo=timezone.utc), "2026-03-01T00:00:00+00:00"),
    "cycle": (_CYCLE, [[[["[[[[[[[...]]]]]]]"]]]]),
    "deep": (_DEEP, [[[["[[[[[[[...]]]]]]]"]]]]),
    "keys": ({1: "one", "1": "text", (): "tuple"}, {"1": "one", "1'": "text", "()": "tuple"}),
    "evil": (Evil(), "<Evil that cannot be shown>"),
    "evil text": (EvilText("text"), "text"),
    "evil mapping": (EvilMapping(), "<an evil mapping>"),
    "set": ({2}, [2]),
}


@pytest.mark.parametrize("name", _WRITTEN)
def test_what_is_written(name: str) -> None:
    """What JSON has as it is, the rest as text that says the same."""
    value, written = _WRITTEN[name]

    assert json.loads(_line({"value": value}))["value"] == written


def test_a_long_text_is_cut() -> None:
    """Its beginning is kept, and it is said that there was more."""
    assert json.loads(_line({"value": "x" * 20_000}))["value"] == "x" * 16_000 + "..."


def test_a_long_list_or_mapping_is_cut() -> None:
    """So many items are kept, and it is said how many more there were."""
    wide = json.loads(_line({"value": {"list": [0] * 150, "map": dict.fromkeys(range(150))}}))

    assert wide["value"]["list"][99:] == [0, "... 50 more"]
    assert len(wide["value"]["map"]) == 101
    assert wide["value"]["map"]["..."] == "50 more"


def test_a_line_is_bounded() -> None:
    """However the characters are spread; what came first is whole."""
    wide = [["x" * 300] * 100] * 100
    line = _line({"first": "kept", "value": wide, "map": {"key": wide}, "last": {"a": 1}})

    assert len(line) < 80_000
    assert json.loads(line)["first"] == "kept"
    assert json.loads(line)["..."] == "2 more"


def test_a_record_that_cannot_be_written_says_so() -> None:
    """The message is kept, with what is wrong with it."""
    line = json.loads(JsonLines().format(_record({}, "got %d of %d", ("one",))))

    assert (line["message"], line["severity_text"]) == ("got %d of %d", "ERROR")
    assert line["log_error"].startswith("TypeError: ")


def test_it_never_breaks_a_stream() -> None:
    """A handler with it writes one line a record, and the traceback of an error into it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())

    handler.handle(_record({"evil": Evil()}, "forged\n{}", ()))
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = _record({}, "said", ())
        record.exc_info = (ValueError, error, error.__traceback__)
        handler.handle(record)

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["evil"]) == ("forged\n{}", "<Evil that cannot be shown>")
    assert second["exc_info"].endswith("ValueError: two\nlines")


def _line(fields: dict[str, object]) -> str:
    return JsonLines().format(_record(fields, "said", ()))


def _record(fields: dict[str, object], message: object, args: tuple[object, ...]) -> Any:
    record = logging.LogRecord("background_tasks", logging.ERROR, "", 0, "", (), None)
    record.msg, record.args = message, args
    vars(record).update(fields)
    return record
