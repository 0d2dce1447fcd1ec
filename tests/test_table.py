"""Text in columns: its width in cells, what is cut, and what a terminal must not be told."""

from __future__ import annotations

import pytest

from background_tasks.table import clean, fitted, span, table, width

ACCENT = "e\u0301"  # two characters that are drawn as one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("Zürich 東京 ✓", "Zürich 東京 ✓"),
        ("two\nlines\r\tand a tab", "two?lines??and a tab"),
        ("\x1b[2J\x9b1m", "?[2J?1m"),
        ("turned \u202eround", "turned ?round"),
        ("lone \ud800", "lone ?"),
        ("x" * 1001, "x" * 1000),
        ("\n" * 1001, "?" * 1000),
    ],
    ids=["ascii", "wide", "lines", "escape", "direction", "surrogate", "long", "long and bad"],
)
def test_clean_leaves_nothing_that_a_terminal_obeys(text: str, expected: str) -> None:
    """No control character, no line break, no mark that turns the direction."""
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "cells"), [("", 0), ("abc", 3), ("東京", 4), (ACCENT, 1), ("한", 2), ("ü✓", 2)]
)
def test_width_counts_cells(text: str, cells: int) -> None:
    """Not characters."""
    assert width(text) == cells


@pytest.mark.parametrize(
    ("text", "cells", "expected"),
    [
        ("abc", 5, "abc  "),
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("abcd", 1, "…"),
        ("abcd", 0, ""),
        ("", 2, "  "),
        ("東京", 4, "東京"),
        ("東京", 3, "東…"),
        ("東京", 2, "… "),
        ("a東京", 3, "a… "),
        (ACCENT * 4, 3, ACCENT * 2 + "…"),
    ],
)
def test_fitted_takes_just_the_cells(text: str, cells: int, expected: str) -> None:
    """A character that would be cut in half is left out."""
    assert fitted(text, cells) == expected


def test_fitted_to_the_right_is_padded_before() -> None:
    """As numbers are."""
    assert fitted("12", 4, right=True) == "  12"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.0 ms"),
        (0.00042, "0.4 ms"),
        (0.0994, "99.4 ms"),
        (0.0996, "100 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (2.54, "2.5 s"),
        (59.94, "59.9 s"),
        (59.96, "1m00s"),
        (200, "3m20s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (18430, "5h07m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (1_047_600, "12d03h"),
    ],
)
def test_span_names_the_unit_that_fits(seconds: float, expected: str) -> None:
    """With no more digits than one reads."""
    assert span(seconds) == expected


def test_table_aligns_its_columns() -> None:
    """Words to the left, numbers to the right, no blanks at the end."""
    header = [("name", "count", "note"), ("", "", " of it")]
    rows = [("sample", "41", "first"), ("東京", "9", "second"), ("one\n", "", "")]

    assert table(header, rows, left=(0, 2)).splitlines() == [
        "name    count  note",
        "                of it",
        "------  -----  ------",
        "sample     41  first",
        "東京        9  second",
        "one?",
    ]


def test_a_table_cuts_what_is_wide() -> None:
    """At forty cells, so that the other columns are on the screen, too."""
    lines = table([("name", "count")], [("n" * 50, "1")], left=[0]).splitlines()

    assert lines == ["name" + " " * 38 + "count", "-" * 40 + "  -----", "n" * 39 + "…      1"]


def test_a_table_without_rows_is_its_header() -> None:
    """And the rule below it."""
    assert table([("a", "b")], []) == "a  b\n-  -"


def test_a_row_of_another_length_is_refused() -> None:
    """It would be cut without a word."""
    with pytest.raises(ValueError, match=r"zip\(\)"):
        table([("a", "b")], [("1",)])
