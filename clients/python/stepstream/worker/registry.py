"""Functions that run steps: the decorator, and how a worker finds them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from types import ModuleType
from typing import Any, Literal

from stepstream.worker.context import StepContext

__all__ = ["RunsIn", "Step", "find_steps", "step", "steps_by_name"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RunsIn(StrEnum):
    """Where a handler runs."""

    LOOP = "loop"  # on the worker's event loop; async functions, and only they
    THREAD = "thread"  # in a thread of the worker
    PROCESS = "process"  # in a process that is kept for it, and killed when it is to stop


class Step:
    """A named handler. Calling it calls the function, so that a test needs no worker.

    Args:
        name: The step type, 1 to 64 characters of [A-Za-z0-9._-].
        function: Takes a StepContext; plain or async.
        runs_in: A word of RunsIn; None: the loop for an async function, a thread for a plain one.

    Raises:
        ValueError: The name is not one, or the function cannot run there.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[StepContext], Any],
        *,
        runs_in: Literal["loop", "thread", "process"] | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"step name {name!r}: 1 to 64 characters of A-Z a-z 0-9 . _ - wanted")
        self.name = name
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self.runs_in = RunsIn(runs_in or (RunsIn.LOOP if self.is_async else RunsIn.THREAD))
        if self.is_async is not (self.runs_in is RunsIn.LOOP):
            wanted = "an async" if self.runs_in is RunsIn.LOOP else "a plain"
            raise ValueError(f"step {name!r} in a {self.runs_in}: {wanted} function wanted")
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, ctx: StepContext) -> Any:
        """Calls the function."""
        return self.function(ctx)

    def __repr__(self) -> str:
        return f"Step({self.name!r})"


def step(
    name: str, *, runs_in: Literal["loop", "thread", "process"] | None = None
) -> Callable[[Callable[[StepContext], Any]], Step]:
    """Makes a function the handler of a step type.

    An async function runs on the worker's event loop; a plain one in a thread, or in a process.

    Args:
        name: The step type, as pipelines name it.
        runs_in: "process" for a plain function that computes, or that has to be killed when it is
            to stop. It is found again by its name, so it stands at the top level of a module.
    """

    def decorate(function: Callable[[StepContext], Any]) -> Step:
        return Step(name, function, runs_in=runs_in)

    return decorate


def find_steps(module: ModuleType) -> list[Step]:
    """The steps among a module's attributes, in the order of their names."""
    found = {id(value): value for value in vars(module).values() if isinstance(value, Step)}
    return sorted(found.values(), key=lambda one: one.name)


def steps_by_name(steps: Iterable[Step]) -> dict[str, Step]:
    """Indexes steps.

    Raises:
        ValueError: There is none, or two have the same name.
        TypeError: One is not a step.
    """
    named: dict[str, Step] = {}
    for one in steps:
        if not isinstance(one, Step):
            raise TypeError(f"{one!r} is not a step; decorate it with @step(name)")
        if one.name in named:
            raise ValueError(f"two handlers for the step {one.name!r}")
        named[one.name] = one
    if not named:
        raise ValueError("a worker needs at least one step")
    return named
