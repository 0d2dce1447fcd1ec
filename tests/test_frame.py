"""Pictures of a snapshot: what is in them, what is left out, and that they fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from background_tasks import Execution, Health, Scheduler, Stats, Status, Task, Upcoming, Waiting
from background_tasks.frame import Line, _Section, _shared, frame, sparkline
from background_tasks.overview import overview
from background_tasks.snapshot import snapshot
from background_tasks.table import width

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=timezone.utc)


def ago(seconds: float) -> datetime:
    """Return the time so many seconds before the snapshot."""
    return NOON - timedelta(seconds=seconds)


class Pretended:
    """A scheduler that says what a test wants it to."""

    def __init__(self, *, slots: int = 2, state: str = "running") -> None:
        """Have nothing to tell yet."""
        self.state = state
        self.max_running_tasks = slots
        self.tasks: dict[int, Task] = {}
        self.running: dict[int, list[Execution]] = {}
        self.waiting: list[Waiting] = []
        self.coming: list[Upcoming] = []
        self.counted = Stats()
        self.found = Health(is_healthy=True, is_alive=True, last_tick=ago(0.25))

    def add(self, name: str, *durations: float, error: str = "", enabled: bool = True) -> Task:
        """Add a task that ran so long, the last time with an *error*."""
        task = Task(name, int, enabled=enabled)
        task._id = len(self.tasks)
        self.tasks[task._id] = task
        task._history = [
            Execution(
                id=number,
                task_id=task._id,
                task_name=name,
                status=Status.SUCCESS,
                attempts=1,
                started_at=ago(3 + length),
                ended_at=ago(3),
                _cost=(length, 0.0, 0.0),
            )
            for number, length in enumerate(durations)
        ]
        if error:
            last = task._history[-1]
            last.status, last.error = Status.FAILED, error
            last.traceback = TRACEBACK + error + "\n"
        return task

    def overview(self, n: int) -> list[Any]:
        """Return that of all."""
        return [
            overview(task, task.execution_hist, self.running.get(each, ()), None)
            for each, task in self.tasks.items()
        ]

    def ready(self, n: int) -> list[Waiting]:
        """Return all."""
        return self.waiting

    def upcoming(self, n: int, *, first_only: bool) -> list[Upcoming]:
        """Return all."""
        return self.coming

    def stats(self) -> Stats:
        """Return the counters."""
        return self.counted

    def health(self) -> Health:
        """Return what was found."""
        return self.found


TRACEBACK = """\
Traceback (most recent call last):
  File "shop/prices.py", line 7, in fetch
    connect(host)
    ~~~~~~~^^^^^^

"""


def seen(scheduler: Any) -> dict[str, Any]:
    """Return the snapshot of *scheduler* at noon as it comes through the socket."""
    values: dict[str, Any] = json.loads(json.dumps({**snapshot(scheduler, NOON), "pid": 4711}))
    return values


def plain(lines: Sequence[Line]) -> list[str]:
    """Return *lines* as text, without blanks at the end."""
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def busy() -> Pretended:
    """Return one with something in each section."""
    made = Pretended()
    made.counted = Stats(
        released=1234,
        succeeded=1200,
        failed=4,
        timed_out=1,
        pending=5,
        running=1,
        retries=2,
        tasks=3,
    )
    orders = made.add("import orders", 1.0, 3.0, 2.0)
    fetch = made.add("fetch prices", 0.25, 0.5, error="ConnectionError: no route")
    made.add("reload", enabled=False)
    made.running = {
        orders.id: [
            Execution(
                id=9,
                task_id=orders.id,
                task_name="import orders",
                status=Status.RUNNING,
                attempts=1,
                started_at=ago(1.5),
            )
        ]
    }
    made.waiting = [
        Waiting(
            run_id=number,
            task_id=fetch.id,
            task_name="fetch prices",
            priority=0,
            released_at=ago(after),
            reason="no slot is free",
            latest_start=NOON + timedelta(seconds=20),
        )
        for number, after in ((11, 7), (12, 6))
    ]
    made.coming = [
        Upcoming(
            at=NOON + timedelta(seconds=1.5), task_id=1, task_name="fetch prices", is_retry=True
        ),
        Upcoming(at=NOON + timedelta(hours=2), task_id=0, task_name="import orders"),
        Upcoming(at=NOON + timedelta(hours=3), task_id=2, task_name="reload", reason="disabled"),
    ]
    return made


SMALL = """\
orders.sock  pid 4711  running  1 of 2 slots, 5 waiting             12:00:00 UTC
healthy  0 stuck, oldest wait 0.0 ms, lag 0.0 ms, p99 0.0 ms, tick 250 ms ago
1,234 released  1,200 succeeded  4 failed  1 timed out  2 retries

