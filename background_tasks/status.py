"""`StatusServer`: what a scheduler is at, for other processes of the same user, by a Unix socket.

The only module that opens a socket, and only when the application asks for it. Who connects is
sent one line of JSON, a `snapshot`, and that is all: what a client sends is never read, so there
is nothing that it could ask for. The socket's file is for its owner alone, and where the system
tells who connects, others but root are turned away, too.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import stat
import struct
import threading
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from background_tasks import checks
from background_tasks.clock import monotonic
from background_tasks.errors import InvalidTypeError, InvalidValueError
from background_tasks.logger import log
from background_tasks.snapshot import FORMAT, Watched, snapshot

if TYPE_CHECKING:
    import socket

__all__ = ["StatusServer", "ask", "checked_path"]

_OWNER_ONLY = 0o600
_LONGEST_PATH = 107  # bytes; sun_path of unix(7) less the null at its end
_BACKLOG = 8  # clients that wait to be accepted; others have to try again
_PATIENCE = 1.0  # seconds that one client may take for its line
_FRESH = 0.2  # seconds in which all are sent the same line, so that asking costs little
_LONGEST_LINE = 4_000_000  # bytes; ten times what a snapshot has at most
_ERROR = 40  # of logging
_CREDENTIALS = "iII"  # pid, uid and gid of the other side: struct ucred of unix(7)


class StatusServer:
    """Serves snapshots of a scheduler until it is closed; a context manager that closes itself.

    One daemon thread serves one client after the other, each for a second at most. It goes on
    through any stop, start and resume of the scheduler. At the end of the process it is closed;
    in a forked child it does not go on.

    Attributes:
        path: The absolute path of the socket.
    """

    # Locking
    #   _lock guards _is_open, so that one thread closes. The sockets are the serving thread's
    #   until it has ended.
    def __init__(self, scheduler: Watched, path: str | os.PathLike[str]) -> None:
        """Listen at *path* and serve; does not block.

        A socket that nobody serves any more is replaced.

        Raises:
            ValueError: *path* is too long, is served already, or is something else than a socket.
            TypeError: *path* is not a path.
            OSError: The system refuses, because there is no such folder, say.
            RuntimeError: The system gives no thread.
        """
        self._scheduler = scheduler
        self.path = checked_path(path)
        self._listener = _listener(self.path)
        self._file = _identity(self.path)
        self._waker, self._alarm = _sockets().socketpair()
        self._client: socket.socket | None = None
        self._line = b""
        self._made_at = -_FRESH
        self._lock = threading.Lock()
        self._is_open = True  # guarded by _lock
        self._thread = threading.Thread(
            target=self._serve, name="background_tasks-status", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # can't start new thread
            self._let_go()
            raise
        _open.add(self)

    def close(self) -> None:
        """Serve nobody any more and remove the socket; twice is fine.

        Blocks until the client that is being served has its line, a second at most.
        """
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if was_open:
            _open.discard(self)
            self._alarm.send(b"!")
            self._thread.join()
            self._let_go()

    def __enter__(self) -> StatusServer:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Say where it serves."""
        return f"<StatusServer {self.path!r}{'' if self._is_open else ' closed'}>"

    def _let_go(self) -> None:
        """Remove the file, unless it is another's by now, and close the sockets."""
        with suppress(OSError):  # somebody removed it
            if _identity(self.path) == self._file:
                os.unlink(self.path)
        self._close_sockets()

    def _close_sockets(self) -> None:
        for each in (self._listener, self._waker, self._alarm, self._client):
            if each is not None:
                each.close()

    def forked(self) -> None:
        """Leave all to the parent: what a forked child does, which has no serving thread."""
        self._is_open = False
        self._lock = threading.Lock()
        self._close_sockets()  # or clients would wait for the child once the parent has ended

    # The serving thread

    def _serve(self) -> None:
        door, alarm = select.poll(), select.poll()
        door.register(self._listener, select.POLLIN)
        for each in (door, alarm):
            each.register(self._waker, select.POLLIN)
        while self._is_open:
            door.poll()
            try:
                self._client, _ = self._listener.accept()
            except BlockingIOError:  # it was the alarm, or the client went away again
                continue
            except OSError:  # too many files are open, say: not to try again at once
                alarm.poll(1000 * _PATIENCE)
                continue
            with self._client:
                self._answer(self._client)
            self._client = None

    def _answer(self, client: socket.socket) -> None:
        """Send a line; whatever the client does, or an error of ours, ends but this answer."""
        try:
            client.settimeout(_PATIENCE)
            if _user_of(client) in (0, os.geteuid()):
                client.sendall(self._fresh_line())
        except OSError:  # it went away, or does not read
            pass
        except Exception as error:
            fields = {
                "event.name": "background_tasks.status.failed",
                "background_tasks.reason": checks.error_text(error),
            }
            log(_ERROR, "status could not be told", fields)

    def _fresh_line(self) -> bytes:
        at = monotonic()
        if at - self._made_at >= _FRESH:
            self._line = json.dumps(snapshot(self._scheduler), allow_nan=False).encode() + b"\n"
            self._made_at = at
        return self._line


