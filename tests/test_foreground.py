"""A scheduler of the user's in the foreground: how it is found, watched and ended."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import background_tasks
from background_tasks import OneTimeTrigger, Scheduler, Task, foreground
from background_tasks.__main__ import main
from background_tasks.status import ask
from tests.conftest import Gate
from tests.terminal import Terminal, attached, used_by


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what was done to the path, the modules and the logging."""
    monkeypatch.setattr(foreground, "_MOMENT", 60)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    logger = logging.getLogger("background_tasks")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Return a terminal of a hundred columns and thirty lines."""
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shop(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """Return the scheduler that ``shop:scheduler`` names."""
    module = ModuleType("shop")
    module.scheduler = scheduler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", module)
    return scheduler


def run_on(terminal: Terminal, user: Callable[[], object], *arguments: str) -> int:
    """Return the exit status of ``run`` on *terminal*, which *user* uses and ends."""
    with attached(terminal):
        return used_by(user, lambda: main(["run", *arguments]))


def interrupt() -> None:
    """Do what Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


# What is run


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shop", "TARGET must be module:name, got 'shop'"),
        (":scheduler", "TARGET must be module:name, got ':scheduler'"),
        ("shop:", "TARGET must be module:name, got 'shop:'"),
        ("shop:make()", "TARGET must be module:name, got 'shop:make()'"),
        ("../shop:make", "TARGET must be module:name, got '../shop:make'"),
        ("nowhere:scheduler", "there is no module 'nowhere'"),
        ("nowhere.at.all:scheduler", "there is no module 'nowhere.at.all'"),
        ("shop:nothing", "the module 'shop' has no 'nothing'"),
        ("shop:holder.nothing", "the module 'shop' has no 'holder.nothing'"),
        (
            "shop:number",
            "shop:number must be a Scheduler or a function that returns one, got 3",
        ),
        (
            "shop:Scheduler",
            "shop:Scheduler must be a Scheduler or a function that returns one,"
            " got <class 'background_tasks.scheduler.Scheduler'>",
        ),
        ("shop:make_number", "shop:make_number() must return a Scheduler, got 3"),
    ],
)
def test_what_cannot_be_run_is_refused(
    shop: Scheduler, capsys: pytest.CaptureFixture[str], target: str, message: str
) -> None:
    """One line says the rule and the value."""
    vars(sys.modules["shop"]).update(
        number=3, make_number=lambda: 3, holder=SimpleNamespace(), Scheduler=Scheduler
    )

    assert main(["run", target]) == 2

    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"background-tasks run: {message}\n")
    assert shop.state == "new"


@pytest.mark.parametrize("target", ["shop:scheduler", "shop:make", "shop:holder.scheduler"])
def test_a_scheduler_or_a_function_that_makes_one(
    shop: Scheduler, terminal: Terminal, target: str
) -> None:
    """Either is run, in whatever object of the module it is."""
    vars(sys.modules["shop"]).update(make=lambda: shop, holder=SimpleNamespace(scheduler=shop))
    shop.add_task(Task("stop", interrupt, triggers=[OneTimeTrigger(delay=0)]))

    assert run_on(terminal, lambda: None, target) == 130

    assert shop.state == "stopped"


