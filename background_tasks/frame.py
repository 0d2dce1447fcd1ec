"""`frame`: a snapshot as lines for a terminal of a given size. Pure; the colours are names.

What matters most stands at the top and is the last to go when there is little room. Columns have
fixed widths and sections heights that change rarely, so that the picture stands still while its
figures move. Nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import zip_longest
from statistics import median
from typing import Any, NamedTuple

from background_tasks.table import clean, fitted, span, width

__all__ = ["Line", "frame", "sparkline"]

Line = list[tuple[str, str]]  # pieces of text, each with a style: "bold", "dim", "red" and so on
_Cell = tuple[str | Callable[[int], str], str]  # of a row; the text, maybe by how many cells it has

_LEVELS = "▁▂▃▄▅▆▇█"
_GAP = "  "
_TWO_COLUMNS = 160  # cells; with fewer, halves would be too narrow for a reason or an error
_AIRY = 20  # lines; with fewer there is no blank one below the head
_NAME = (16, 24)  # cells for names, at least and at most
_STATE = 18  # cells for the state of a task
_MOST = {"running": 16, "waiting": 6, "next": 6, "failures": 24}  # lines that are wanted at most
_TAIL = 4  # lines of a traceback, the last ones
_PLAIN, _QUIET, _TITLE, _BAD, _ODD, _GOOD = "", "dim", "bold", "bold red", "yellow", "green"
_STATES = {"quarantined": _BAD, "disabled": _QUIET, "retrying": _ODD, "idle": _QUIET}
_FAILED = ("FAILED", "TIMED_OUT", "LOST")


class _Section(NamedTuple):
    """A part of the picture.

    Attributes:
        rank: The larger, the sooner it is left out.
        weight: How many lines it gets where another gets one.
        want: How many lines it would have, beside its title.
        draw: Returns its title and at most so many lines, for so many cells.
    """

    rank: int
    weight: int
    want: int
    draw: Callable[[int, int], list[Line]]


def frame(
    values: Mapping[str, Any], columns: int, lines: int, *, title: str, notice: str = ""
) -> list[Line]:
    """Return the picture of a `background_tasks.snapshot`, at most *lines* of *columns* cells.

    Args:
        values: The snapshot.
        columns: How many cells a line has.
        lines: How many lines there are.
        title: What it is a picture of.
        notice: Why it may be an old one; that is told, and the rest is dimmed.

    Raises:
        Exception: It is no snapshot: a KeyError, TypeError, ValueError, or the like.
    """
    head = [_title(values, columns, title), *_health(values, notice), _counters(values["stats"])]
    head += [[]] * (lines >= _AIRY)
    sections = _sections(values)
    room = lines - len(head)
    if columns >= _TWO_COLUMNS:
        half = (columns - len(_GAP)) // 2
        left, right = (_stacked(each, half, room) for each in (sections[:3], sections[3:]))
        body = [_beside(a or [], b or [], half) for a, b in zip_longest(left, right)]
    else:
        body = _stacked(sections, columns, room)
    if notice:
        body = [[(text, _QUIET) for text, _ in line] for line in body]
    return [_cropped(line, columns) for line in (*head, *body)[: max(0, lines)]]


# The head


def _title(values: Mapping[str, Any], columns: int, title: str) -> Line:
    stats, state = values["stats"], values["state"]
    clock = f"{datetime.fromisoformat(values['at']):%H:%M:%S} UTC"
    busy = f"{stats['running']} of {values['slots']} slots, {stats['pending']} waiting"
    line = [
        (clean(title), _TITLE),
        (f"{_GAP}pid {values['pid']}{_GAP}", _QUIET),
        (clean(state), _GOOD if state == "running" else _ODD),
        (f"{_GAP}{busy}", _PLAIN),
    ]
    room = columns - _taken(line) - len(clock)
    return [*line, (" " * room + clock, _QUIET)] if room >= len(_GAP) else line


def _health(values: Mapping[str, Any], notice: str) -> list[Line]:
    if notice:
        return [[(clean(notice), _BAD)]]
    health = values["health"]
    is_healthy, tick = health["is_healthy"], health["last_tick"]
    ticked = "no tick yet" if tick is None else f"tick {span(_since(values, tick))} ago"
    line = [
        ("healthy" if is_healthy else "UNHEALTHY", _GOOD if is_healthy else _BAD),
        (f"{_GAP}{health['stuck']} stuck", _BAD if health["stuck"] else _PLAIN),
        (f", oldest wait {span(health['oldest_wait'])}", _PLAIN),
        (f", lag {span(health['loop_lag_p50'])}", _PLAIN),
        (f", p99 {span(health['loop_lag_p99'])}", _PLAIN),
        (f", {ticked}", _PLAIN),
    ]
    reasons: Line = [(clean("; ".join(health["reasons"])), _BAD)]
    return [line] if is_healthy else [line, reasons]


def _counters(stats: Mapping[str, int]) -> Line:
    always = ("released", "succeeded", "failed")
    others = ("timed_out", "lost", "missed", "cancelled", "dropped", "retries", "skipped")
    shown = [*always, *(name for name in others if stats[name])]
    return [(_GAP.join(f"{stats[name]:,} {name.replace('_', ' ')}" for name in shown), _QUIET)]


# The sections


def _sections(values: Mapping[str, Any]) -> list[_Section]:
    names = [each["task_name"] for each in values["tasks"]]
    cells = max(_NAME[0], min(_NAME[1], max((width(clean(name)) for name in names), default=0)))
    return [
        _running(values, cells),
        _waiting(values, cells),
        _next(values, cells),
        _tasks(values, cells),
        _failures(values, cells),
    ]


def _running(values: Mapping[str, Any], cells: int) -> _Section:
    usual = {each["task_id"]: each["durations"] for each in values["tasks"]}
    rows: list[list[_Cell]] = [
        [
            (each["task_name"], _PLAIN),
            (span(_since(values, each["started_at"])), _PLAIN),
            (span(median(lengths)) if (lengths := usual.get(each["task_id"])) else "-", _QUIET),
            _run_note(each),
        ]
        for each in values["running"]
    ]
    rows += [[("-", _QUIET)]] * (values["slots"] - len(rows))
    header = (f"RUNNING {values['stats']['running']} of {values['slots']}", "for", "usually", "")
    want = min(values["slots"], _MOST["running"])
    return _Section(0, 1, want, _grid(header, (cells, -8, -8), rows))


def _run_note(run: Mapping[str, Any]) -> _Cell:
    attempt = f"by now attempt {run['attempts']}" if run["attempts"] > 1 else ""
    if not run["cancel_reason"]:
        return attempt, _ODD
    asked = f"was asked to give up: {run['cancel_reason']}"
    return f"{asked}, {attempt}" if attempt else asked, _BAD


def _waiting(values: Mapping[str, Any], cells: int) -> _Section:
    """Draw what waits, the runs of one task for one reason in one line: the first of them."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for each in values["ready"]:
        groups.setdefault((each["task_id"], each["reason"]), []).append(each)
    rows: list[list[_Cell]] = [
        [
            (each["task_name"], _PLAIN),
            (span(_since(values, each["released_at"])), _PLAIN),
            (f"{len(others) + 1}", _PLAIN if others else _QUIET),
            (_wait_reason(values, each), _QUIET),
        ]
        for each, *others in groups.values()
    ]
    header = (f"WAITING {values['stats']['pending']}", "for", "runs", "because")
    return _Section(2, 1, _MOST["waiting"], _grid(header, (cells, -8, -8), rows))