def checked_path(path: object) -> str:
    """Return *path*, absolute.

    Raises:
        ValueError: No Unix socket can have it.
        TypeError: It is no path.
    """
    plain = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(plain, str):
        raise InvalidTypeError(f"path must be a str or a Path, got {checks.shown(path)}")
    text = os.path.abspath(plain)
    if not plain or "\0" in text or len(os.fsencode(text)) > _LONGEST_PATH:
        raise InvalidValueError(
            f"path must have 1 to {_LONGEST_PATH} bytes when it is absolute, none of them null,"
            f" got {checks.shown(text)}"
        )
    return text


def _listener(path: str) -> socket.socket:
    """Return a socket that listens at *path*, whose file is its owner's alone from its birth."""
    _make_room(path)
    made = _unix_socket()
    try:
        with suppress(OSError):  # not every system has it
            os.fchmod(made.fileno(), _OWNER_ONLY)  # the mode its file will be born with
        made.bind(path)
        os.chmod(path, _OWNER_ONLY)  # for other systems; nobody can connect before it listens
        made.listen(_BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        error.filename = path
        raise
    return made


def _make_room(path: str) -> None:
    """Remove a socket that nobody serves; refuse what else is at *path*."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidValueError(f"path must be free, got {path!r}, which is no socket")
    if _is_served(path):
        raise InvalidValueError(f"path must be free, got {path!r}, which is in use")
    with suppress(FileNotFoundError):
        os.unlink(path)


def _is_served(path: str) -> bool:
    with _unix_socket() as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # many wait to be served, or it is another user's
            return True
        return True


def _identity(path: str) -> tuple[int, int]:
    """Return what tells this file from a later one of the same name."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _user_of(client: socket.socket) -> int:
    """Return the user ID of the other side; this process's own where the system does not tell."""
    sockets = _sockets()
    if not hasattr(sockets, "SO_PEERCRED"):
        return os.geteuid()
    size = struct.calcsize(_CREDENTIALS)
    credentials = client.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, size)
    user: int = struct.unpack(_CREDENTIALS, credentials)[1]
    return user


# The other side


def ask(path: str, patience: float = 2.0) -> dict[str, Any]:
    """Return the `snapshot` that is served at *path*; blocks *patience* seconds at most.

    Raises:
        OSError: Nobody answers there in time.
        ValueError: What was answered is no snapshot, or one of another format.
    """
    end = monotonic() + patience
    line = b""
    with _unix_socket() as server:
        server.settimeout(patience)
        server.connect(path)
        while not line.endswith(b"\n"):
            server.settimeout(max(0.001, end - monotonic()))
            part = server.recv(65536)
            line += part
            if not part or len(line) > _LONGEST_LINE:
                raise InvalidValueError(f"the answer must be one line, got {len(line)} bytes")
    return _understood(line)


def _understood(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InvalidValueError(f"the answer must be a snapshot of format {FORMAT}")
    return values


# The system


def _sockets() -> ModuleType:
    import socket  # when it is used: it costs 3 ms, and few need it

    return socket


def _unix_socket() -> socket.socket:
    sockets = _sockets()
    made: socket.socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    return made


_open: set[StatusServer] = set()


@atexit.register
def _close_all() -> None:
    for server in list(_open):
        server.close()


def _after_fork_in_child() -> None:  # pragma: no cover - in a child, which does not count lines
    for server in list(_open):
        server.forked()
    _open.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows does not fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
