"""The live view: ``python -m background_tasks top PATH``, and that of ``run --top``.

Here pictures meet the terminal: its size, its keys, and the signals that end the view. What is in
a picture is decided in `background_tasks.frame`. The only user of rich.
"""

from __future__ import annotations

import io
import os
import re
import select
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from types import ModuleType
from typing import Any, TextIO

from background_tasks.checks import error_text
from background_tasks.clock import monotonic
from background_tasks.errors import MissingExtraError
from background_tasks.frame import Line, frame
from background_tasks.signals import caught
from background_tasks.status import ask, checked_path

try:
    import termios
    import tty
except ImportError:  # pragma: no cover - Windows has no such terminals
    termios = None  # type: ignore[assignment]
    tty = None  # type: ignore[assignment]

__all__ = ["View", "load_rich", "no_view", "top", "watch"]

_SLICE = 0.1  # seconds; so much later at most a signal or another size is noticed
_COLUMNS = 120  # cells of a picture that does not go to a terminal, unless COLUMNS says otherwise
_LINES = 200  # of one that does not have to fit a screen
_QUIT = b"q"
_DUMB = ("dumb", "unknown")
_BLANKS = re.compile(r"\n{3,}")  # lines that keep the place of others, which is for screens


def top(path: str, *, interval: float, once: bool) -> int:
    """Show the scheduler that serves its status at *path*; return the exit status.

    Args:
        path: Where its socket is.
        interval: Seconds from one look to the next.
        once: Print one picture as plain text, and that is all.

    Returns:
        0 after q, or when the one picture was printed; 1 when nobody answered for it; 2 without a
        terminal that can show a view, or where there can be no socket at *path*; else 128 and the
        number of the signal that ended it.

    Raises:
        MissingExtraError: rich is not installed; *once* does without.
    """
    view = View(partial(ask, path), os.path.basename(path))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a latin-1 terminal has no blocks and lines
    obstacle = _no_socket(path) or ("" if once else no_view())
    if obstacle:
        print(f"background-tasks top: {obstacle}", file=sys.stderr)
        return 2
    if once:
        return _print_once(view)
    with caught() as signals:
        received = watch(view, sys.stdout, interval=interval, signals=signals)
    return 0 if received is None else 128 + received


def no_view() -> str:
    """Return why there can be no view on standard output, "" if there can."""
    if sys.stdout is None or not sys.stdout.isatty():  # it is None where it was closed
        return "needs a terminal; with --once it prints one picture"
    if os.environ.get("TERM") in _DUMB:
        return "needs a terminal that can move the cursor; with --once it prints one picture"
    return ""


def _no_socket(path: str) -> str:
    """Return why there will never be a socket at *path*; there may be one that is not there yet."""
    try:
        if not stat.S_ISSOCK(os.stat(checked_path(path)).st_mode):
            return f"PATH must be a Unix socket, got {path!r}, which is none"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return _why(error)
    return ""


def _why(error: OSError | ValueError) -> str:
    """Return what *error* is, for people."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class View:
    """What was seen last, and the pictures of it."""

    def __init__(self, look: Callable[[], Mapping[str, Any]], title: str) -> None:
        """Take snapshots with *look*, which raises OSError or ValueError when there are none."""
        self._look = look
        self._title = title
        self._values: Mapping[str, Any] | None = None
        self.notice = ""  # why the picture is an old one, or none

    def refresh(self) -> None:
        """Look again."""
        try:
            self._values, self.notice = self._look(), ""
        except (OSError, ValueError) as error:
            self.notice = f"no answer from {self._title}, trying again: {_why(error)}"
        except Exception as error:  # of ours, in the view of a scheduler that shall go on
            self.notice = f"{self._title} could not be looked at: {error_text(error)}"

    def lines(self, columns: int, lines: int) -> list[Line]:
        """Return the picture for a terminal of that size."""
        if self._values is not None:
            try:
                return frame(self._values, columns, lines, title=self._title, notice=self.notice)
            except Exception:  # whatever may be wrong with values that come from elsewhere
                self.notice = f"the answer from {self._title} cannot be understood"
        head: list[Line] = [[(self._title, "bold")], [(self.notice, "bold red")]]
        return head[: max(0, lines)]


def _print_once(view: View) -> int:
    view.refresh()
    columns = os.environ.get("COLUMNS", "")
    lines = view.lines(int(columns) if columns.isdecimal() else _COLUMNS, _LINES)
    if view.notice:
        print(view.notice.replace(", trying again", "", 1), file=sys.stderr)
        return 1
    text = "\n".join("".join(piece for piece, _ in line).rstrip() for line in lines)
    print(_BLANKS.sub("\n\n", text).rstrip())
    return 0


def watch(view: View, screen: TextIO, *, interval: float, signals: SimpleQueue[int]) -> int | None:
    """Show *view* on the terminal *screen* until q is typed or a signal comes; blocks.

    Returns:
        The number of the signal, None after q.

    Raises:
        MissingExtraError: rich is not installed.
    """
    rich = load_rich()
    console = rich.console.Console(file=screen, highlight=False, markup=False)
    live = partial(rich.live.Live, console=console, screen=True, auto_refresh=False)
    with _keys() as typed, live(redirect_stdout=False, redirect_stderr=False) as shown:
        looked_at = -interval
        while True:
            if monotonic() - looked_at >= interval:
                view.refresh()
                looked_at = monotonic()
            size = os.get_terminal_size(screen.fileno())
            console.size = size
            shown.update(_text(rich, view.lines(*size)), refresh=True)
            while os.get_terminal_size(screen.fileno()) == size:
                left = looked_at + interval - monotonic()
                if left <= 0:
                    break
                if typed(min(left, _SLICE)) == _QUIT:
                    return None
                if not signals.empty():
                    return signals.get()


def _text(rich: ModuleType, lines: list[Line]) -> Any:
    text = rich.text.Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        text.append("\n" * (number > 0))
        for piece, style in line:
            text.append(piece, style)
    return text


def load_rich() -> ModuleType:
    """Return rich.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import rich.console
        import rich.live
        import rich.text  # optional, and few need it
    except ImportError as error:
        raise MissingExtraError(
            "the live view needs rich: pip install 'background-tasks[rich]'"
        ) from error
    return rich


@contextmanager
def _keys() -> Iterator[Callable[[float], bytes]]:
    """Yield what waits so many seconds for keys and returns those that were typed, if any.

    Keys come one by one and are not shown. Where standard input is no terminal there are none.
    """
    if sys.stdin is None or not sys.stdin.isatty():  # it is None where it was closed
        yield _no_key
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield partial(_typed, number)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> bytes:
    select.select([], [], [], seconds)
    return b""


def _typed(number: int, seconds: float) -> bytes:
    ready, _, _ = select.select([number], [], [], seconds)
    # b"" at its end: the terminal has gone, and nobody watches.
    return (os.read(number, 1) or _QUIT) if ready else b""
