"""The socket that tells others what a scheduler is at: to whom, what, and what it survives."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from background_tasks import InvalidTypeError, InvalidValueError, Scheduler, Task, status
from background_tasks.status import StatusServer, ask


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return where a socket may be made."""
    return str(tmp_path / "s")


@pytest.fixture
def server(scheduler: Scheduler, path: str) -> Iterator[StatusServer]:
    """Return what serves the status of `scheduler` at `path`."""
    with scheduler.serve_status(path) as made:
        yield made


def mode_of(path: str) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(os.stat(path).st_mode)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Have another umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def client_of(path: str) -> socket.socket:
    """Return a client that is connected and has read nothing."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(10)
    made.connect(path)
    return made


def all_of(client: socket.socket) -> bytes:
    """Read until the other side has closed."""
    with client, client.makefile("rb") as file:
        return file.read()


# What is told


def test_a_client_is_sent_one_line(scheduler: Scheduler, server: StatusServer, path: str) -> None:
    """A snapshot as JSON; then that is all."""
    scheduler.add_task(Task("look", int))

    line = all_of(client_of(path))

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert [task["task_name"] for task in json.loads(line)["tasks"]] == ["look"]
    assert ask(path)["pid"] == os.getpid()


def test_what_a_client_sends_is_not_read(
    server: StatusServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets its line, and nothing else happens."""
    sent = threading.Event()
    monkeypatch.setattr(status, "snapshot", lambda _: {"was sent": sent.wait(10)})

    with client_of(path) as client:
        client.sendall(b"stop\n")
        sent.set()
        assert client.recv(100) == b'{"was sent": true}\n'