def _wait_reason(values: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    reason = run["reason"] or "about to start"
    if run["latest_start"] is None:
        return f"{reason}"
    return f"{reason}; starts within {span(_until(values, run['latest_start']))}"


def _next(values: Mapping[str, Any], cells: int) -> _Section:
    rows: list[list[_Cell]] = [
        [
            (each["task_name"], _PLAIN),
            (span(_until(values, each["at"])), _PLAIN),
            ("retry" if each["is_retry"] else "", _ODD),
            (each["reason"], _QUIET),
        ]
        for each in values["upcoming"]
        if each["reason"] != "disabled"
    ]
    return _Section(4, 1, _MOST["next"], _grid(("NEXT", "in", "", ""), (cells, -8, -8), rows))


def _tasks(values: Mapping[str, Any], cells: int) -> _Section:
    tasks = sorted(values["tasks"], key=lambda each: (not _is_in_trouble(each), each["task_id"]))
    rows: list[list[_Cell]] = [
        [
            (each["task_name"], _BAD if _is_in_trouble(each) else _PLAIN),
            (span(each["durations"][-1]) if each["durations"] else "-", _PLAIN),
            (f"{each['runs']}{'+' if each['is_cut'] else ''}", _PLAIN),
            (f"{each['failures']}", _ODD if each["failures"] else _QUIET),
            _state(each),
            (partial(sparkline, each["durations"]), _PLAIN),
        ]
        for each in tasks
    ]
    count = values["stats"]["tasks"]
    header = (f"TASKS {count}", "took", "runs", "failures", "state", "durations")
    return _Section(1, 2, len(rows), _grid(header, (cells, -8, -8, -8, _STATE), rows, count))


def _is_in_trouble(task: Mapping[str, Any]) -> bool:
    return task["state"] == "quarantined" or task["last_status"] in _FAILED


def _state(task: Mapping[str, Any]) -> _Cell:
    if task["state"] == "quarantined" or task["last_status"] not in _FAILED:
        return task["state"], _STATES.get(task["state"], _PLAIN)
    ended = task["last_status"].lower().replace("_", " ")
    return ended if task["state"] == "idle" else f"{ended}, {task['state']}", _BAD


def _failures(values: Mapping[str, Any], cells: int) -> _Section:
    groups = values["failures"]
    rows: list[list[_Cell]] = [
        [
            (each["task_name"], _PLAIN),
            (span(_since(values, each["at"])) if each["at"] else "-", _PLAIN),
            (f"{each['count']}", _PLAIN),
            (each["error"], _BAD),
        ]
        for each in groups
    ]
    header = ("FAILURES", "ago", "runs", "") if groups else ("NO FAILURES",)
    draw = _grid(header, (cells, -8, -8), rows)
    tails = [_tail(each["traceback"]) for each in groups]

    def draw_with_tails(columns: int, lines: int) -> list[Line]:
        title, *drawn = draw(columns, lines)
        spare = lines - len(drawn)
        found = [title]
        for line, tail in zip(drawn, tails, strict=False):
            shown = tail[max(0, len(tail) - spare) :]
            spare -= len(shown)
            found += [line, *([(text, _QUIET)] for text in shown)]
        return found

    want = min(len(rows) + sum(map(len, tails)), _MOST["failures"])
    return _Section(3, 1, want, draw_with_tails)


def _tail(traceback: str) -> list[str]:
    """Return the last lines of a traceback that tell something beside the error itself."""
    lines = [clean(line) for line in traceback.splitlines() if line.strip(" ^~")]
    return [f"  {line}" for line in lines[:-1] if line.startswith(" ")][-_TAIL:]


def sparkline(values: Sequence[float], cells: int = 60) -> str:
    """Return the last *values* as blocks, the largest of them as a full one."""
    shown = values[max(0, len(values) - cells) :]
    most = max(shown, default=0)
    steps = len(_LEVELS) - 1
    return "".join(_LEVELS[round(steps * each / most) if most > 0 else 0] for each in shown)


# The layout


def _grid(
    header: Sequence[str],
    widths: Sequence[int],
    rows: Sequence[Sequence[_Cell]],
    count: int = 0,
) -> Callable[[int, int], list[Line]]:
    """Return what draws a title and rows in columns.

    Args:
        header: The title, and those of the other columns; the last tells what is left out, too.
        widths: The cells of each column, negative for one of numbers; the last has the rest.
        rows: What is below.
        count: How many there are, if that are more than *rows*.
    """

    def draw(columns: int, lines: int) -> list[Line]:
        rest = columns - sum(abs(each) + len(_GAP) for each in widths)
        cells = (*widths, max(0, rest))
        hidden = max(count, len(rows)) - min(lines, len(rows))
        titles: list[_Cell] = [(each, _QUIET) for each in header]
        titles[0] = header[0], _TITLE
        if hidden > 0:
            titles[-1] = f"({hidden} more)  {header[-1]}".rstrip(), _QUIET
        return [_line(each, cells) for each in (titles, *rows[:lines])]

    return draw


def _line(row: Sequence[_Cell], cells: Sequence[int]) -> Line:
    """Return *row* with its columns in place; it may have fewer than there are."""
    found: Line = []
    for (text, style), each in zip(row, cells, strict=False):
        plain = clean(text if isinstance(text, str) else text(each))
        found += [(fitted(plain, abs(each), right=each < 0), style), (_GAP, _PLAIN)]
    return found[:-1]


def _stacked(sections: Sequence[_Section], columns: int, lines: int) -> list[Line]:
    """Return sections one below the other; those that must be left out are of the last rank."""
    kept = sorted(sections, key=lambda each: each.rank)[: max(0, lines // 2)]
    shown = [each for each in sections if each in kept]
    heights = _shared(shown, lines - len(shown))
    is_airy = sum(heights) + 2 * len(shown) - 1 <= lines
    found: list[Line] = []
    for section, height in zip(shown, heights, strict=True):
        drawn = section.draw(columns, height)
        found += drawn + [[]] * (height + 1 - len(drawn) + is_airy)
    return found


def _shared(sections: Sequence[_Section], lines: int) -> list[int]:
    """Return how many of the *lines* each gets: what it wants, or by its weight."""
    given = [0] * len(sections)
    while lines > 0 and given != [each.want for each in sections]:
        for place, section in enumerate(sections):
            more = min(section.weight, section.want - given[place], lines)
            given[place] += more
            lines -= more
    return given


def _beside(left: Line, right: Line, cells: int) -> Line:
    cropped = _cropped(left, cells)
    return [*cropped, (" " * (cells - _taken(cropped)) + _GAP, _PLAIN), *right]


def _cropped(line: Line, cells: int) -> Line:
    """Return *line* with no more than so many cells."""
    found: Line = []
    for text, style in line:
        left = cells - _taken(found)
        found.append((text if width(text) <= left else fitted(text.rstrip(), left), style))
    return found


def _taken(line: Iterable[tuple[str, str]]) -> int:
    return sum(width(text) for text, _ in line)


# Time


def _since(values: Mapping[str, Any], instant: str) -> float:
    """Return the seconds from *instant* to when the snapshot was taken, at least 0."""
    return -min(0.0, _distance(values, instant))


def _until(values: Mapping[str, Any], instant: str) -> float:
    return max(0.0, _distance(values, instant))


def _distance(values: Mapping[str, Any], instant: str) -> float:
    at = datetime.fromisoformat(values["at"])
    return (datetime.fromisoformat(instant) - at).total_seconds()
