"""Pipelines as data: steps, and where each outcome leads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

__all__ = [
    "DEFAULT_OUTCOME",
    "DONE",
    "FAILED",
    "RESERVED_STATES",
    "Catalog",
    "Pipeline",
    "PipelineError",
    "RetryPolicy",
    "Step",
    "decode",
    "encode",
]

DEFAULT_OUTCOME: Final = "completed"  # of a worker that names none
DONE: Final = "done"
FAILED: Final = "failed"
# States that no step may have.
RESERVED_STATES: Final = frozenset({"pending", "scheduled", "done", "failed", "cancelled"})


class PipelineError(ValueError):
    """A pipeline file is wrong: `file:line: words`; its author changes it."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a failed step runs again, and when."""

    retries: int = 3  # after the first run, 0 to 100
    initial_ms: int = 1000  # before the first retry
    factor: float = 2.0  # growth from one delay to the next, 1 to 10
    max_ms: int = 60000  # no delay is longer
    jitter: float = 0.2  # share of the delay that is random, either way, 0 to 1


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a pipeline."""

    name: str
    state: str  # of a task that is at this step
    kind: Literal["worker", "human"]
    queue: str  # lane; empty for a human step
    timeout_ms: int = 0  # of one attempt; 0: PROCESSING_TIMEOUT
    retry: RetryPolicy = RetryPolicy()
    on: dict[str, str]  # outcome -> name of the next step, "done" or "failed"
    max_revisions: int = 3  # times a reviewer may send a task back; human steps only


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a pipeline."""

    name: str
    version: str  # 8 hexadecimal digits over the definition
    steps: dict[str, Step]  # by name, in the order of the file
    first: str  # step that a task begins with
    result: tuple[str, ...]  # the first of these with an output gives the task's result

    @property
    def key(self) -> str:
        """`name@version`, as a task's record keeps it."""
        return f"{self.name}@{self.version}"

    @property
    def queues(self) -> frozenset[str]:
        """Lanes of its worker steps."""
        return frozenset(step.queue for step in self.steps.values() if step.queue)

    def step(self, name: str) -> Step:
        """Return a step by name.

        Raises:
            KeyError: The pipeline has no such step.
        """
        return self.steps[name]


class Catalog:
    """The pipelines that tasks may begin with, and every older version that tasks still need.

    Args:
        current: The loaded pipelines, one per name.
    """

    def __init__(self, current: Iterable[Pipeline] = ()) -> None:
        self._current = {pipeline.name: pipeline for pipeline in current}
        self._by_key = {pipeline.key: pipeline for pipeline in self._current.values()}

    def __iter__(self) -> Iterator[Pipeline]:
        return iter(self._current.values())

    def add(self, pipeline: Pipeline) -> None:
        """Remember an older version, read back from the store; new tasks do not begin with it."""
        self._by_key.setdefault(pipeline.key, pipeline)

    def current(self, name: str) -> Pipeline | None:
        """Return the version that new tasks begin with."""
        return self._current.get(name)

    def by_key(self, key: str) -> Pipeline | None:
        """Return any known version by `name@version`."""
        return self._by_key.get(key)

    def queues(self) -> frozenset[str]:
        """Lanes of all known versions, since tasks of an older one may still be queued."""
        return frozenset(queue for each in self._by_key.values() for queue in each.queues)

    def names(self) -> frozenset[str]:
        """Names of all known pipelines."""
        return frozenset(each.name for each in self._by_key.values())

    def states(self) -> frozenset[str]:
        """States that a task of any known version may be in."""
        of_steps = (step.state for each in self._by_key.values() for step in each.steps.values())
        return RESERVED_STATES.union(of_steps)

    def step_types(self, queue: str) -> frozenset[str]:
        """Names of the steps that a worker must serve to be fed from a lane.

        Older versions count only where no current pipeline uses the lane, so that a step that was
        taken out does not keep workers away for ever.
        """
        current = _steps_on(queue, self._current.values())
        return current or _steps_on(queue, self._by_key.values())


def encode(pipeline: Pipeline) -> bytes:
    """Write a pipeline as JSON, to be kept beside the tasks that began with it."""
    return msgspec.json.encode(pipeline)


def decode(data: bytes) -> Pipeline:
    """Read what `encode` wrote.

    Raises:
        PipelineError: It is not the JSON of a pipeline.
    """
    try:
        return msgspec.json.decode(data, type=Pipeline)
    except msgspec.DecodeError as error:
        raise PipelineError(f"stored pipeline: {error}") from error


def _steps_on(queue: str, pipelines: Iterable[Pipeline]) -> frozenset[str]:
    return frozenset(
        step.name for each in pipelines for step in each.steps.values() if step.queue == queue
    )
