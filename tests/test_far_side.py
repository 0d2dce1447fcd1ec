"""Functions called in other processes: what comes back, what is lost, what a broken pool does.

Each case runs on each executor: the standard library's processes, loky's and a local Dask cluster.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from background_tasks import (
    ChangeKind,
    Execution,
    InvalidTypeError,
    LostWorkerError,
    Retry,
    RetryPolicy,
    Scheduler,
    Status,
    Task,
    current_execution,
)
from background_tasks.far_side import Report, call_there, kind_of, unpacked
from tests.conftest import Watch

LOST_AND_OTHERS = RetryPolicy(1, retry_on=(LostWorkerError, Exception))
Factory = Callable[[], Executor]


# The executors


def _processes() -> Executor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def _loky() -> Executor:
    from loky import ProcessPoolExecutor as LokyExecutor

    made: Executor = LokyExecutor(2)
    return made


def _dask(client: Any, *, pure: bool = False) -> Executor:
    made: Executor = client.get_executor(pure=pure)
    return made


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Return a client of a Dask cluster of two processes, where a lost worker is a lost run."""
    _needs("distributed")
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster) as made,
    ):
        yield made


@pytest.fixture(params=["processes", "loky", "dask"], scope="module")
def factory(request: pytest.FixtureRequest) -> Factory:
    """Return what makes an executor, of each kind in turn."""
    if request.param == "dask":
        return partial(_dask, request.getfixturevalue("client"))
    if request.param == "loky":
        _needs("loky")
        return _loky
    return _processes


@pytest.fixture(scope="module")
def executor(factory: Factory) -> Iterator[Executor]:
    """Return an executor that the tests share which break none."""
    with factory() as made:
        yield made


@pytest.fixture
def no_thread_outlives_its_test() -> None:
    """Stand in for the check after each test: the cluster that all share keeps its threads."""


