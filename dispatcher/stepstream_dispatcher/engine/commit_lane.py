"""Transitions that wait for the next call to the store, and who waits for their results.

Theory of operation. Most of a small call's cost is the call. Where callers come one by one and
closely, each would carry one or two: what comes then waits a moment for company. How closely
they come is known from those before, so that nobody waits for a caller that is not to be expected.
"""

from __future__ import annotations

import asyncio
import contextlib
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
GATHER_S: Final = 0.002  # that a creation waits for others, where some are to be expected
EXPECTED: Final = 2  # others within that time, so that it is worth the wait
COMPANY: Final = 16  # transitions that wait for no others
PACE_WEIGHT: Final = 0.1  # of the latest gap between two callers, in what is expected
GAP_S_MAX: Final = 0.02  # a longer gap counts as this, so that a burst is noticed soon

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


class Pace:
    """How closely callers come, of late."""

    def __init__(self) -> None:
        self._latest_mono = 0.0
        self._gap_s = GAP_S_MAX

    def note(self, now_mono: float) -> None:
        """Hear of a caller."""
        gap_s = min(GAP_S_MAX, now_mono - self._latest_mono)
        self._gap_s += PACE_WEIGHT * (gap_s - self._gap_s)
        self._latest_mono = now_mono

    @property
    def promises_company(self) -> bool:
        """Whether others are to be expected within GATHER_S."""
        return self._gap_s * EXPECTED < GATHER_S


class Lane:
    """The transitions of one kind that wait for the next call."""

    def __init__(self, kind: CommitKind) -> None:
        self.kind: CommitKind = kind
        self.waiting: deque[tuple[Call, int]] = deque()
        self._pace = Pace()
        amounts = (1, SECOND_FROM[kind], COMPANY)
        self._reached = {amount: asyncio.Event() for amount in amounts}

    async def filled(self, amount: int) -> None:
        """Wait until so many wait, and creations a moment for company, where there will be some."""
        await self._reached[amount].wait()
        if self.kind == "submit" and self._pace.promises_company:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._reached[COMPANY].wait()

    def put(self, call: Call) -> None:
        """Let a caller's transitions wait."""
        self._pace.note(asyncio.get_running_loop().time())
        self.waiting.extend((call, index) for index in range(len(call.transitions)))
        self._tell()

    def _tell(self) -> None:
        for amount, reached in self._reached.items():
            if len(self.waiting) >= amount:
                reached.set()
            else:
                reached.clear()

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
