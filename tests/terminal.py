"""A real pseudo-terminal with an emulator at its other side: what a user types and sees."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyte
import pytest

__all__ = ["Terminal", "attached", "used_by"]

_PATIENCE = 30  # seconds; matters on failure only

# What a shell does: it makes the terminal that of its session, so that Ctrl-C reaches the program,
# and says in the title how that ended. It stays until a key is typed, since the end of a session
# discards what was not read yet.
_SHELL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, lambda *_: None)
_, status = os.waitpid(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
os.write(1, b"\\033]0;ended %d\\007" % os.waitstatus_to_exitcode(status))
os.read(0, 1)
"""


class Terminal:
    """A terminal of so many columns and lines, whose user is a test."""

    def __init__(self, columns: int = 100, lines: int = 30) -> None:
        """Open it, and read all that is written to it."""
        self._master, self._slave = os.openpty()
        self._stop, self._stopper = os.pipe()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition()
        self.raw = b""  # all that was written
        self.resize(columns, lines)
        self._reader = threading.Thread(target=self._read, name="terminal")
        self._reader.start()

    def close(self) -> None:
        """Close it."""
        os.write(self._stopper, b"!")
        self._reader.join(_PATIENCE)
        for number in (self._master, self._slave, self._stop, self._stopper):
            os.close(number)

    def resize(self, columns: int, lines: int) -> None:
        """Have another size, as when a window is drawn larger."""
        with self._changed:
            self._screen.resize(lines, columns)
            size = struct.pack("HHHH", lines, columns, 0, 0)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def type(self, keys: bytes) -> None:
        """Type *keys*."""
        os.write(self._master, keys)

    def text(self) -> str:
        """Return what is on the screen, without the blanks at the end of each line."""
        with self._changed:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def wait_for(self, text: str, *, gone: bool = False) -> str:
        """Wait until *text* is on the screen, or is *gone* from it; return what is."""
        return self.wait_until(lambda seen: (text in seen) != gone)

    def wait_until(self, condition: Callable[[str], bool]) -> str:
        """Wait until what is on the screen fulfils *condition*; return it."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self.text()), _PATIENCE):
                pytest.fail(f"the screen shows\n{self.text()}\n{self.raw[-2000:]!r}")
            return self.text()

    def is_in_use(self) -> bool:
        """Return whether the cursor is hidden, keys are not echoed and another screen is there."""
        is_away = self.raw.rfind(b"\x1b[?1049h") > self.raw.rfind(b"\x1b[?1049l")
        return is_away and self._screen.cursor.hidden and not self._echoes()

    def wait_until_given_back(self) -> None:
        """Wait until all of that is as it was before."""
        self.wait_until(
            lambda _: (
                self.raw.rfind(b"\x1b[?1049h") < self.raw.rfind(b"\x1b[?1049l")
                and not self._screen.cursor.hidden
                and self._echoes()
            )
        )

    @contextmanager
    def running(self, command: Sequence[str], **environ: str) -> Iterator[None]:
        """Run a program on it meanwhile, as a shell does; `wait_for_end` says how it ended."""
        shell = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SHELL, *command],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**os.environ, "TERM": "xterm-256color", **environ},
        )
        with shell:
            try:
                yield
                self.type(b"\n")
                shell.wait(_PATIENCE)
            finally:
                shell.kill()

    def wait_for_end(self) -> int:
        """Wait until the program that runs has ended; return its exit status."""
        self.wait_until(lambda _: self._screen.title.startswith("ended "))
        return int(self._screen.title.split()[1])

    def duplicate(self, *numbers: int) -> None:
        """Put it in the place of file descriptors."""
        for number in numbers:
            os.dup2(self._slave, number)

    def _echoes(self) -> bool:
        """Return whether what is typed is shown; asked of our side, which is never hung up."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._master, self._stop], [], [])
            if self._stop in ready:
                return
            try:
                part = os.read(self._master, 65536)
            except OSError:  # the system hangs up when the program that was started has ended
                return
            with self._changed:
                self.raw += part
                self._stream.feed(part)
                self._changed.notify_all()


@contextmanager
def attached(terminal: Terminal, *numbers: int) -> Iterator[None]:
    """Have *terminal* for standard input, output and error of this process, or some of them."""
    numbers = numbers or (0, 1, 2)
    names = {0: "stdin", 1: "stdout", 2: "stderr"}
    saved = {number: os.dup(number) for number in numbers}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("COLUMNS", raising=False)
        patch.delenv("LINES", raising=False)
        try:
            terminal.duplicate(*numbers)
            for number in numbers:
                mode = "w" if number else "r"
                stream = open(number, mode, closefd=False, encoding="utf-8")  # noqa: SIM115
                patch.setattr(sys, names[number], stream)
            yield
        finally:
            for number, copy in saved.items():
                stream = getattr(sys, names[number])
                if stream is not None:  # a test may have closed it
                    stream.flush()
                os.dup2(copy, number)
                os.close(copy)


def used_by(user: Callable[[], object], program: Callable[[], int]) -> int:
    """Return what *program* returns, called here while *user* is called in another thread.

    When *user* fails the program is interrupted, and the failure is raised.
    """
    failures: list[BaseException] = []
    main = threading.main_thread().ident
    assert main is not None

    def use() -> None:
        try:
            user()
        except BaseException as error:
            failures.append(error)
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=use, name="user")
    thread.start()
    try:
        status = program()
    finally:
        thread.join(_PATIENCE)
    if failures:
        raise failures[0]
    return status