def test_clients_that_ask_often_are_sent_the_same(
    server: StatusServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a fifth of a second, so that asking costs the application little."""
    now = [1000.0]
    monkeypatch.setattr(status, "monotonic", lambda: now[0])

    lines = []
    for passed in (0, 0.19, 0.02):
        now[0] += passed
        lines.append(all_of(client_of(path)))

    assert lines[0] == lines[1] != lines[2]


def test_status_outlives_the_lives_of_its_scheduler(server: StatusServer, path: str) -> None:
    """It tells of a stop as of a start."""
    scheduler = server._scheduler
    assert isinstance(scheduler, Scheduler)

    states = [ask(path)["state"]]
    for change in (scheduler.start, scheduler.stop, scheduler.resume):
        change()
        server._made_at = -1  # as if time had passed
        states.append(ask(path)["state"])

    assert states == ["new", "running", "stopped", "running"]


# Who may look


def test_the_socket_is_its_owners_alone(scheduler: Scheduler, path: str) -> None:
    """However generous the umask is."""
    with umask(0), scheduler.serve_status(path):
        assert mode_of(path) == 0o600


def test_the_socket_is_born_so(
    scheduler: Scheduler, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no moment at which others could open it."""
    seen: list[int] = []
    monkeypatch.setattr(os, "chmod", lambda path, mode: seen.append(mode_of(path)))

    with umask(0), scheduler.serve_status(path):
        assert seen == [0o600]


def test_where_a_socket_has_no_mode_its_file_is_given_one(
    scheduler: Scheduler, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it listens."""

    def refuse(*_: object) -> None:
        raise OSError("not on this system")

    monkeypatch.setattr(os, "fchmod", refuse)

    with umask(0), scheduler.serve_status(path):
        assert mode_of(path) == 0o600


@pytest.mark.parametrize(("uid", "length"), [(os.geteuid() + 1, 0), (os.geteuid(), 1), (0, 1)])
def test_another_user_is_turned_away(
    server: StatusServer, path: str, monkeypatch: pytest.MonkeyPatch, uid: int, length: int
) -> None:
    """Should one get past the permissions; root may look."""
    monkeypatch.setattr(status, "_user_of", lambda client: uid)

    with client_of(path) as client:
        assert len(client.recv(1)) == length


def test_the_system_says_who_connects(server: StatusServer, path: str) -> None:
    """The same user here, in this process."""
    one, other = socket.socketpair()

    with one, other:
        assert status._user_of(one) == os.geteuid()


def test_where_the_system_does_not_say_it_the_permissions_have_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever gets through them is taken for the owner."""
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    one, other = socket.socketpair()

    with one, other:
        assert status._user_of(one) == os.geteuid()


# What it survives


def test_a_client_that_does_not_read_holds_nobody_up_for_long(
    server: StatusServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left when its time is up, and the next one is served."""
    monkeypatch.setattr(status, "_PATIENCE", 0.05)
    monkeypatch.setattr(status, "snapshot", lambda _: {"format": 1, "text": "x" * 2_000_000})

    with client_of(path):
        assert ask(path, 10)["format"] == 1


def test_clients_that_go_away_at_once(server: StatusServer, path: str) -> None:
    """They are no reason to stop."""
    for _ in range(5):
        client_of(path).close()

    assert ask(path)["format"] == 1


def test_an_error_of_ours_costs_one_answer(
    server: StatusServer,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, and the next client is served."""

    def fail(_: object) -> dict[str, Any]:
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(status, "snapshot", fail)
        assert all_of(client_of(path)) == b""

    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "status could not be told")
    assert vars(record)["background_tasks.reason"] == "ValueError: broken"
    assert ask(path)["format"] == 1


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), BlockingIOError()])
def test_a_client_that_cannot_be_accepted_is_tried_again(
    server: StatusServer, path: str, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """After a while, as when no file can be opened, or at once when there was none."""
    errors = [error]
    real = server._listener

    class Short:
        def accept(self) -> object:
            if errors:
                raise errors.pop()
            return real.accept()

        def close(self) -> None:
            real.close()

    monkeypatch.setattr(status, "_PATIENCE", 0.01)
    server._listener = Short()  # type: ignore[assignment]

    assert ask(path, 10)["format"] == 1
    assert errors == []


# Where it is


def test_closing_removes_the_socket(scheduler: Scheduler, path: str) -> None:
    """Closing twice is fine."""
    server = scheduler.serve_status(Path(path))
    assert repr(server) == f"<StatusServer {path!r}>"

    server.close()
    server.close()

    assert not os.path.exists(path)
    assert repr(server) == f"<StatusServer {path!r} closed>"
    with pytest.raises(FileNotFoundError):
        ask(path)


def test_the_path_may_be_relative(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To where the process is when it is given; that may change afterwards."""
    monkeypatch.chdir(tmp_path)
    with scheduler.serve_status("s") as server:
        monkeypatch.chdir("/")
        assert server.path == str(tmp_path / "s")

    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_nobody_serves_is_replaced(scheduler: Scheduler, path: str) -> None:
    """It is what a killed process leaves."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(path)

    with scheduler.serve_status(path):
        assert ask(path)["format"] == 1


def test_a_socket_that_is_served_is_let_alone(server: StatusServer, path: str) -> None:
    """One scheduler a path."""
    with pytest.raises(InvalidValueError, match=r"^path must be free, got '.*/s', which is in use"):
        Scheduler(1).serve_status(path)

    assert ask(path)["format"] == 1


def test_a_socket_that_cannot_be_asked_is_let_alone(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is busy, or another user's."""
    monkeypatch.setattr(status, "_PATIENCE", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(path)
        busy.listen(0)
        filling = client_of(path)
        with filling, pytest.raises(InvalidValueError, match="which is in use"):
            Scheduler(1).serve_status(path)


def test_a_socket_that_goes_away_while_it_is_asked(path: str) -> None:
    """There is nothing in the way then."""
    assert not status._is_served(path)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda it: it.symlink_to("elsewhere")])
def test_what_is_no_socket_is_let_alone(path: str, make: Callable[[Path], None]) -> None:
    """A file, a folder, a link to anything."""
    make(Path(path))

    with pytest.raises(InvalidValueError, match=r"path must be free, got '.*', which is no socket"):
        Scheduler(1).serve_status(path)

    assert os.path.lexists(path)


@pytest.mark.parametrize("path", ["", "a\0b", "/tmp/" + "x" * 103, "/tmp/" + "ü" * 52])
def test_a_path_that_no_socket_can_have_is_refused(path: str) -> None:
    """The message states the rule and the value."""
    with pytest.raises(InvalidValueError, match="path must have 1 to 107 bytes when it is absol"):
        Scheduler(1).serve_status(path)


@pytest.mark.parametrize("path", [3, None, b"/tmp/s", ["/tmp/s"]])
def test_what_is_no_path_is_refused(path: Any) -> None:
    """The message states the rule and the value."""
    with pytest.raises(InvalidTypeError, match="path must be a str or a Path, got"):
        Scheduler(1).serve_status(path)


def test_what_the_system_refuses_is_named(path: str) -> None:
    """With the path, which the system leaves out."""
    with pytest.raises(FileNotFoundError, match="/not there/s"):
        Scheduler(1).serve_status(f"{os.path.dirname(path)}/not there/s")


def test_a_file_that_was_replaced_is_not_removed(server: StatusServer, path: str) -> None:
    """It is another's."""
    os.unlink(path)
    Path(path).write_text("another's")

    server.close()

    assert Path(path).read_text() == "another's"


def test_without_a_thread_nothing_is_left(
    scheduler: Scheduler, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told, and may try again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            scheduler.serve_status(path)

    assert not os.path.exists(path)
    with scheduler.serve_status(path):
        assert ask(path)["format"] == 1


# The end, and forks


def test_the_end_of_the_process_closes_all(scheduler: Scheduler, tmp_path: Path) -> None:
    """Each that is open."""
    servers = [scheduler.serve_status(tmp_path / name) for name in "abc"]
    servers[0].close()

    status._close_all()

    assert list(tmp_path.iterdir()) == []
    assert [server._is_open for server in servers] == [False] * 3


def test_a_forked_server_leaves_the_file(scheduler: Scheduler, path: str) -> None:
    """Closing does nothing any more: the file is the parent's."""
    server = scheduler.serve_status(path)
    server.close()
    Path(path).touch()
    server.forked()
    server.close()

    assert os.path.exists(path)


_FORKING = """
    import os, sys
    from background_tasks import Scheduler
    from background_tasks.status import ask

    path = sys.argv[1]
    server = Scheduler(1).serve_status(path)
    pid = os.fork()
    if pid == 0:
        assert "closed" in repr(server)
        server.close()
        sys.exit(7)  # what is to be done at the end is done, in the child, too
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    print(ask(path)["pid"] == os.getpid())
    """


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_neither_serves_nor_removes(path: str) -> None:
    """The parent goes on after it has ended, and removes the socket at its own end."""
    done = subprocess.run(
        # Python 3.12 and later warn of any fork of a process with threads.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(_FORKING), path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)
    assert not os.path.exists(path)


# Asking


@contextmanager
def answering(path: str, answer: Callable[[socket.socket], object]) -> Iterator[None]:
    """Serve one client at *path* with what *answer* does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                answer(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "the answer must be one line, got 0 bytes"),
        (b"{}", "the answer must be one line, got 2 bytes"),
        (b"{}\n", "the answer must be a snapshot of format 1"),
        (b'{"format": 2}\n', "the answer must be a snapshot of format 1"),
        (b"[1]\n", "the answer must be a snapshot of format 1"),
        (b"no JSON\n", "the answer must be a snapshot of format 1"),
        (b"\xff\n", "the answer must be a snapshot of format 1"),
        (b"[" * 100_000 + b"\n", "the answer must be a snapshot of format 1"),
    ],
    ids=["nothing", "no end", "no format", "another format", "a list", "text", "bytes", "deep"],
)
def test_another_answer_is_refused(path: str, answer: bytes, message: str) -> None:
    """Whatever is at the other side, this one does not fall for it."""
    with (
        answering(path, lambda client: client.sendall(answer)),
        pytest.raises(InvalidValueError, match=f"^{message}$"),
    ):
        ask(path)


def test_an_answer_without_end_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is longer than a snapshot can be."""
    monkeypatch.setattr(status, "_LONGEST_LINE", 10)
    with (
        answering(path, lambda client: client.sendall(b"x" * 11)),
        pytest.raises(InvalidValueError, match="the answer must be one line, got 11 bytes"),
    ):
        ask(path)


def test_an_answer_that_does_not_come_is_waited_for_so_long(path: str) -> None:
    """Then that is an error as any other of the system."""
    left = threading.Event()

    with answering(path, lambda _: left.wait(10)):
        with pytest.raises(TimeoutError):
            ask(path, 0.01)
        left.set()