RUNNING 1 of 2         for   usually
import orders        1.5 s     2.0 s
-
WAITING 5              for      runs  because
fetch prices         7.0 s         2  no slot is free; starts within 20.0 s



NEXT                    in
fetch prices         1.5 s     retry
import orders        2h00m

TASKS 3               took      runs  failures  state               durations
fetch prices        500 ms         2         1  failed              ▅█
import orders        2.0 s         4         0  running             ▃█▆
reload                   -         0         0  disabled
FAILURES               ago      runs
fetch prices         3.0 s         1  ConnectionError: no route
    File "shop/prices.py", line 7, in fetch
      connect(host)"""

SMALLER = """\
orders.sock  pid 4711  running  1 of 2 slots, 5 waiting
healthy  0 stuck, oldest wait 0.0 ms, lag 0.0 ms, p99 0.0 ms
1,234 released  1,200 succeeded  4 failed  1 timed out  2 r…
RUNNING 1 of 2         for   usually  (1 more)
import orders        1.5 s     2.0 s
WAITING 5              for      runs  because
fetch prices         7.0 s         2  no slot is free; star…
TASKS 3               took      runs  failures  state
fetch prices        500 ms         2         1  failed"""

WIDE = """\
orders.sock  pid 4711  running  1 of 2 slots, 5 waiting                                                                                             12:00:00 UTC
healthy  0 stuck, oldest wait 0.0 ms, lag 0.0 ms, p99 0.0 ms, tick 250 ms ago
1,234 released  1,200 succeeded  4 failed  1 timed out  2 retries
RUNNING 1 of 2         for   usually                                             TASKS 3               took      runs  failures  state               durations
import orders        1.5 s     2.0 s                                             fetch prices        500 ms         2         1  failed              ▅█
-                                                                                import orders        2.0 s         4         0  running             ▃█▆
WAITING 5              for      runs  because                                    reload                   -         0         0  disabled
fetch prices         7.0 s         2  no slot is free; starts within 20.0 s
                                                                                 FAILURES               ago      runs
                                                                                 fetch prices         3.0 s         1  ConnectionError: no route
                                                                                     File "shop/prices.py", line 7, in fetch
                                                                                       connect(host)
