"""The public surface: its names, its errors, the order of its modules and what an import costs."""

from __future__ import annotations

import ast
import importlib.resources
import inspect
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import background_tasks
from background_tasks import (
    AlreadyAddedError,
    BackgroundTasksError,
    CronExpressionError,
    EventTrigger,
    Execution,
    ExecutorBrokenError,
    InvalidTypeError,
    InvalidValueError,
    LostWorkerError,
    MissingExtraError,
    OneTimeTrigger,
    PeriodicTrigger,
    RetryPolicy,
    Scheduler,
    Task,
    TaskNotFoundError,
    Trigger,
    configure_logging,
)

PACKAGE = Path(background_tasks.__file__).parent
TREES = {
    path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.glob("*.py"))
}
MODULES = [name for name in TREES if name != "__init__"]
PURE = ["heap", "agenda", "ready", "gates", "engine"]


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those in its conditions and tries included."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try)):
            yield from _top_level([*statement.body, *statement.orelse])


def _defined(module: str) -> set[str]:
    """Return the names that *module* defines itself."""
    found: set[str] = set()
    for statement in _top_level(TREES[module].body):
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            found.add(statement.name)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                found.update(each.id for each in ast.walk(target) if isinstance(each, ast.Name))
    return found


def _exported(module: str) -> list[str]:
    """Return the ``__all__`` of *module*, empty when it has none."""
    for statement in TREES[module].body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(statement.value)
            return names
    return []


