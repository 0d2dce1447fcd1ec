"""JSON lines: each record is one valid line, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace

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
    assert second["exception.stacktrace"].endswith("ValueError: two\nlines")


def test_a_record_without_a_time_keeps_what_it_has() -> None:
    """Somebody made it by hand."""
    record = _record({}, "said", ())
    record.created = "yesterday"

    line = json.loads(JsonLines().format(record))

    assert (line["timestamp"], line["message"]) == ("yesterday", "said")
    assert line["log_error"].startswith("TypeError: ")


# Errors


def test_a_record_with_an_error_has_its_fields() -> None:
    """Those of `logger.exception`, too; other handlers find the record as it was."""
    record = _failed(LookupError("no such key"))

    line = json.loads(JsonLines().format(record))

    assert line["exception.type"] == line["error.type"] == "LookupError"
    assert line["exception.message"] == "no such key"
    assert line["exception.stacktrace"].startswith("Traceback ")
    assert line["exception.stacktrace"].endswith("LookupError: no such key")
    assert record.exc_info[0] is LookupError
    assert "exc_info" not in line


def test_no_error_has_no_fields() -> None:
    """As when `logger.exception` is called where there is none."""
    record = _record({}, "said", ())
    record.exc_info = (None, None, None)

    assert "exception.type" not in json.loads(JsonLines().format(record))


def test_a_long_traceback_keeps_its_end() -> None:
    """Which says what happened and where."""
    line = json.loads(JsonLines().format(_failed(ValueError("x" * 20_000 + " the end"))))

    assert len(line["exception.stacktrace"]) == 16_000
    assert line["exception.stacktrace"].startswith("...xxx")
    assert line["exception.stacktrace"].endswith("x the end")


# Spans


@contextmanager
def _span(trace_id: int = 0xABC, span_id: int = 0xDEF) -> Iterator[None]:
    """Have a span be current, without an SDK."""
    context = trace.SpanContext(
        trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
    )
    with trace.use_span(trace.NonRecordingSpan(context)):
        yield


def test_a_line_in_a_span_says_which() -> None:
    """At the top of the line, in lower hexadecimal digits: of any logger but our own."""
    with _span():
        theirs = json.loads(JsonLines().format(_record({}, "said", (), "background_tasks.mine")))
        ours = json.loads(_line({}))

    assert theirs["trace_id"] == "00000000000000000000000000000abc"
    assert theirs["span_id"] == "0000000000000def"
    assert theirs["trace_flags"] == "01"
    assert "trace_id" not in ours


def test_a_line_that_names_a_span_keeps_it() -> None:
    """It is of another span than that of whoever writes it."""
    with _span():
        record = _record({"trace_id": "f" * 32}, "said", (), "mine")
        line = json.loads(JsonLines().format(record))

    assert line["trace_id"] == "f" * 32
    assert "span_id" not in line


def test_a_line_outside_of_a_span_names_none() -> None:
    """Nor one in a span that is not valid."""
    with _span(trace_id=0):
        inside = json.loads(JsonLines().format(_record({}, "said", (), "mine")))
    outside = json.loads(JsonLines().format(_record({}, "said", (), "mine")))

    assert "trace_id" not in inside
    assert "trace_id" not in outside


@pytest.mark.parametrize("error", [RuntimeError(), SystemExit()])
def test_a_broken_telemetry_loses_no_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Whatever it raises."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(trace, "get_current_span", fail)

    assert json.loads(JsonLines().format(_record({}, "said", (), "mine")))["message"] == "said"


def test_telemetry_is_not_imported_for_a_line() -> None:
    """Whoever has spans has imported it."""
    code = (
        "import sys, logging, background_tasks\n"
        "background_tasks.configure_logging(stream=sys.stdout)\n"
        "logging.getLogger('background_tasks.mine').warning('said')\n"
        "assert not any('opentelemetry' in name for name in sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)

    assert json.loads(done.stdout)["message"] == "said"


# The Elastic Common Schema


def test_fields_as_ecs_has_them() -> None:
    """Those that have a name there; the others are ours in both namings."""
    fields = {
        "event.name": "background_tasks.run.failed",
        "background_tasks.run.outcome": "failure",
        "background_tasks.run.duration_s": 0.0125,
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "exception.type": "ValueError",
        "exception.message": "no",
        "exception.stacktrace": "Traceback",
    }
    record = _record(fields, "run failed", ())
    record.created = 1_767_225_600.5

    assert json.loads(JsonLines("ecs").format(record)) == {
        "@timestamp": "2026-01-01T00:00:00.500000+00:00",
        "ecs.version": "8.11.0",
        "log.level": "error",
        "log.logger": "background_tasks",
        "process.thread.name": "MainThread",
        "message": "run failed",
        "event.action": "background_tasks.run.failed",
        "event.outcome": "failure",
        "event.duration": 12_500_000,
        "trace.id": "a" * 32,
        "span.id": "b" * 16,
        "error.type": "ValueError",
        "error.message": "no",
        "error.stack_trace": "Traceback",
        "background_tasks.run.outcome": "failure",
        "background_tasks.run.duration_s": 0.0125,
    }


@pytest.mark.parametrize(
    ("outcome", "written"),
    [
        ("success", "success"),
        ("failure", "failure"),
        ("timeout", "failure"),
        ("lost", "unknown"),
        ("cancelled", "unknown"),
        ("dropped", "unknown"),
        ("missed", "unknown"),
    ],
)
def test_outcomes_as_ecs_has_them(outcome: str, written: str) -> None:
    """It has three."""
    record = _record({"background_tasks.run.outcome": outcome}, "said", ())

    assert json.loads(JsonLines("ecs").format(record))["event.outcome"] == written


@pytest.mark.parametrize(
    "name", ["severity_text", "background_tasks.run.outcome", "background_tasks.run.duration_s"]
)
@pytest.mark.parametrize("value", [None, "x", 3, float("nan"), [1]])
def test_fields_of_others_that_have_our_names(name: str, value: object) -> None:
    """The line has all others too, whatever is in that one."""
    record = _record({name: value, "more": "kept"}, "said", ())

    line = json.loads(JsonLines("ecs").format(record))

    assert line["more"] == "kept"
    assert "log_error" not in line


@pytest.mark.parametrize("naming", ["otel", "ecs"])
@pytest.mark.parametrize("value", [[], "text", None, Evil()])
def test_no_naming_loses_a_line(naming: str, value: object) -> None:
    """Also when somebody else uses a field of ours for something else."""
    fields = {"background_tasks.run.outcome": value, "background_tasks.run.duration_s": value}

    line = json.loads(JsonLines(naming).format(_record(fields, "said", ())))

    assert line["message"] == "said"
    assert {"timestamp", "@timestamp"} & {*line}
    assert {"logger", "log.logger"} & {*line}


def _failed(error: Exception) -> Any:
    """Return a record of an error that was raised."""
    record = _record({}, "said", ())
    try:
        raise error
    except Exception as raised:
        record.exc_info = (type(raised), raised, raised.__traceback__)
    return record


def _line(fields: dict[str, object]) -> str:
    return JsonLines().format(_record(fields, "said", ()))


def _record(
    fields: dict[str, object],
    message: object,
    args: tuple[object, ...],
    name: str = "background_tasks",
) -> Any:
    record = logging.LogRecord(name, logging.ERROR, "", 0, "", (), None)
    record.msg, record.args = message, args
    vars(record).update(fields)
    return record