@pytest.fixture(scope="module", autouse=True)
def nothing_outlives_its_module() -> Iterator[None]:
    """Fail when a worker is left, or a thread but for the one that Dask keeps for good."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("Dask-Offload"):
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} was left behind"
    assert _children() == []


def _children() -> list[str]:
    """Return the command lines of the processes that this one has started.

    Without the trackers of shared resources, which live as long as this process.
    """
    children = [each.read_text().split() for each in Path("/proc/self/task").glob("*/children")]
    lines = [Path(f"/proc/{child}/cmdline").read_text() for each in children for child in each]
    return [line for line in lines if line and "resource_tracker" not in line]


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    """Return the path of a pipe that holds up whoever opens it until the other end is opened."""
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


def run(
    where: Factory | Executor, function: Callable[..., object], *args: object, **settings: Any
) -> Any:
    """Run a task once, elsewhere, and return the one record of it."""
    with Scheduler(2, executor=where, tick_interval=0.05) as scheduler:
        task = scheduler.add_task(Task("t", function, args=args, **settings))
        scheduler.release_task(task.id, "event")
        assert scheduler.wait_idle(30)
    (execution,) = task.execution_hist
    return execution


# Each case on each executor


def test_success(executor: Executor) -> None:
    """The result comes back, and the cost is that of the other process."""
    execution = run(executor, _work, 300_000)

    assert (execution.status, execution.results) == (Status.SUCCESS, 300_000)
    assert execution.resources.wall > 0.001
    assert execution.resources.cpu > 0.001  # the thread that waits for it needs a tenth of that


def test_failure(executor: Executor) -> None:
    """The error is text, with the traceback from the function on."""
    execution = run(executor, _fail)

    assert execution.status is Status.FAILED
    assert execution.error == "ConnectionRefusedError: no route"
    assert "in _fail" in execution.traceback
    assert "background_tasks/" not in execution.traceback


def test_an_exception_of_two_arguments(executor: Executor) -> None:
    """One that pickle cannot make again costs neither the worker nor the pool."""
    execution = run(executor, _raise_two)

    assert (execution.status, execution.error) == (Status.FAILED, "TwoError: one and two")


def test_an_unpicklable_result(executor: Executor) -> None:
    """The function has done its work: the run succeeded, and the log says what was left behind."""
    with Scheduler(2, executor=executor) as scheduler:
        watch = Watch(scheduler)
        task = scheduler.add_task(Task("t", threading.Lock))
        scheduler.release_task(task.id)
        assert scheduler.wait_idle(30)

    (execution,) = task.execution_hist
    assert (execution.status, execution.results) == (Status.SUCCESS, None)
    (change,) = [each for each in watch.changes if each.kind is ChangeKind.RUN_SUCCEEDED]
    assert change.reason == (
        "its result was left behind: TypeError: cannot pickle '_thread.lock' object"
    )


def test_system_exit(executor: Executor) -> None:
    """It ends the run, not the worker."""
    execution = run(executor, _exit, retry_policy=RetryPolicy(3))

    assert (execution.status, execution.error) == (Status.FAILED, "SystemExit: 3")
    assert execution.attempts == 1


def test_a_killed_worker(factory: Factory) -> None:
    """The run is lost and not tried again, though the policy retries every Exception."""
    execution = run(factory, _die, retry_policy=RetryPolicy(3))

    assert (execution.status, execution.attempts) == (Status.LOST, 1)
    assert execution.error.startswith("LostWorkerError: ")


def test_a_killed_worker_and_a_policy_that_names_it(factory: Factory, tmp_path: Path) -> None:
    """Then the run is tried again, on a new pool where the old one is broken."""
    execution = run(factory, _die_once, str(tmp_path / "was"), retry_policy=LOST_AND_OTHERS)

    assert (execution.status, execution.attempts) == (Status.SUCCESS, 2)
    assert (execution.results, execution.error) == ("alive", "")


def test_a_timeout(executor: Executor, fifo: str) -> None:
    """It warns here; the function goes on, keeps its slot, and its result counts."""
    with Scheduler(1, executor=executor) as scheduler:
        watch = Watch(scheduler)
        task = scheduler.add_task(Task("t", _wait_for, args=[fifo], timeout=0.01))
        scheduler.release_task(task.id)
        watch.wait_for(ChangeKind.RUN_OVERDUE)
        (running,) = scheduler.running[task.id]
        Path(fifo).write_text("go on")
        assert scheduler.wait_idle(30)

    (execution,) = task.execution_hist
    assert (running.status, running.cancelled) == (Status.RUNNING, True)
    assert (execution.status, execution.results) == (Status.TIMED_OUT, "go on")


def test_retry_on_knows_a_subclass(executor: Executor) -> None:
    """Though only the names of classes come back."""
    policy = RetryPolicy(1, retry_on=(ConnectionError,))

    assert run(executor, _fail, retry_policy=policy).attempts == 2


def test_retry_on_knows_a_stranger(executor: Executor) -> None:
    """An error that the policy does not name is not tried again."""
    policy = RetryPolicy(1, retry_on=(ConnectionError,))

    assert run(executor, _raise_two, retry_policy=policy).attempts == 1


def test_a_retry_is_asked_for(executor: Executor) -> None:
    """With its delay, and the attempt's number is known over there."""
    policy = RetryPolicy(1, delay=3600, retry_on=())

    execution = run(executor, _ask_for_retry, retry_policy=policy)

    assert (execution.status, execution.results) == (Status.SUCCESS, ("event", 2))


def test_what_cannot_be_sent_has_failed(executor: Executor) -> None:
    """It is the task's fault, not the executor's, which goes on."""
    with Scheduler(1, executor=executor) as scheduler:
        bad = scheduler.add_task(Task("bad", _work, args=[1]))
        good = scheduler.add_task(Task("good", _work, args=[1]))
        scheduler.release_task(bad.id, threading.Lock())
        scheduler.release_task(good.id)
        assert scheduler.wait_idle(30)

    assert [run.status for run in bad.execution_hist] == [Status.FAILED]
    assert [run.status for run in good.execution_hist] == [Status.SUCCESS]


