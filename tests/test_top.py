"""The live view, on a real pseudo-terminal whose other side is an emulator: what a user sees."""

from __future__ import annotations

import builtins
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from background_tasks import MissingExtraError, Scheduler, Task
from background_tasks.__main__ import main
from background_tasks.snapshot import snapshot
from background_tasks.status import StatusServer
from background_tasks.top import View, _typed, load_rich, no_view
from tests.conftest import Gate
from tests.terminal import Terminal, attached, used_by


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Return a terminal of a hundred columns and thirty lines."""
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return where a socket may be made."""
    monkeypatch.chdir(tmp_path)
    return "orders.sock"


@pytest.fixture
def server(scheduler: Scheduler, path: str) -> Iterator[StatusServer]:
    """Return what serves the status of `scheduler` at `path`."""
    with scheduler.serve_status(path) as made:
        yield made


def watched(terminal: Terminal, path: str, user: Callable[[], object], *more: str) -> int:
    """Return the exit status of ``top PATH`` on *terminal*, which *user* uses and ends."""
    with attached(terminal):
        return used_by(user, lambda: main(["top", path, "--interval", "0.02", *more]))


# The view


def test_the_view_shows_the_scheduler_and_goes_away(
    scheduler: Scheduler, server: StatusServer, terminal: Terminal, path: str, gate: Gate
) -> None:
    """What runs and for how long, as it goes on; q leaves the terminal as it was."""
    importing = scheduler.add_task(Task("import orders", gate))
    terminal.type(b"x")  # any other key is none

    def user() -> None:
        terminal.wait_for("NO FAILURES")
        assert terminal.is_in_use()
        scheduler.release_task(importing.id)
        scheduler.run_tasks()
        terminal.wait_for("RUNNING 1 of 2")
        first = next(line for line in terminal.text().splitlines() if "import orders" in line)
        terminal.wait_for(first, gone=True)  # it runs for longer by now
        gate.leave.set()
        terminal.wait_for("RUNNING 0 of 2")
        terminal.type(b"q")

    assert watched(terminal, path, user) == 0
    terminal.wait_until_given_back()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_view(
    server: StatusServer, terminal: Terminal, path: str, number: int, status: int
) -> None:
    """It leaves the terminal as it was, too."""

    def user() -> None:
        terminal.wait_for("NO FAILURES")
        os.kill(os.getpid(), number)

    assert watched(terminal, path, user) == status
    terminal.wait_until_given_back()


def test_the_view_follows_the_size_of_the_terminal(
    scheduler: Scheduler, server: StatusServer, terminal: Terminal, path: str
) -> None:
    """At once, however long it is to the next look; and it survives any size."""
    scheduler.add_task(Task("import orders", int))

    def user() -> None:
        terminal.wait_until(lambda seen: "TASKS 1" in seen and "NO FAILURES" in seen)
        terminal.resize(20, 5)
        terminal.wait_until(lambda seen: "0 released  0 succe…" in seen and "TASKS" not in seen)
        terminal.resize(1, 1)
        terminal.wait_until(lambda seen: seen == "…")
        terminal.resize(200, 50)
        terminal.wait_until(lambda seen: "NEXT" in seen and "durations" in seen)
        (title, *_) = terminal.text().splitlines()
        assert len(title) == 200
        terminal.type(b"q")

    assert watched(terminal, path, user, "--interval", "1000") == 0


def test_another_process_that_goes_away_and_comes_back(
    scheduler: Scheduler, server: StatusServer, terminal: Terminal, path: str
) -> None:
    """The view says so, keeps what it saw, and goes on by itself."""
    scheduler.add_task(Task("import orders", int))
    again: list[StatusServer] = []

    def user() -> None:
        terminal.wait_for("TASKS 1")
        server.close()
        seen = terminal.wait_for(f"no answer from {path}, trying again")
        assert "import orders" in seen
        again.append(scheduler.serve_status(path))
        terminal.wait_for("no answer", gone=True)
        terminal.type(b"q")

    try:
        assert watched(terminal, path, user) == 0
    finally:
        for each in again:
            each.close()


def test_a_view_of_nobody(terminal: Terminal, path: str) -> None:
    """It waits for somebody to come."""

    def user() -> None:
        terminal.wait_for(f"no answer from {path}, trying again")
        terminal.type(b"q")

    assert watched(terminal, path, user) == 0


