"""Text in columns: what fits how many cells of a terminal, and tables made of that. Pure.

A cell is the width of a Latin letter; a Chinese character takes two, an accent of its own none.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

__all__ = ["clean", "fitted", "span", "table", "width"]

_LONGEST = 1_000  # characters of one text; the rest is not looked at
_WIDEST = 40  # cells of a column; a guess at what leaves room for the others
_CUT = "…"
_UNPRINTABLE = "?"


def clean(text: str) -> str:
    """Return *text* in one line, without what a terminal would obey, at most 1,000 characters."""
    short = text[:_LONGEST]
    if short.isprintable():
        return short
    return "".join(char if char.isprintable() else _UNPRINTABLE for char in short)


def width(text: str) -> int:
    """Return how many cells the printable *text* takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):  # drawn over the one before
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def fitted(text: str, cells: int, *, right: bool = False) -> str:
    """Return printable *text* in exactly so many *cells*: cut with an ellipsis, or padded.

    Padded at the end, with *right* at the beginning.
    """
    short = _cut(text, cells)
    padding = " " * (cells - width(short))
    return padding + short if right else short + padding


def _cut(text: str, cells: int) -> str:
    if width(text) <= cells:
        return text
    ends = list(accumulate(map(_cells, text)))
    kept = bisect_right(ends, cells - width(_CUT))
    return text[:kept] + _CUT if cells > 0 else ""


def span(seconds: float) -> str:
    """Return a duration for people, such as "0.4 ms", "2.5 s", "3m20s", "5h07m" or "12d03h"."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.0995 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"


def table(
    header: Sequence[Sequence[str]], rows: Iterable[Sequence[str]], *, left: Collection[int] = ()
) -> str:
    """Return *rows* as lines below a *header* of one or more lines, aligned by column.

    Args:
        header: Each line of it, as many texts as there are columns.
        rows: The same; what is not printable becomes "?", what is wide is cut.
        left: The columns that hold words, aligned to the left; the others hold numbers.
    """
    body = [tuple(map(clean, row)) for row in rows]
    columns = zip(*header, *body, strict=True)
    widths = [min(_WIDEST, max(map(width, column))) for column in columns]
    rule = tuple("-" * cells for cells in widths)
    return "\n".join(_line(row, widths, left) for row in (*header, rule, *body))


def _line(row: Sequence[str], widths: Sequence[int], left: Collection[int]) -> str:
    placed = (
        fitted(text, cells, right=column not in left)
        for column, (text, cells) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(placed).rstrip()