NEXT                    in
fetch prices         1.5 s     retry
import orders        2h00m"""  # noqa: E501


@pytest.mark.parametrize(
    ("columns", "lines", "expected"),
    [(80, 24, SMALL), (60, 9, SMALLER), (160, 17, WIDE)],
    ids=["small", "smaller", "wide"],
)
def test_a_picture(columns: int, lines: int, expected: str) -> None:
    """All that matters, for the room that there is."""
    picture = frame(seen(busy()), columns, lines, title="orders.sock")

    assert "\n".join(plain(picture)).rstrip() == expected


@pytest.mark.parametrize("columns", [0, 1, 5, 20, 43, 80, 159, 160, 250])
@pytest.mark.parametrize("lines", [-1, 0, 1, 3, 5, 9, 24, 60, 200])
def test_a_picture_fits(columns: int, lines: int) -> None:
    """Whatever the size of the terminal is, with a name that takes two cells a letter."""
    made = busy()
    made.add("東京" * 50, 1.0)

    picture = frame(seen(made), columns, lines, title="orders.sock")

    assert len(picture) <= max(0, lines)
    assert max((width(line) for line in plain(picture)), default=0) <= columns


def test_a_picture_of_nothing() -> None:
    """A scheduler that was just made is no error."""
    lines = plain(frame(seen(Scheduler(1)), 80, 24, title="orders.sock"))

    assert lines[0].startswith("orders.sock  pid 4711  new  0 of 1 slots, 0 waiting  ")
    assert lines[1].startswith("UNHEALTHY  0 stuck, ")
    assert lines[1].endswith(", no tick yet")
    assert lines[2:4] == ["not started", "0 released  0 succeeded  0 failed"]
    assert [line for line in lines[4:] if line] == [
        "RUNNING 0 of 1         for   usually",
        "-",
        "WAITING 0              for      runs  because",
        "NEXT                    in",
        "TASKS 0               took      runs  failures  state               durations",
        "NO FAILURES",
    ]


# The head


def test_what_there_is_to_complain_of_has_a_line() -> None:
    """In a colour that stands out, and a word for those who see no colours."""
    made = busy()
    made.found = Health(is_healthy=False, reasons=("late", "in\x1b quarantine"), stuck=2)

    _, health, reasons, *_ = frame(seen(made), 80, 24, title="orders.sock")

    assert health[0] == ("UNHEALTHY", "bold red")
    assert health[1] == ("  2 stuck", "bold red")
    assert reasons == [("late; in? quarantine", "bold red")]


def test_a_healthy_scheduler_says_so_quietly() -> None:
    """Green is for the one word."""
    _, health, *_ = frame(seen(busy()), 80, 24, title="orders.sock")

    assert health[0] == ("healthy", "green")
    assert {style for _, style in health[1:]} == {""}


@pytest.mark.parametrize(("state", "style"), [("running", "green"), ("stopped", "yellow")])
def test_the_state_of_the_scheduler_is_told(state: str, style: str) -> None:
    """Beside its name."""
    (line, *_) = frame(seen(Pretended(state=state)), 80, 24, title="orders.sock")

    assert (state, style) in line


def test_an_old_picture_is_dim_and_says_why() -> None:
    """What it shows is no longer so."""
    _, notice, _, _, *body = frame(seen(busy()), 80, 24, title="o", notice="no answer from o")

    assert notice == [("no answer from o", "bold red")]
    assert {style for line in body for _, style in line} == {"dim"}


# The sections


def rows_of(scheduler: Pretended, section: str, lines: int = 60) -> list[list[tuple[str, str]]]:
    """Return the rows below the title of *section*, each piece without blanks around it."""
    picture = frame(seen(scheduler), 120, lines, title="orders.sock")
    titles = ("RUNNING", "WAITING", "NEXT", "TASKS", "FAILURES", "NO FAILURES")
    (start,) = (place for place, line in enumerate(plain(picture)) if line.startswith(section))
    found = []
    for line in picture[start + 1 :]:
        if "".join(text for text, _ in line).startswith(titles):
            break
        found.append([(text.strip(), style) for text, style in line if text.strip()])
    return [row for row in found if row]


@pytest.mark.parametrize(
    ("attempts", "reason", "expected"),
    [
        (1, "", []),
        (3, "", [("by now attempt 3", "yellow")]),
        (1, "timed out", [("was asked to give up: timed out", "bold red")]),
        (2, "cancelled", [("was asked to give up: cancelled, by now attempt 2", "bold red")]),
    ],
)
def test_what_is_odd_about_a_run_is_told(
    attempts: int, reason: str, expected: list[tuple[str, str]]
) -> None:
    """A retry, and a run that was asked to give up and goes on."""
    made = busy()
    (run,) = made.running[0]
    run.attempts, run.cancel_reason = attempts, reason

    first, second = rows_of(made, "RUNNING")

    assert first == [("import orders", ""), ("1.5 s", ""), ("2.0 s", "dim"), *expected]
    assert second == [("-", "dim")]


def test_a_run_of_a_task_that_never_ended_has_no_usual_time() -> None:
    """There is nothing to compare with."""
    made = busy()
    made.tasks[0]._history = None

    assert rows_of(made, "RUNNING")[0][2] == ("-", "dim")


def test_runs_that_wait_for_the_same_stand_in_one_line() -> None:
    """With how many there are; the first says for how long."""
    made = busy()
    first, second = made.waiting
    made.waiting = [
        Waiting(run_id=1, task_id=0, task_name="a", priority=0, released_at=ago(1)),
        first,
        Waiting(run_id=2, task_id=1, task_name="fetch prices", priority=0, released_at=ago(2),
                reason="another run of its task is first"),
        second,
    ]  # fmt: skip

    assert rows_of(made, "WAITING") == [
        [("a", ""), ("1.0 s", ""), ("1", "dim"), ("about to start", "dim")],
        [
            ("fetch prices", ""), ("7.0 s", ""), ("2", ""),
            ("no slot is free; starts within 20.0 s", "dim"),
        ],
        [
            ("fetch prices", ""), ("2.0 s", ""), ("1", "dim"),
            ("another run of its task is first", "dim"),
        ],
    ]  # fmt: skip


def test_what_comes_next_leaves_out_what_does_not_come() -> None:
    """A disabled task; but when the scheduler is stopped, that is said."""
    made = busy()
    made.coming[1] = Upcoming(
        at=NOON - timedelta(seconds=1), task_id=0, task_name="import orders", reason="stopped"
    )

    assert rows_of(made, "NEXT") == [
        [("fetch prices", ""), ("1.5 s", ""), ("retry", "yellow")],
        [("import orders", ""), ("0.0 ms", ""), ("stopped", "dim")],
    ]


def test_tasks_in_trouble_come_first() -> None:
    """The words say what the colours say."""
    made = busy()
    made.running = {}
    made.tasks[1]._waiting = 2
    broken = made.add("broken")
    broken._quarantine = "its trigger raised"
    late = made.add("late", 1.0, error="x")
    assert late._history is not None
    late._history[-1].status = Status.TIMED_OUT

    assert [(row[0], row[4]) for row in rows_of(made, "TASKS")] == [
        (("fetch prices", "bold red"), ("failed, waiting", "bold red")),
        (("broken", "bold red"), ("quarantined", "bold red")),
        (("late", "bold red"), ("timed out", "bold red")),
        (("import orders", ""), ("idle", "dim")),
        (("reload", ""), ("disabled", "dim")),
    ]


def test_a_section_says_what_it_leaves_out() -> None:
    """Also of what was left out of the snapshot."""
    made = busy()
    made.counted = Stats(tasks=300)

    lines = plain(frame(seen(made), 120, 14, title="orders.sock"))

    assert (
        "TASKS 300             took      runs  failures  state               (298 more)  durations"
        in lines
    )


def test_a_durations_line_shows_the_last_ones() -> None:
    """As many as there is room for."""
    made = Pretended()
    made.add("t", *[1.0] * 50, *[2.0] * 3)

    (row,) = rows_of(made, "TASKS")

    assert row[-1] == ("▅" * 49 + "███", "")


def test_failures_show_the_end_of_their_tracebacks() -> None:
    """As far as there is room, the latest first; a group that never started has no time."""
    made = busy()
    values = seen(made)
    values["failures"].append({**values["failures"][0], "task_name": "other", "at": None})

    shown = {}
    for lines in (25, 28, 31, 60):
        picture = plain(frame(values, 80, lines, title="orders.sock"))
        start = next(place for place, line in enumerate(picture) if line.startswith("FAILURES"))
        shown[lines] = [line.strip() for line in picture[start + 1 :] if line]

    group = "fetch prices         3.0 s         1  ConnectionError: no route"
    other = "other                    -         1  ConnectionError: no route"
    file, code = 'File "shop/prices.py", line 7, in fetch', "connect(host)"
    assert shown == {
        25: [group, code, other],
        28: [group, file, code, other],
        31: [group, file, code, other, code],
        60: [group, file, code, other, file, code],
    }


def test_what_is_no_snapshot_is_an_error() -> None:
    """For whoever asked for it to handle."""
    with pytest.raises(KeyError):
        frame({"format": 1}, 80, 24, title="orders.sock")


# The parts


@pytest.mark.parametrize(
    ("values", "cells", "expected"),
    [
        ([], 5, ""),
        ([0.0, 0.0], 5, "▁▁"),
        ([7.0], 5, "█"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8, "▁▂▃▄▅▆▇█"),
        ([9.0, 1.0, 7.0], 2, "▂█"),
        ([9.0], 0, ""),
    ],
)
def test_a_sparkline_shows_how_values_compare(
    values: list[float], cells: int, expected: str
) -> None:
    """The largest that is shown is a full block."""
    assert sparkline(values, cells) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (0, [0, 0, 0]),
        (2, [1, 1, 0]),
        (4, [1, 2, 1]),
        (6, [2, 3, 1]),
        (9, [2, 6, 1]),
        (99, [2, 9, 1]),
    ],
)
def test_lines_are_shared_by_weight(lines: int, expected: list[int]) -> None:
    """Nobody gets more than it wants, and nothing is left while somebody wants it."""
    sections = [
        _Section(rank=0, weight=weight, want=want, draw=lambda *_: [])
        for weight, want in ((1, 2), (2, 9), (1, 1))
    ]

    assert _shared(sections, lines) == expected
