"""The table of cron cases, as the tests that walk through it share it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Row(NamedTuple):
    """A valid row of the table: the fires of *expr* in *zone* strictly after *start*."""

    expr: str
    zone: str
    start: datetime
    expected: list[datetime]


def instant(text: str) -> datetime:
    """Return the instant that *text* writes in ISO 8601, with its offset."""
    return datetime.fromisoformat(text)


def _row(row: dict[str, Any]) -> Row:
    expected = [instant(text) for text in row["expected"]]
    return Row(row["expr"], row["zone"], instant(row["start"]), expected)


TABLE: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("cron_cases.json").read_text(encoding="utf-8")
)
VALID = [pytest.param(_row(row), id=row["id"]) for row in TABLE if row["kind"] != "invalid"]
INVALID = [
    pytest.param(row["expr"], id=f"{row['id']} {row['expr']}")
    for row in TABLE
    if row["kind"] == "invalid"
]