def test_a_broken_pool_is_replaced_and_nothing_lost(factory: Factory) -> None:
    """Runs that it does not take wait for the next one; where it mends itself none is needed."""
    broken = factory()
    assert broken.submit(_die).exception(30)
    made: list[Factory] = [factory, lambda: broken]

    with Scheduler(2, executor=lambda: made.pop()(), tick_interval=0.05) as scheduler:
        tasks = [scheduler.add_task(Task(f"t{n}", _work, args=[n])) for n in range(5)]
        for task in tasks:
            scheduler.release_task(task.id)
        assert scheduler.wait_idle(30)

    ended = [run for task in tasks for run in task.execution_hist]
    assert [(run.status, run.attempts, run.results) for run in ended] == [
        (Status.SUCCESS, 1, number) for number in range(5)
    ]


def test_workers_that_die_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run has one end, was called at least once, and only those beside a death are lost."""
    monkeypatch.setattr("background_tasks.outside._RENEWAL", 0.0)
    with Scheduler(2, executor=_processes, tick_interval=0.01) as scheduler:
        watch = Watch(scheduler)
        deadly = scheduler.add_task(Task("deadly", _die))
        harmless = scheduler.add_task(Task("harmless", _work, args=[9]))
        for _ in range(5):
            scheduler.release_task(deadly.id)
            for _ in range(6):
                scheduler.release_task(harmless.id)
        assert scheduler.wait_idle(60)
        stats = scheduler.stats()

    ends = [execution.status for execution in harmless.execution_hist]
    assert [execution.status for execution in deadly.execution_hist] == [Status.LOST] * 5
    assert len(ends) == 30
    assert stats.lost == 5 + ends.count(Status.LOST) <= 10
    assert stats.released == stats.succeeded + stats.lost == 35
    assert 1 <= watch.kinds().count("executor.broken") <= 10


def test_no_more_than_the_slots_are_outstanding() -> None:
    """What waits does so here, where priority and removal reach it."""
    executor = _Held()
    scheduler = Scheduler(2, executor=executor)
    for number in range(5):
        scheduler.release_task(scheduler.add_task(Task(f"t{number}", int)).id)
    scheduler.start()

    assert executor.came.acquire(timeout=10)
    assert executor.came.acquire(timeout=10)
    assert len(executor.futures) == 2
    assert scheduler.stats().pending == 3

    for task_id in range(2, 5):
        scheduler.remove_task(task_id)
    executor.release()
    assert scheduler.stop(10)
    assert len(executor.futures) == 2


# What pickle can and cannot do


def test_a_lambda(factory: Factory, executor: Executor) -> None:
    """It runs where cloudpickle sends it, and is refused at add_task where pickle would."""
    if factory is not _processes:
        assert run(executor, lambda: 42).results == 42
        return

    with pytest.raises(InvalidTypeError, match=r"that a ProcessPoolExecutor can pickle them: "):
        run(executor, lambda: 42)


@pytest.mark.parametrize(
    "executor",
    [_processes(), ProcessPoolExecutor, partial(partial(ProcessPoolExecutor, 2), mp_context=None)],
    ids=["executor", "class", "partial"],
)
def test_a_process_pool_is_known(executor: Any) -> None:
    """Made or to be made: what it cannot send is refused where it is written."""
    scheduler = Scheduler(1, executor=executor)

    with pytest.raises(InvalidTypeError, match="cannot pickle"):
        scheduler.add_task(Task("t", _work, args=[threading.Lock()]))
    assert scheduler.tasks == {}


def test_dask_takes_no_two_runs_for_one(client: Any) -> None:
    """Even an executor that is pure calls the function for each run."""
    with Scheduler(2, executor=partial(_dask, client, pure=True)) as scheduler:
        task = scheduler.add_task(Task("t", os.urandom, args=[8]))
        for _ in range(4):
            scheduler.release_task(task.id)
        assert scheduler.wait_idle(30)

    assert len({execution.results for execution in task.execution_hist}) == 4


# The wrapper, here


def there(function: Callable[..., object], *args: object, keep_results: bool = True) -> Report:
    """Return what the wrapper reports of a call."""
    answer = call_there("token", Execution(event="e"), function, args, {}, keep_results)
    assert type(answer) is tuple
    return Report(*pickle.loads(pickle.dumps(answer)))


def test_a_report_of_a_success() -> None:
    """The result is pickled already, so no executor can stumble over it."""
    report = there(_work, 7)

    assert unpacked(report) == (7, "")
    assert (report.error, report.kinds) == ("", ())


def test_a_report_of_a_failure() -> None:
    """It names the classes that the error is of, and none of them is needed to read it."""
    report = there(_fail)

    assert report.error == "ConnectionRefusedError: no route"
    assert report.kinds[:2] == ("builtins.ConnectionRefusedError", "builtins.ConnectionError")
    assert (report.results, report.after) == (None, None)


def test_a_report_of_a_retry() -> None:
    """With the seconds it asks for."""
    report = there(_raise, Retry(after=5))

    assert report.after == 5.0
    assert "background_tasks.task.Retry" in report.kinds


def test_current_execution_is_there_for_the_call_only() -> None:
    """A worker that calls something else afterwards finds none."""
    assert unpacked(there(_event)) == ("e", "")
    assert current_execution() is None


@pytest.mark.parametrize(
    ("function", "note"),
    [
        (lambda: None, ""),
        (lambda: threading.Lock(), "TypeError: cannot pickle '_thread.lock' object"),
        (lambda: _Unpicklable(), "SystemExit: not me"),
        (lambda: bytes(11_000_000), "bytes are more than 10000000"),
        (lambda: _Unloadable(), "SystemExit: nor me"),
    ],
    ids=["nothing", "a lock", "one that exits", "too large", "cannot be loaded"],
)
def test_a_result_that_is_left_behind(function: Any, note: str) -> None:
    """The note says why; nothing at all needs none."""
    results, why = unpacked(there(function))

    assert results is None
    assert why.endswith(note)
    assert bool(note) == why.startswith("its result was left behind: ")


def test_a_result_that_nobody_wants() -> None:
    """With keep_results=False it is not even pickled."""
    assert there(_Unpicklable, keep_results=False)[:6] == ("", "", (), None, None, "")


def test_the_main_script_has_one_name() -> None:
    """A class of a script is called the same in a process that was spawned from it."""
    here = type("Error", (Exception,), {"__module__": "__main__"})
    spawned = type("Error", (Exception,), {"__module__": "__mp_main__"})

    assert kind_of(here) == kind_of(spawned) == "__main__.Error"


# Functions for the other side


def _work(count: int) -> int:
    return sum(1 for _ in range(count))


def _raise(error: BaseException) -> None:
    raise error


def _fail() -> None:
    raise ConnectionRefusedError("no route")


class TwoError(Exception):
    """Cannot be made again from its ``args``."""

    def __init__(self, one: str, two: str) -> None:
        """Keep a text of both."""
        super().__init__(f"{one} and {two}")


def _raise_two() -> None:
    raise TwoError("one", "two")


def _exit() -> None:
    raise SystemExit(3)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        _die()
    return "alive"


def _wait_for(fifo: str) -> str:
    return Path(fifo).read_text()


def _event() -> object:
    execution = current_execution()
    return execution and execution.event


def _ask_for_retry() -> tuple[object, int]:
    execution = current_execution()
    assert execution is not None
    if execution.attempt == 1:
        raise Retry(after=0)
    return execution.event, execution.attempt


class _Unpicklable:
    def __reduce__(self) -> Any:
        raise SystemExit("not me")


class _Unloadable:
    def __reduce__(self) -> Any:
        return _raise, (SystemExit("nor me"),)


class _Held(Executor):
    """Keeps what it is given until it is released."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.came = threading.Semaphore(0)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return a Future that nobody has worked for."""
        self.futures.append(Future())
        self.came.release()
        return self.futures[-1]

    def release(self) -> None:
        """Let what was given end."""
        for future in self.futures:
            future.set_result(tuple(Report()))