def test_without_keys_a_signal_ends_the_view(
    server: StatusServer, terminal: Terminal, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when standard input is a file."""

    def user() -> None:
        terminal.wait_for("NO FAILURES")
        os.kill(os.getpid(), signal.SIGINT)

    with open(os.devnull) as nothing, attached(terminal, 1, 2):
        monkeypatch.setattr(sys, "stdin", nothing)
        assert used_by(user, lambda: main(["top", path])) == 130


def test_a_keyboard_that_has_gone_ends_the_view() -> None:
    """Nobody watches any more."""
    keyboard, other = os.pipe()
    os.close(other)

    try:
        assert _typed(keyboard, 10) == b"q"
    finally:
        os.close(keyboard)


# One picture


def test_one_picture_is_plain_text(
    scheduler: Scheduler,
    server: StatusServer,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It needs no terminal and no rich, and has no blank lines that keep a place."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("builtins.__import__", _without_rich)
    scheduler.add_task(Task("import orders", int))

    assert main(["top", path, "--once"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines[0]) == 120
    assert lines[0].startswith(f"{path}  pid {os.getpid()}  new  ")
    assert lines[4:] == [
        "",
        "RUNNING 0 of 2         for   usually",
        "-",
        "-",
        "",
        "WAITING 0              for      runs  because",
        "",
        "NEXT                    in",
        "",
        "TASKS 1               took      runs  failures  state               durations",
        "import orders            -         0         0  idle",
        "",
        "NO FAILURES",
    ]


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("many", 120), ("", 120)])
def test_one_picture_is_as_wide_as_it_is_told(
    server: StatusServer,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: str,
    width: int,
) -> None:
    """By the environment, as other programs are."""
    monkeypatch.setenv("COLUMNS", columns)

    assert main(["top", path, "--once"]) == 0

    assert max(map(len, capsys.readouterr().out.splitlines())) == width


def test_one_picture_of_nobody_is_an_error(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says so."""
    assert main(["top", path, "--once"]) == 1

    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"no answer from {path}: No such file or directory\n")


@pytest.mark.parametrize("more", [[], ["--once"]])
def test_where_there_can_be_no_socket(
    path: str, more: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line says so, instead of trying for ever."""
    file = tmp_path / "file"
    file.touch()
    for place, why in (
        (str(file), f"PATH must be a Unix socket, got {str(file)!r}, which is none"),
        (str(tmp_path), f"PATH must be a Unix socket, got {str(tmp_path)!r}, which is none"),
        (f"{file}/s", "Not a directory"),
        ("", "path must have 1 to 107 bytes when it is absolute, none of them null, got "),
        ("x" * 200, "path must have 1 to 107 bytes when it is absolute, none of them null, got "),
    ):
        assert main(["top", place, *more]) == 2

        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"background-tasks top: {why}")
        assert printed.err.count("\n") == 1


def test_a_socket_whose_process_is_gone(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It may come back, so the view would try again."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)

    assert main(["top", path, "--once"]) == 1

    assert capsys.readouterr().err == f"no answer from {path}: Connection refused\n"


def test_a_view_needs_a_terminal(
    server: StatusServer, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what does not."""
    assert main(["top", path]) == 2

    printed = capsys.readouterr()
    assert printed.err == (
        "background-tasks top: needs a terminal; with --once it prints one picture\n"
    )
    assert printed.out == ""


def test_a_view_needs_a_terminal_that_can_move_the_cursor(
    server: StatusServer, path: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be an empty one."""
    with attached(terminal):
        monkeypatch.setenv("TERM", "dumb")
        assert main(["top", path]) == 2

    terminal.wait_for("needs a terminal that can move the cursor; with --once")


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_one_picture_without_a_standard_stream(
    server: StatusServer, path: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has None in its place, where it was closed."""
    monkeypatch.setattr(sys, name, None)

    assert main(["top", path, "--once"]) == 0
    assert no_view() if name == "stdout" else True


def test_a_view_without_standard_input(
    server: StatusServer, terminal: Terminal, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no keys then; a signal ends it."""

    def user() -> None:
        terminal.wait_for("NO FAILURES")
        os.kill(os.getpid(), signal.SIGINT)

    with attached(terminal, 1, 2):
        monkeypatch.setattr(sys, "stdin", None)
        assert used_by(user, lambda: main(["top", path])) == 130


# The parts


def _without_rich(name: str, *rest: Any) -> Any:
    if name.partition(".")[0] == "rich":
        raise ImportError(name)
    return _import(name, *rest)


_import = builtins.__import__


def test_without_rich_there_is_no_view(
    terminal: Terminal, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install."""
    monkeypatch.setattr("builtins.__import__", _without_rich)
    with pytest.raises(MissingExtraError, match=r"pip install 'background-tasks\[rich\]'"):
        load_rich()

    with attached(terminal):
        assert main(["top", path]) == 2

    terminal.wait_for("background-tasks: the live view needs rich: pip install 'background-tasks")


def test_a_view_says_why_it_is_old(scheduler: Scheduler) -> None:
    """And shows what it saw, until it can look again."""
    answers: list[Mapping[str, Any] | Exception] = [
        snapshot(scheduler),
        OSError(),
        RuntimeError("of ours"),
        snapshot(scheduler),
        {"format": 1},
        {"format": 1, "stats": [], "at": float("inf")},
    ]

    def look() -> Mapping[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    view = View(look, "orders")
    seen = []
    while answers:
        view.refresh()
        lines = view.lines(100, 24)
        seen.append((view.notice, len(lines) > 2))

    assert seen == [
        ("", True),
        ("no answer from orders, trying again: OSError", True),
        ("orders could not be looked at: RuntimeError: of ours", True),
        ("", True),
        ("the answer from orders cannot be understood", False),
        ("the answer from orders cannot be understood", False),
    ]


@pytest.mark.parametrize(("lines", "length"), [(-1, 0), (1, 1), (24, 2)])
def test_a_view_that_saw_nothing_fits(lines: int, length: int) -> None:
    """As any other."""

    def look() -> Mapping[str, Any]:
        raise ValueError

    view = View(look, "orders")
    view.refresh()

    assert len(view.lines(100, lines)) == length