def test_a_module_is_found_in_the_current_folder(
    folder: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way the command was started."""
    (folder / "bazaar.py").write_text(
        "import os, signal\n"
        "from background_tasks import OneTimeTrigger, Scheduler, Task\n"
        "def end(): os.kill(os.getpid(), signal.SIGTERM)\n"
        "scheduler = Scheduler(1)\n"
        "scheduler.add_task(Task('end', end, triggers=[OneTimeTrigger(delay=0)]))\n"
    )
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])

    assert run_on(terminal, lambda: None, "bazaar:scheduler") == 143
    assert sys.path[0] == str(folder)
    foreground._load("bazaar:scheduler")
    assert sys.path.count(str(folder)) == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import nowhere_to_be_found", ModuleNotFoundError),
        ("raise ValueError('of the module')", ValueError),
        ("raise AttributeError('of the module')", AttributeError),
    ],
)
def test_an_error_of_the_module_is_its_own(folder: Path, text: str, error: type[Exception]) -> None:
    """With its traceback, which is what helps."""
    (folder / "broken.py").write_text(text)

    with pytest.raises(error):
        main(["run", "broken:scheduler"])


# The status


def test_the_status_is_served_meanwhile(
    shop: Scheduler, folder: Path, terminal: Terminal, gate: Gate
) -> None:
    """On the socket that was asked for, which is removed in the end."""
    seen = []
    shop.add_task(Task("import orders", gate, triggers=[OneTimeTrigger(delay=0)]))

    def user() -> None:
        gate.wait_entered()
        gate.leave.set()
        seen.append(ask("shop.sock")["state"])
        interrupt()

    assert run_on(terminal, user, "shop:scheduler", "--status", "shop.sock") == 130
    assert seen == ["running"]
    assert list(folder.iterdir()) == []


def test_a_status_that_cannot_be_served_is_refused(
    shop: Scheduler, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started."""
    (folder / "shop.sock").touch()
    for path, message in (
        ("shop.sock", f"path must be free, got '{folder}/shop.sock', which is no socket"),
        ("none/s", f"[Errno 2] No such file or directory: '{folder}/none/s'"),
    ):
        assert main(["run", "shop:scheduler", "--status", path]) == 2
        assert capsys.readouterr().err == f"background-tasks run: --status: {message}\n"

    assert shop.state == "new"


# The log


def test_without_a_configuration_the_log_is_json(
    shop: Scheduler, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error, as that of the demo."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    shop.add_task(Task("stop", interrupt, triggers=[OneTimeTrigger(delay=0)]))

    assert main(["run", "shop:scheduler"]) == 130

    lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == "scheduler started"
    assert "scheduler stopped" in lines


def test_without_standard_error_there_is_no_log(
    shop: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs all the same: Python has None there where it was closed."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stderr", None)
    shop.add_task(Task("stop", interrupt, triggers=[OneTimeTrigger(delay=0)]))

    assert main(["run", "shop:scheduler"]) == 130
    assert shop.state == "stopped"


@pytest.mark.parametrize("name", ["", "background_tasks"])
def test_a_configuration_of_the_module_stays(
    shop: Scheduler,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """That of the root, or of our logger."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
    logging.getLogger("background_tasks").setLevel(logging.INFO)
    shop.add_task(Task("stop", interrupt, triggers=[OneTimeTrigger(delay=0)]))

    assert main(["run", "shop:scheduler"]) == 130

    assert records[0].getMessage() == "scheduler started"
    assert capsys.readouterr().err == ""


# The end


def test_what_runs_is_waited_for(
    shop: Scheduler, terminal: Terminal, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And named meanwhile."""
    monkeypatch.setattr(foreground, "_MOMENT", 0.01)
    shop.add_task(Task("import orders", gate, triggers=[OneTimeTrigger(delay=0)]))

    def user() -> None:
        gate.wait_entered()
        os.kill(os.getpid(), signal.SIGTERM)
        terminal.wait_for("waiting up to 30 s for import orders; another signal ends at once")
        gate.leave.set()

    assert run_on(terminal, user, "shop:scheduler") == 143
    assert shop.stats().succeeded == 1


def test_what_runs_is_not_waited_for_any_longer(
    shop: Scheduler, terminal: Terminal, gate: Gate
) -> None:
    """It is named, and the end of the process does not wait for it once more."""
    shop.add_task(Task("import orders", gate, triggers=[OneTimeTrigger(delay=0)]))

    def user() -> None:
        gate.wait_entered()
        interrupt()

    assert run_on(terminal, user, "shop:scheduler", "--grace", "0.01") == 130
    terminal.wait_for("ended without waiting any longer for import orders")
    assert shop._exit_grace == 0
    assert shop.stats().running == 1


def test_another_signal_ends_at_once(
    shop: Scheduler, terminal: Terminal, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies of it, as it would have without us."""
    raised = []

    def die(number: int) -> None:
        raised.append((number, signal.getsignal(number)))
        gate.leave.set()

    monkeypatch.setattr(foreground, "_MOMENT", 0.01)
    monkeypatch.setattr(signal, "raise_signal", die)
    shop.add_task(Task("import orders", gate, triggers=[OneTimeTrigger(delay=0)]))

    def user() -> None:
        gate.wait_entered()
        interrupt()
        terminal.wait_for("another signal ends at once")
        os.kill(os.getpid(), signal.SIGTERM)

    run_on(terminal, user, "shop:scheduler")

    assert raised == [(signal.SIGTERM, signal.SIG_DFL)]


# The view


def test_the_view_of_the_same_process(shop: Scheduler, terminal: Terminal, gate: Gate) -> None:
    """What a task prints does not tear it, and is shown afterwards; q ends all."""

    def speak() -> None:
        gate()
        os.write(1, b"written by a task\n")
        print("printed by a task", file=sys.stderr)

    shop.add_task(Task("import orders", speak, triggers=[OneTimeTrigger(delay=0)]))

    def user() -> None:
        gate.wait_entered()
        seen = terminal.wait_for("RUNNING 1 of 2")
        assert seen.startswith("shop:scheduler  pid ")
        assert terminal.is_in_use()
        gate.leave.set()
        seen = terminal.wait_for("RUNNING 0 of 2")
        assert "by a task" not in seen
        terminal.type(b"q")

    assert run_on(terminal, user, "shop:scheduler", "--top", "--interval", "0.02") == 0
    terminal.wait_until_given_back()
    terminal.wait_until(lambda seen: "written by a task\nprinted by a task" in seen)
    assert terminal.raw.count(b"by a task") == 2
    assert shop.state == "stopped"


def test_what_is_redirected_is_not_held_back(
    shop: Scheduler, terminal: Terminal, folder: Path
) -> None:
    """It goes where it was sent, at once."""

    def user() -> None:
        terminal.wait_for("RUNNING 0 of 2")
        os.write(2, b"to a file\n")
        interrupt()

    with open("log", "wb") as log, attached(terminal, 0, 1):
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            assert used_by(user, lambda: main(["run", "shop:scheduler", "--top"])) == 130
        finally:
            os.dup2(kept, 2)
            os.close(kept)

    assert "to a file\n" in (folder / "log").read_text()
    assert b"to a file" not in terminal.raw


@pytest.mark.parametrize("name", ["stdin", "stderr"])
def test_the_view_without_a_standard_stream(
    shop: Scheduler, terminal: Terminal, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without keys a signal ends it; without standard error nothing is shown in the end."""

    def user() -> None:
        terminal.wait_for("NO FAILURES")
        interrupt()

    with attached(terminal):
        monkeypatch.setattr(sys, name, None)
        assert used_by(user, lambda: main(["run", "shop:scheduler", "--top"])) == 130
    assert shop.state == "stopped"


def test_a_view_that_fails(
    shop: Scheduler, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler is stopped and what was held back is shown, as ever."""

    def fail(*_: object, **__: object) -> None:
        print("printed meanwhile", file=sys.stderr)
        raise OSError("the terminal has gone")

    monkeypatch.setattr(foreground, "watch", fail)
    with attached(terminal), pytest.raises(OSError, match="the terminal has gone"):
        main(["run", "shop:scheduler", "--top"])

    terminal.wait_for("printed meanwhile")
    assert shop.state == "stopped"


def test_the_view_needs_a_terminal(shop: Scheduler, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says so, and nothing is started."""
    assert main(["run", "shop:scheduler", "--top"]) == 2

    assert capsys.readouterr().err == (
        "background-tasks run: --top needs a terminal that can move the cursor\n"
    )
    assert shop.state == "new"


def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is kept, whoever writes on."""
    monkeypatch.setattr(foreground, "_KEPT", 10)
    monkeypatch.setattr(foreground, "_MOST_KEPT", 20)
    with tempfile.TemporaryFile() as held:
        writer = os.dup(held.fileno())
        os.write(writer, b"0123456789abcdefghij")
        foreground._bound(held)
        assert os.fstat(writer).st_size == 20

        os.write(writer, b"k")
        foreground._bound(held)
        assert foreground._end_of(held) == b"bcdefghijk"
        os.write(writer, b"lmn")
        os.close(writer)

        assert foreground._end_of(held) == b"efghijklmn"
        assert os.fstat(held.fileno()).st_size == 13


# The command line, in a process of its own

_SHOP = """
    import sys, threading
    from background_tasks import OneTimeTrigger, PeriodicTrigger, Scheduler, Task

    leave = threading.Event()

    def import_orders():
        print("importing", flush=True)
        leave.wait()

    def make():
        scheduler = Scheduler(2)
        scheduler.add_task(Task("import orders", import_orders, triggers=[OneTimeTrigger(delay=0)]))
        return scheduler

    scheduler = Scheduler(2)
    scheduler.add_task(Task("sample", int, triggers=[PeriodicTrigger(interval=0.05)]))
    """


@pytest.fixture
def a_shop(folder: Path) -> Path:
    """Return a folder with a module that has a scheduler and a function that makes another."""
    (folder / "shop.py").write_text(textwrap.dedent(_SHOP))
    return folder


def command(*arguments: str) -> list[str]:
    """Return what a shell would be told."""
    return [sys.executable, "-W", "error", "-m", "background_tasks", *arguments]


ENVIRON = {"PYTHONPATH": str(Path(background_tasks.__file__).parents[1])}


def test_ctrl_c_in_the_view(a_shop: Path, terminal: Terminal) -> None:
    """In a window of a terminal, drawn larger meanwhile."""
    arguments = ("run", "shop:scheduler", "--top", "--interval", "0.05")
    with terminal.running(command(*arguments), **ENVIRON):
        terminal.wait_until(lambda seen: "sample" in seen and "healthy" in seen)
        terminal.resize(160, 40)
        terminal.wait_until(lambda seen: len(seen.splitlines()[0]) == 160)
        terminal.type(b"\x03")
        assert terminal.wait_for_end() == 130

    terminal.wait_until_given_back()
    terminal.wait_until(lambda _: b'"message": "scheduler stopped"' in terminal.raw)


def test_a_view_in_another_encoding(a_shop: Path, terminal: Terminal) -> None:
    """What it has no letter for is a question mark."""
    with (
        Scheduler(1).serve_status(a_shop / "s"),
        terminal.running(command("top", "s"), PYTHONIOENCODING="ascii", **ENVIRON),
    ):
        terminal.wait_for("NO FAILURES")
        terminal.type(b"q")
        assert terminal.wait_for_end() == 0

    terminal.wait_until_given_back()


def test_a_process_that_is_watched_and_killed(a_shop: Path, terminal: Terminal) -> None:
    """By a view in another one, which says so and goes on."""
    with (
        subprocess.Popen(
            command("run", "shop:make", "--status", "s"),
            env={**os.environ, **ENVIRON},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
        terminal.running(command("top", "s", "--interval", "0.05"), **ENVIRON),
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        terminal.wait_for("RUNNING 1 of 2")
        assert f"pid {process.pid} " in terminal.text()
        process.kill()
        terminal.wait_for("no answer from s, trying again")
        terminal.type(b"q")
        assert terminal.wait_for_end() == 0

    terminal.wait_until_given_back()


def test_two_signals_end_a_process_whose_task_does_not(a_shop: Path) -> None:
    """The first asks, the second kills."""
    with subprocess.Popen(
        command("run", "shop:make"),
        bufsize=0,
        env={**os.environ, **ENVIRON},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGTERM)
        while b"another signal ends at once" not in (line := process.stderr.readline()):
            assert json.loads(line)
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
        rest = process.stderr.read()

    assert status == -signal.SIGINT
    assert rest == b""
