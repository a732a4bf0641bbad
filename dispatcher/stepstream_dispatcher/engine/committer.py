"""Group commit: whatever waits goes out in one call, and what conflicts is decided again.

Theory of operation. Callers hand in *proposals*, each a task, its record as last seen, and a fact.
`decide` turns each into a transition. Two lanes run side by side, one per commit kind; each takes
all that waits (up to the store's limits), sends one call, and hands the verdicts back; a second
call goes out beside it for what workers wait for, or where much waits. So the cost per step falls
as load rises, and nothing waits for a timer but a creation, for 2 ms, while others come closely. A
version conflict comes with the newer record, from which the same fact is decided again under the
same operation id. A transition that the store cannot carry out is refused alone: those beside it in
a call are recorded, and their callers have to hear so.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import msgspec
import structlog

from stepstream.errors import InternalError, StepstreamError, StoreBusy, StoreUnavailable
from stepstream_dispatcher.core.facts import Fact
from stepstream_dispatcher.core.lifecycle import Circumstances, Refusal, decide
from stepstream_dispatcher.core.pipeline import Catalog
from stepstream_dispatcher.core.record import TaskRecord, Transition, after
from stepstream_dispatcher.engine.commit_lane import SECOND_FROM, Answer, Call, Lane, Source
from stepstream_dispatcher.engine.identity import OperationIds
from stepstream_dispatcher.store.port import (
    CommitFailed,
    CommitKind,
    CommitPartly,
    Result,
    Store,
    Verdict,
)

__all__ = ["Committer", "Outcome", "Proposal", "broken"]

ADDED_WITHIN_S: Final = 0.05  # an answer of Redis takes 1 ms; a read instead of it as long
UNKNOWN_MAX: Final = 1_000  # pipelines and steps that are complained about, once each
BROKEN_MAX: Final = 1_000  # tasks that are complained about, once each
DECISIONS_MAX: Final = 5  # of one fact, before the caller is told that the task is contended

_APPLIED: Final = (Verdict.APPLIED, Verdict.DUPLICATE)

_log = structlog.get_logger(__name__)


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A fact about a task whose record is at hand."""

    task_id: str
    record: TaskRecord
    fact: Fact
    data: dict[str, bytes] | None = None  # all fields of task:data, where they are at hand too


