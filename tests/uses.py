"""Every public method and property, used from every place where the scheduler calls the user.

`USES` has one or more uses of each; a test compares it with the classes, so one that is added
to them later is missed here. A scenario a place: there a few uses come by turns, one kind after
the other from seed to seed, while other threads use the same scheduler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from background_tasks import (
    EventTrigger,
    Execution,
    OneTimeTrigger,
    RetryPolicy,
    Scheduler,
    Task,
    TaskCancelledError,
    TaskNotFoundError,
    current_execution,
)
from tests.scenarios import Polled
from tests.stage import FOR_EVER, Failing, Stage, scenario

__all__ = ["MADE", "PLACES", "USES", "public_names"]

MADE: set[tuple[str, str]] = set()  # the places and uses there that came up in this process
_AT_ONCE = 3  # uses in one place in one world
_LEFT_OUT = {
    # What a Task asks its scheduler for; the uses of Task.enabled and execution_hist call them.
    "Scheduler.change_task",
    "Scheduler.history_of",
    # Its thread and its socket are real ones; what it sends it reads as `overview` does.
    "Scheduler.serve_status",
    # For the engine, which calls them under the lock.
    "EventTrigger.bind",
    "EventTrigger.close",
    "EventTrigger.collect",
    "EventTrigger.count_merged",
    "EventTrigger.give_permit",
    "EventTrigger.mend_permits",
    "EventTrigger.take_signal",
}
_CLASSES: tuple[type, ...] = (Scheduler, Task, EventTrigger, Execution)
_SPECIAL = ("__enter__", "__exit__", "__repr__", "__str__")


def public_names() -> set[str]:
    """Return the public methods, properties and settable properties of the classes users see."""
    return {name for kind in _CLASSES for name in _names_of(kind)} - _LEFT_OUT


def _names_of(kind: type) -> Iterator[str]:
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if name.startswith("_") and (name not in _SPECIAL or member is getattr(object, name, None)):
            continue
        if inspect.isfunction(member) or isinstance(member, property):
            yield f"{kind.__name__}.{name}"
        if isinstance(member, property) and member.fset is not None:
            yield f"{kind.__name__}.{name}="


class Cast:
    """The scheduler of a stage and what there is to use of it."""

    def __init__(self, stage: Stage, place: str, **options: Any) -> None:
        """Have one task with a channel and one that fails once."""
        self.stage = stage
        self.place = place
        self.made = stage.open(stage.draw.randint(1, 3), **options)
        self.channel = EventTrigger()
        self.left = 0  # uses that are still to be made in the place
        self._turn = stage.seed * _AT_ONCE
        self.task = stage.add(self.function, triggers=[self.channel], max_instances=2)
        retry = RetryPolicy(max_retries=1, delay=stage.draw.choice((0, 0.001)))
        self.plain = stage.add(Failing(OSError("no")), retry_policy=retry)
        self.last = Execution()  # that was seen last

    def function(self) -> None:
        """Be the function of the task."""
        execution = current_execution()
        assert execution is not None
        self.last = execution
        if self.place == "a task":
            self.use_some()

    def any_task(self) -> Task:
        """Return one of the tasks."""
        return self.stage.draw.choice((self.task, self.plain))

    def use_some(self) -> None:
        """Make the next use, in the place, if it is time for one."""
        if self.left and self.stage.chance(0.5):
            self.left -= 1
            self._turn += 1
            self.use(_NAMES[self._turn % len(_NAMES)], self.place)

    def use(self, name: str, place: str) -> None:
        """Make a use; it may find that its task is gone, or that its run was cancelled."""
        MADE.add((place, name))
        try:
            USES[name](self)
        except (TaskNotFoundError, TaskCancelledError):
            pass
        except Exception as error:
            self.stage.faults.append(error)

    def play(self) -> None:
        """Have threads use it, of which some have it call the user in the place."""
        stage, made = self.stage, self.made
        self.left = _AT_ONCE
        if stage.chance(0.7):
            made.start()
        stage.together(self.channel.fire, self.bystander, made.start, self.bystander)
        made.resume()
        self.task.enabled = self.plain.enabled = True
        stage.together(self.channel.fire, made.run_tasks)
        stage.world.sleep(0.01)
        made.resume()
        stage.together(self.channel.fire, made.run_tasks)
        self.left = 0
        made.resume()
        self.task.enabled = self.plain.enabled = True
        assert made.wait_idle()
        stage.rest()

    def bystander(self) -> None:
        """Use this and that."""
        self.use(self.stage.draw.choice(_NAMES), "a thread")


def _decorate(cast: Cast) -> None:
    cast.made.task("decorated", interval=FOR_EVER)(int)


def _enter(cast: Cast) -> None:
    with cast.made:
        cast.channel.fire()


def _set_enabled(cast: Cast) -> None:
    cast.any_task().enabled = cast.stage.chance(0.5)


def _set_priority(cast: Cast) -> None:
    cast.any_task().priority = cast.stage.draw.randint(-2, 2)


def _wait_idle(cast: Cast) -> None:
    # Whoever waits inside of user code keeps a slot or the ticking thread from the others.
    cast.made.wait_idle(0.03)


def _add_listener(cast: Cast) -> None:
    cast.made.add_listener(cast.stage.user_code(lambda change: None))()


def _wait(cast: Cast) -> None:
    execution = current_execution()
    if execution is None:
        cast.last.wait(0)
    else:
        execution.wait(0.001)


# The name of what is used, and after a blank how, to a function that uses it.
USES: dict[str, Callable[[Cast], object]] = {
    "Scheduler.__enter__": _enter,
    "Scheduler.__exit__": lambda cast: cast.made.__exit__(None, None, None),
    "Scheduler.add_listener": _add_listener,
    "Scheduler.add_task": lambda cast: cast.stage.add(triggers=[OneTimeTrigger(0.001)]),
    "Scheduler.cancel": lambda cast: cast.made.cancel(cast.any_task().id),
    "Scheduler.get_task": lambda cast: cast.made.get_task(cast.any_task().id),
    "Scheduler.health": lambda cast: cast.made.health(),
    "Scheduler.last_task_id": lambda cast: cast.made.last_task_id,
    "Scheduler.max_running_tasks": lambda cast: cast.made.max_running_tasks,
    "Scheduler.overview": lambda cast: cast.made.overview(),
    "Scheduler.ready": lambda cast: cast.made.ready(),
    "Scheduler.release_task": lambda cast: cast.made.release_task(cast.any_task().id),
    "Scheduler.remove_task": lambda cast: cast.made.remove_task(cast.any_task().id),
    "Scheduler.resume": lambda cast: cast.made.resume(),
    "Scheduler.run_task": lambda cast: cast.made.run_task(cast.plain.id),
    "Scheduler.run_tasks": lambda cast: cast.made.run_tasks(),
    "Scheduler.running": lambda cast: cast.made.running,
    "Scheduler.running_tasks_count": lambda cast: cast.made.running_tasks_count(),
    "Scheduler.start": lambda cast: cast.made.start(),
    "Scheduler.state": lambda cast: cast.made.state,
    "Scheduler.stats": lambda cast: cast.made.stats(),
    "Scheduler.stop": lambda cast: cast.made.stop(),
    "Scheduler.stop with cancel": lambda cast: cast.made.stop(cancel=True),
    "Scheduler.stop with timeout": lambda cast: cast.made.stop(0),
    "Scheduler.table": lambda cast: cast.made.table(),
    "Scheduler.task": _decorate,
    "Scheduler.tasks": lambda cast: cast.made.tasks,
    "Scheduler.upcoming": lambda cast: cast.made.upcoming(),
    "Scheduler.wait_idle": _wait_idle,
    "Scheduler.__repr__": lambda cast: repr(cast.made),
    "Scheduler.__str__": lambda cast: str(cast.made),
    "Task.__repr__": lambda cast: repr(cast.task),
    "Task.enabled": lambda cast: cast.task.enabled,
    "Task.enabled=": _set_enabled,
    "Task.execution_hist": lambda cast: cast.task.execution_hist,
    "Task.id": lambda cast: cast.task.id,
    "Task.lane": lambda cast: cast.task.lane,
    "Task.priority": lambda cast: cast.task.priority,
    "Task.priority=": _set_priority,
    "Task.quarantine": lambda cast: cast.task.quarantine,
    "Task.resources": lambda cast: cast.task.resources,
    "Task.triggers": lambda cast: cast.task.triggers,
    "Task.usage": lambda cast: cast.task.usage,
    "EventTrigger.__repr__": lambda cast: repr(cast.channel),
    "EventTrigger.fire": lambda cast: cast.channel.fire(),
    "EventTrigger.is_ready": lambda cast: cast.channel.is_ready(),
    "EventTrigger.next_fire_time": lambda cast: cast.channel.next_fire_time(),
    "EventTrigger.next_runs": lambda cast: cast.channel.next_runs(3),
    "EventTrigger.reset": lambda cast: cast.channel.reset(),
    "EventTrigger.waiting": lambda cast: cast.channel.waiting,
    "Execution.__repr__": lambda cast: repr(cast.last),
    "Execution.attempt": lambda cast: cast.last.attempt,
    "Execution.cancelled": lambda cast: cast.last.cancelled,
    "Execution.copy": lambda cast: cast.last.copy(),
    "Execution.lateness": lambda cast: cast.last.lateness,
    "Execution.origin": lambda cast: cast.last.origin,
    "Execution.queue_time": lambda cast: cast.last.queue_time,
    "Execution.raise_if_cancelled": lambda cast: cast.last.raise_if_cancelled(),
    "Execution.resources": lambda cast: cast.last.resources,
    "Execution.set_span": lambda cast: cast.last.set_span("0" * 31 + "1", "0" * 15 + "1"),
    "Execution.span_id": lambda cast: cast.last.span_id,
    "Execution.to_dict": lambda cast: cast.last.to_dict(),
    "Execution.trace_flags": lambda cast: cast.last.trace_flags,
    "Execution.trace_id": lambda cast: cast.last.trace_id,
    "Execution.wait": _wait,
}
_NAMES = list(USES)
PLACES = ("a task", "a listener", "a trigger", "a log handler", "around", "a thread")


@scenario(is_prompt=False, within=None)
def from_a_task(stage: Stage) -> None:
    """The function of a task uses everything."""
    Cast(stage, "a task").play()


@scenario(is_prompt=False, within=None)
def from_a_listener(stage: Stage) -> None:
    """A listener uses everything, in whichever thread it is told."""
    cast = Cast(stage, "a listener")
    cast.made.add_listener(stage.user_code(lambda change: cast.use_some()))
    cast.play()


@scenario(is_prompt=False, within=None)
def from_a_trigger(stage: Stage) -> None:
    """A trigger uses everything, in each of its methods."""
    cast = Cast(stage, "a trigger", tick_interval=0.005)
    stage.add(triggers=[Polled(stage, ready=2, act=lambda asked: cast.use_some())])
    cast.play()


@scenario(is_prompt=False, within=None)
def from_a_log_handler(stage: Stage) -> None:
    """A log handler uses everything, in whichever thread it is told."""
    cast = Cast(stage, "a log handler")
    stage.handle(lambda record: cast.use_some())
    cast.play()


@scenario(is_prompt=False, within=None)
def from_around_an_attempt(stage: Stage) -> None:
    """A context manager that is entered around each attempt uses everything."""

    @contextmanager
    def around(execution: Execution) -> Iterator[None]:
        cast.use_some()
        yield
        cast.use_some()

    cast = Cast(stage, "around", around=[stage.user_code(around)])
    cast.play()
