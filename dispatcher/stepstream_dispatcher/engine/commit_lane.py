"""Transitions that wait for the next call to the store, and who waits for their results."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from stepstream.errors import InternalError, StepstreamError
from stepstream_dispatcher.core.record import TaskRecord, Transition
from stepstream_dispatcher.store.port import CommitKind, Result

__all__ = ["SECOND_FROM", "Answer", "Call", "Lane", "Source"]

CALL_TRANSITIONS_MAX: Final = 256  # design 5: bounds the time that one script call holds Redis
CALL_BYTES_MAX: Final = 1024 * 1024
TRANSITION_BYTES: Final = 512  # what a transition takes besides its data, rounded up
# A second call of a kind goes out beside the first, so that it is packed while Redis works on that,
# once as many transitions wait: creations that come one by one share calls instead, since a call
# costs as much as several of them, and what workers wait for does not wait.
SECOND_FROM: Final[dict[CommitKind, int]] = {"submit": 64, "settle": 1}

Answer: TypeAlias = Result | InternalError  # the error: the store cannot carry it out


class Source(msgspec.Struct, frozen=True):
    """What a transition was decided from."""

    record: TaskRecord | None  # None: the task is created
    data: dict[str, bytes] | None  # its data as of then; None: not at hand


class Call:
    """Transitions of one caller, and the future that waits for all their results."""

    __slots__ = ("done", "missing", "results", "sources", "transitions")

    def __init__(self, transitions: Sequence[Transition], sources: Sequence[Source]) -> None:
        self.transitions = transitions
        self.sources = sources
        self.results: list[Answer | None] = [None] * len(transitions)
        self.missing = len(transitions)
        self.done: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()

    def settle(self, index: int, result: Answer) -> None:
        """Note the result of one transition; the last one ends the wait."""
        self.results[index] = result
        self.missing -= 1
        if not self.missing and not self.done.done():
            self.done.set_result([result for result in self.results if result is not None])

    def fail(self, error: StepstreamError) -> None:
        """End the wait with an error, which is that of all of them."""
        if not self.done.done():
            self.done.set_exception(error)


class Lane:
    """The transitions of one kind that wait for the next call."""

    def __init__(self, kind: CommitKind) -> None:
        self.kind: CommitKind = kind
        self.waiting: deque[tuple[Call, int]] = deque()
        self.ready = {1: asyncio.Event(), SECOND_FROM[kind]: asyncio.Event()}  # so many wait

    def put(self, call: Call) -> None:
        """Let a caller's transitions wait."""
        self.waiting.extend((call, index) for index in range(len(call.transitions)))
        self._tell()

    def _tell(self) -> None:
        for amount, ready in self.ready.items():
            if len(self.waiting) >= amount:
                ready.set()
            else:
                ready.clear()

    def take(self) -> list[tuple[Call, int]]:
        """As much as one call may carry: in order, one transition per task."""
        taken: list[tuple[Call, int]] = []
        later: list[tuple[Call, int]] = []
        tasks: set[str] = set()
        room = CALL_BYTES_MAX
        while self.waiting and len(taken) < CALL_TRANSITIONS_MAX:
            call, index = self.waiting[0]
            transition = call.transitions[index]
            size = TRANSITION_BYTES
            if transition.data:
                size += sum(map(len, transition.data.values()))
            if taken and size > room:
                break
            self.waiting.popleft()
            if transition.task_id in tasks:
                later.append((call, index))
                continue
            tasks.add(transition.task_id)
            room -= size
            taken.append((call, index))
        self.waiting.extendleft(reversed(later))
        self._tell()
        return taken