_NOTHING: Final = Source(None, {})  # of a creation


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a proposal."""

    verdict: Verdict | None = None  # None: refused before it reached the store, or broken there
    refusal: Refusal | None = None
    known: TaskRecord | None = None  # as the store says, or as it was when the fact was refused
    before: TaskRecord | None = None  # that the fact was decided from
    transition: Transition | None = None  # what was sent last

    @property
    def record(self) -> TaskRecord | None:
        """The record as it stands now, or as the fact left it; where that is known."""
        if self.known is None and self.applied and self.before and self.transition:
            return after(self.before, self.transition)
        return self.known

    @property
    def applied(self) -> bool:
        """Whether the fact is recorded, by this call or before."""
        return self.verdict in _APPLIED

    @property
    def undecided(self) -> bool:
        """Whether the fact may be recorded yet: for now it is contended, or cannot be."""
        contended = self.verdict is Verdict.VERSION_CONFLICT
        return contended or self.refusal in (Refusal.UNKNOWN_PIPELINE, Refusal.BROKEN)


class Committer:
    """Decides facts and commits what follows from them.

    Args:
        store: Where the records are.
        catalog: The pipelines, at every version that a task may have begun with.
        learn: Reads the definitions that other dispatchers have stored into the catalog.
        retain_s: How long an ended task is kept.
        live_max: Live tasks beyond which a creation is FULL.
        applied: Called with each transition that was applied, by this call or by one whose answer
            was lost, the id of the entry that it added, and what it was decided from, before its
            caller hears of it.
        rng: Source of jitter.
        moved: Called with each transition of `apply` that was applied, and the record that it was
            decided from.
    """

    def __init__(
        self,
        *,
        store: Store,
        catalog: Catalog,
        learn: Callable[[], Awaitable[None]],
        retain_s: int,
        live_max: int,
        applied: Callable[[Transition, str, Source], None],
        rng: random.Random,
        moved: Callable[[TaskRecord, Transition], None],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._learn = learn
        self._retain_s = retain_s
        self._live_max = live_max
        self._applied = applied
        self._rng = rng
        self._moved = moved
        self._lanes: dict[CommitKind, Lane] = {
            "submit": Lane("submit"),
            "settle": Lane("settle"),
        }
        self._adding: set[str] = set()  # known tasks that are put on a lane, without answer yet
        self._answered = asyncio.Event()  # set by the next answer; then there is another one
        self._unknown: set[str] = set()  # pipelines and steps that were complained about
        self._broken: set[str] = set()  # tasks that were complained about
        self.new_op_id = OperationIds().next

    async def run(self) -> None:
        """Send calls until cancelled."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes.values():
                for amount in (1, SECOND_FROM[lane.kind]):
                    group.create_task(self._run_lane(lane, amount))

    async def create(self, transitions: Sequence[Transition]) -> list[Answer]:
        """Commit creations; one result each, in order, or why the store cannot carry it out.

        Raises:
            StoreUnavailable: The outcome of all of them is unknown.
        """
        return await self._send("submit", transitions, [_NOTHING] * len(transitions))

    async def added(self, task_ids: Iterable[str]) -> None:
        """Wait until what puts these tasks on a lane is through, a moment at most.

        Only for those whose data is at hand: all others have to be read anyway.
        """
        adding = self._adding.intersection(task_ids)
        if not adding:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ADDED_WITHIN_S):
                while not adding.isdisjoint(self._adding):
                    await self._answered.wait()

    async def apply(self, proposals: Sequence[Proposal]) -> list[Outcome]:
        """Decide and commit proposals; one outcome each, in order.

        Raises:
            StoreUnavailable: The outcome of those that were sent is unknown.
        """
        outcomes: list[Outcome] = [Outcome()] * len(proposals)
        op_ids = [self.new_op_id() for _ in proposals]
        open_ones = list(range(len(proposals)))
        records = [proposal.record for proposal in proposals]
        if any(self._catalog.by_key(record.pipeline) is None for record in records):
            await self._learn()
        for _ in range(DECISIONS_MAX):
            transitions: list[Transition] = []
            sent: list[int] = []
            now_ms = self._store.now_ms()
            for index in open_ones:
                decision = self._decide(proposals[index], records[index], op_ids[index], now_ms)
                if isinstance(decision, Refusal):
                    outcomes[index] = Outcome(refusal=decision, known=records[index])
                else:
                    transitions.append(decision)
                    sent.append(index)
            if not sent:
                break
            sources = [Source(records[index], proposals[index].data) for index in sent]
            results = await self._send("settle", transitions, sources)
            open_ones = []
            for index, transition, result in zip(sent, transitions, results, strict=True):
                outcome = outcomes[index] = _outcome(records[index], transition, result)
                if outcome.applied:
                    self._moved(records[index], transition)
                if outcome.verdict is Verdict.VERSION_CONFLICT and outcome.record is not None:
                    records[index] = outcome.record
                    open_ones.append(index)
        return outcomes

    def _decide(
        self, proposal: Proposal, record: TaskRecord, op_id: str, now_ms: int
    ) -> Transition | Refusal:
        pipeline = self._catalog.by_key(record.pipeline)
        if pipeline is None or record.step not in pipeline.steps:
            self._note_unknown(proposal.task_id, record)
            return Refusal.UNKNOWN_PIPELINE
        at = Circumstances(
            task_id=proposal.task_id,
            pipeline=pipeline,
            now_ms=now_ms,
            rand=self._rng.random(),
            op_id=op_id,
            retain_s=self._retain_s,
        )
        return decide(record, proposal.fact, at)

    def _note_unknown(self, task_id: str, record: TaskRecord) -> None:
        """Say once for each step of a pipeline that its tasks stand still."""
        name = f"{record.pipeline} {record.step}"
        if name not in self._unknown and len(self._unknown) < UNKNOWN_MAX:
            self._unknown.add(name)
            _log.error(
                "a pipeline's step is defined nowhere; its tasks stand still",
                pipeline=record.pipeline,
                step=record.step,
                task=task_id,
            )

    async def _send(
        self, kind: CommitKind, transitions: Sequence[Transition], sources: Sequence[Source]
    ) -> list[Answer]:
        call = Call(transitions, sources)
        self._adding.update(
            transition.task_id
            for transition, source in zip(transitions, sources, strict=True)
            if transition.enqueue is not None and source.data is not None
        )
        self._lanes[kind].put(call)
        try:
            return await call.done
        finally:
            del call  # an error has this frame, and the call has the error: that would keep them

    async def _run_lane(self, lane: Lane, amount: int) -> None:
        while True:
            await lane.filled(amount)
            await self._call(lane, lane.take())  # which is not kept here until the next one

    async def _call(self, lane: Lane, taken: list[tuple[Call, int]]) -> None:
        if not taken:  # the other one was quicker
            return
        error: StepstreamError = StoreUnavailable("the commit was interrupted")
        results: Sequence[Answer | None] = [None] * len(taken)
        try:
            results = await self._carry_out([call.transitions[at] for call, at in taken], lane)
        except CommitFailed as failed:
            results = self._beside_broken(taken, failed)
        except CommitPartly as partly:
            results, error = partly.results, partly
        except (StoreUnavailable, StoreBusy) as unavailable:
            error = unavailable
        finally:
            self._hand_back(taken, results, error)
            self._is_answered(call.transitions[at].task_id for call, at in taken)
            taken.clear()  # an error has this frame, and the calls have the error

    def _is_answered(self, task_ids: Iterable[str]) -> None:
        self._adding.difference_update(task_ids)
        answered, self._answered = self._answered, asyncio.Event()
        answered.set()

    async def _carry_out(self, batch: list[Transition], lane: Lane) -> list[Result]:
        return await self._store.commit(batch, kind=lane.kind, live_max=self._live_max)

    def _beside_broken(
        self, taken: Sequence[tuple[Call, int]], failed: CommitFailed
    ) -> list[Answer]:
        """The results, with an error in the place of each transition that failed."""
        return [
            self._broken_at(call.transitions[index].task_id, failed) if result is None else result
            for (call, index), result in zip(taken, failed.results, strict=True)
        ]

    def _broken_at(self, task_id: str, failed: CommitFailed) -> InternalError:
        """Say once for each task that the store cannot carry out what happens to it."""
        if task_id not in self._broken and len(self._broken) < BROKEN_MAX:
            self._broken.add(task_id)
            _log.error("a task cannot be changed", task=task_id, error=failed.message)
        return broken(task_id)

    def _hand_back(
        self,
        taken: Sequence[tuple[Call, int]],
        results: Sequence[Answer | None],
        error: StepstreamError,
    ) -> None:
        for (call, index), result in zip(taken, results, strict=True):
            if result is None:
                call.fail(error)
                continue
            if isinstance(result, Result) and result.verdict in _APPLIED:
                self._applied(call.transitions[index], result.entry, call.sources[index])
            call.settle(index, result)


def broken(task_id: str) -> InternalError:
    """What a caller is told of a change that the store cannot carry out."""
    return InternalError(f"the store cannot change task {task_id}")


def _outcome(record: TaskRecord, transition: Transition, result: Answer) -> Outcome:
    if isinstance(result, InternalError):
        return Outcome(refusal=Refusal.BROKEN, transition=transition)
    return Outcome(
        verdict=result.verdict, known=result.record, before=record, transition=transition
    )