def _imports(tree: ast.AST) -> set[str]:
    """Return what a tree imports, at the top or in a function: "x.y" for ``from x import y``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _needs(module: str) -> set[str]:
    """Return the modules of the package that *module* imports."""
    parts = [name.split(".") for name in _imports(TREES[module])]
    return {part[1] for part in parts if part[0] == "background_tasks" and part[1] in TREES}


def _users_of(library: str) -> list[str]:
    """Return the modules that import *library*."""
    return [
        module
        for module, tree in TREES.items()
        if any(name.partition(".")[0] == library for name in _imports(tree))
    ]


# Names


def test_the_names_of_the_package_are_sorted() -> None:
    """So that one is found where it is looked for, and none is there twice."""
    names = background_tasks.__all__

    assert names == sorted(set(names))


@pytest.mark.parametrize("name", background_tasks.__all__)
def test_a_name_of_the_package_resolves(name: str) -> None:
    """It can be imported, and its docstring says what it is."""
    found = getattr(background_tasks, name)

    assert inspect.getdoc(found)


def test_the_package_exports_all_it_imports() -> None:
    """What ``__init__`` takes from its modules is public, and nothing else."""
    taken = {name.rpartition(".")[2] for name in _imports(TREES["__init__"])}

    assert taken == set(background_tasks.__all__)


def test_a_star_import_gives_those_names() -> None:
    """No more and no less."""
    names: dict[str, object] = {}

    exec("from background_tasks import *", names)

    assert set(names) - {"__builtins__"} == set(background_tasks.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_is_public(module: str) -> None:
    """It has an ``__all__``, and defines or imports each name in it."""
    names = _exported(module)

    assert names
    imported = {name.rpartition(".")[2] for name in _imports(TREES[module])}
    assert set(names) <= _defined(module) | imported


@pytest.mark.parametrize("module", MODULES)
def test_what_is_not_public_has_an_underscore(module: str) -> None:
    """A name that is missing in ``__all__`` says so itself."""
    public = {name for name in _defined(module) if not name.startswith("_")}

    assert public - set(_exported(module)) == set()


@pytest.mark.parametrize("module", [*MODULES, "__init__"])
def test_a_module_says_what_it_is_for(module: str) -> None:
    """It begins with its purpose."""
    assert ast.get_docstring(TREES[module])


def test_types_are_shipped() -> None:
    """Type checkers look for this file."""
    assert importlib.resources.files("background_tasks").joinpath("py.typed").is_file()


# The specification


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        pytest.param(
            Scheduler,
            [
                "tasks", "running", "max_running_tasks", "last_task_id", "add_task", "remove_task",
                "start", "stop", "resume", "run_task", "run_tasks", "running_tasks_count",
            ],
            id="Scheduler",
        ),
        pytest.param(Trigger, ["is_ready", "reset"], id="Trigger"),
        pytest.param(PeriodicTrigger, ["interval", "cron_expr", "is_ready", "reset"], id="period"),
        pytest.param(EventTrigger, ["trigger", "is_ready", "reset"], id="event"),
        pytest.param(OneTimeTrigger, ["delay", "is_ready", "reset"], id="one time"),
        pytest.param(
            Task,
            [
                "id", "name", "description", "triggers", "function", "args", "retry_policy",
                "enabled", "priority", "execution_hist",
            ],
            id="Task",
        ),
        pytest.param(RetryPolicy, ["max_retries", "delay"], id="RetryPolicy"),
        pytest.param(
            Execution,
            ["started_at", "ended_at", "status", "error", "event", "results"],
            id="Execution",
        ),
    ],
)  # fmt: skip
def test_the_names_of_the_specification(owner: type, names: list[str]) -> None:
    """Each has its place in Python."""
    assert [name for name in names if not hasattr(owner, name)] == []


def test_the_order_of_the_specified_fields() -> None:
    """Positional arguments are those of the specification."""
    assert [field.name for field in fields(RetryPolicy)][:2] == ["max_retries", "delay"]
    assert [field.name for field in fields(Execution)][:6] == [
        "started_at", "ended_at", "status", "error", "event", "results",
    ]  # fmt: skip


def test_the_specification_at_work() -> None:
    """Started by the context: an event and a delay run their tasks, and leaving it waits."""
    ran: list[object] = []
    both = threading.Semaphore(0)
    changed = EventTrigger()

    def note(what: str) -> str:
        ran.append(what)
        both.release()
        return what

    with Scheduler(4) as s:
        reload = s.add_task(Task("reload", note, args=["event"], triggers=[changed]))
        s.add_task(Task("once", note, args=["once"], triggers=[OneTimeTrigger(delay=0)]))
        s.add_task(Task("later", note, args=["late"], triggers=[PeriodicTrigger(interval=9999)]))
        assert changed.fire({"path": "app.toml"})
        assert all(both.acquire(timeout=10) for _ in range(2))

    assert sorted(map(str, ran)) == ["event", "once"]
    (execution,) = reload.execution_hist
    assert (execution.status, execution.results) == ("SUCCESS", "event")
    assert execution.event == {"path": "app.toml"}


def test_the_registry_at_work() -> None:
    """IDs count from 0; a removed task is gone and its ID is not given again."""
    s = Scheduler(4)
    first, second = s.add_task(Task("a", int)), s.add_task(Task("b", int))
    assert (first.id, second.id, s.last_task_id, s.max_running_tasks) == (0, 1, 1, 4)

    s.remove_task(0)

    assert s.tasks == {1: second}
    assert s.add_task(Task("c", int)).id == 2


def test_running_by_hand_at_work() -> None:
    """Without a thread of its own: a tick, and one task."""
    s = Scheduler(4)
    task = s.add_task(Task("sum", sum, args=[[1, 2]], triggers=[OneTimeTrigger(delay=0)]))

    assert s.run_tasks() == 1
    assert s.wait_idle(10)
    assert s.running_tasks_count() == 0
    assert s.running == {}
    assert [execution.results for execution in task.execution_hist] == [3]
    assert s.run_task(s.add_task(Task("pow", pow, args=[2, 5])).id, event="asked").results == 32
    assert s.stop(10)


def test_the_log_as_json_at_work() -> None:
    """One line an event, and the handler can be taken away again."""
    stream = io.StringIO()
    handler = configure_logging(stream=stream)
    logger = background_tasks.logger.logger
    try:
        s = Scheduler(1)
        s.run_task(s.add_task(Task("a", int)).id)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(0)

    assert '"event.name": "background_tasks.run.succeeded"' in stream.getvalue()


# Errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InvalidValueError, ValueError),
        (CronExpressionError, ValueError),
        (AlreadyAddedError, ValueError),
        (InvalidTypeError, TypeError),
        (TaskNotFoundError, LookupError),
        (MissingExtraError, ImportError),
        (ExecutorBrokenError, RuntimeError),
        (LostWorkerError, RuntimeError),
    ],
)
def test_an_error_is_also_a_builtin(
    error: type[BackgroundTasksError], builtin: type[Exception]
) -> None:
    """One ``except`` catches all of ours, another what a caller would expect."""
    assert issubclass(error, builtin)
    assert issubclass(error, BackgroundTasksError)
    assert not issubclass(error, KeyError)


def test_every_error_is_public() -> None:
    """None is raised that nobody can name."""
    assert set(_exported("errors")) <= set(background_tasks.__all__)


def test_a_cron_error_carries_its_expression() -> None:
    """Beside the message."""
    error = CronExpressionError("message", expression="* * *")

    assert (str(error), error.expression) == ("message", "* * *")


@pytest.mark.parametrize("task_id", [7, None])
def test_a_not_found_error_carries_the_id(task_id: int | None) -> None:
    """Beside the message, which is not shown in quotes."""
    error = TaskNotFoundError("message", task_id=task_id)

    assert (str(error), error.task_id) == ("message", task_id)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(CronExpressionError("message", expression="* * *"), id="cron"),
        pytest.param(TaskNotFoundError("message", task_id=7), id="not found"),
        pytest.param(InvalidTypeError("message"), id="type"),
    ],
)
def test_an_error_survives_another_process(error: BackgroundTasksError) -> None:
    """A task in a pool of processes may raise it: it comes back with all it carries."""
    back = pickle.loads(pickle.dumps(error))

    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


# Modules


def test_no_module_needs_itself() -> None:
    """The imports make no circle: each round takes out those that need none that are left."""
    left = {module: _needs(module) - {module} for module in TREES}

    while free := [module for module, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]

    assert left == {}


@pytest.mark.parametrize("module", PURE)
@pytest.mark.parametrize(
    "forbidden",
    ["threading", "_thread", "time", "logging", "concurrent", "queue", "asyncio", "random"],
)
def test_a_pure_module_needs_no_machinery(module: str, forbidden: str) -> None:
    """No thread, lock, clock or log of the standard library."""
    assert module not in _users_of(forbidden)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_knows_no_clock(module: str) -> None:
    """Nor those modules of ours that have them."""
    forbidden = {"clock", "primitives", "logger", "reporter", "pool", "runner", "scheduler"}

    assert _needs(module) & forbidden == set()


@pytest.mark.parametrize(
    ("library", "users"),
    [
        ("croniter", ["cron"]),
        ("opentelemetry", ["telemetry"]),
        ("prometheus_client", ["prometheus"]),
        ("psutil", ["gates"]),
        ("pythonjsonlogger", ["json_lines"]),
        ("rich", ["top"]),
    ],
)
def test_a_dependency_has_one_user(library: str, users: list[str]) -> None:
    """So that it can be exchanged in one place."""
    assert _users_of(library) == users


def test_imports_stand_at_the_top() -> None:
    """But for a dependency that is loaded when it is needed, and the socket, which few open."""
    inside: set[str] = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                inside |= {name.partition(".")[0] for name in _imports(node)}

    assert inside == {"croniter", "psutil", "pythonjsonlogger", "rich", "socket"}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "clock"])
def test_only_the_clock_reads_the_time(module: str) -> None:
    """No other module asks datetime or time what time it is."""
    readers = {
        "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now",
        "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter",
        "time.perf_counter_ns", "time.clock_gettime",
    }  # fmt: skip

    asked = {
        ast.unparse(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)
    }

    assert asked & readers == set()


# The import


def _in_a_new_interpreter(code: str) -> str:
    """Return what *code* prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_import_is_lazy() -> None:
    """The dependencies are loaded by those who use them, not by the import."""
    code = (
        "import background_tasks, sys\n"
        "print({'croniter', 'opentelemetry', 'prometheus_client', 'psutil', 'pythonjsonlogger'}"
        " & {*sys.modules})"
    )

    assert _in_a_new_interpreter(code) == "set()\n"


def test_the_import_loads_no_command() -> None:
    """Nor the parts that few need."""
    code = (
        "import background_tasks, sys\n"
        "print({'argparse', 'asyncio', 'multiprocessing', 'socket'} & {*sys.modules})"
    )

    assert _in_a_new_interpreter(code) == "set()\n"


def test_the_import_starts_nothing() -> None:
    """No thread, and nothing is done to the logging of the application."""
    code = (
        "import logging, threading, background_tasks\n"
        "log = logging.getLogger('background_tasks')\n"
        "print(threading.active_count(), log.level, logging.root.handlers, log.handlers)"
    )

    assert _in_a_new_interpreter(code) == "1 0 [] [<NullHandler (NOTSET)>]\n"
