"""One store out of two: Redis, and a journal on this host for what comes while Redis is down.

Theory of operation. A task is either in the journal or in Redis; while it is in the journal, the
journal is the truth about it, whatever Redis may say. New tasks go to the journal only while the
switch is *diverted*, which `fallback.py` decides by its probes, and only if they never reached a
socket. The journal keeps serving its tasks after Redis is back, until they are at rest and were
imported. One that waits for a worker, while none is connected here, goes to Redis as it stands,
where workers of other dispatchers find it. Entries that Redis has for a task of the journal are not
handed out; they stay pending, and recovery looks at them again once the task has been imported. An
import whose fate is unknown may have happened: from then on the task is read from the journal and
not changed there, until Redis has told; a mark in the journal says so after a crash too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.core.record import Stage, Transition
from stepstream_dispatcher.engine.switched_lanes import SwitchedLanes
from stepstream_dispatcher.engine.switched_reads import SwitchedReads
from stepstream_dispatcher.engine.turn import AWAY
from stepstream_dispatcher.store.port import (
    JOURNAL_FIELD,
    CommitFailed,
    CommitKind,
    CommitPartly,
    Durability,
    Imported,
    Journaled,
    Result,
    StoreUnreachable,
    Verdict,
)

__all__ = ["SwitchStore"]


class SwitchStore(SwitchedReads, SwitchedLanes):
    """Serves each task from where it is."""

    async def bring_home(self, task_id: str, *, queued: bool = False) -> Imported | None:
        """Import one task; None if it is being changed, or gone, or not at rest.

        Args:
            queued: Import it too if it waits for a worker.

        Raises:
            StoreUnavailable: Redis is away; the task stays in the journal.
            InternalError: Redis could not take it in; the task stays in the journal.
        """
        may_leave = self._at_rest.get(task_id) or (queued and task_id in self._queued)
        if self._committing[task_id] or not may_leave:
            return None
        known = task_id in self._departed
        self._departed.add(task_id)
        try:
            word = await self._move(task_id)
        except StoreUnavailable as error:
            if isinstance(error, StoreUnreachable) and not known:
                self._departed.discard(task_id)
            raise
        del self._at_rest[task_id]
        self._queued.pop(task_id, None)
        self._departed.discard(task_id)
        await self._journal.drop(task_id)
        return word

    async def _move(self, task_id: str) -> Imported | None:
        task = await self._journal.journaled(task_id)
        if task is None:
            return None
        await self._journal.depart(task_id)
        return await self._remote.take_in(_due_at_once(task, self.now_ms()))

    # --- opening ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """See Store.open. Redis may be down: then the switch begins diverted."""
        if not self._journal_open:
            await self._journal.open()
            self._journal_open = True
        for task_id in await self._journal.journaled_ids():
            task = await self._journal.journaled(task_id)
            if task is not None:
                self._at_rest[task_id] = _rests(task.fields)
                self._note_queue(task_id, _queue_of(task))
        self._departed.update(await self._journal.departed())
        self.rested.set()
        try:
            await self.open_remote()
        except StoreUnreachable:
            self.divert()

    async def open_remote(self) -> None:
        """Open Redis, if nobody has yet.

        Raises:
            StoreUnreachable: It is down.
        """
        if not self._remote_open:
            await self._remote.open()
            self._remote_open = True

    async def close(self) -> None:
        """See Store.close."""
        await self._remote.close()
        await self._journal.close()

    async def ping(self) -> None:
        """See Store.ping."""
        await self._remote.ping()

    async def durability(self) -> Durability:
        """See Store.durability."""
        return await self._ask(self._remote.durability, self._journal.durability)

    async def faults(self) -> list[str]:
        """See Store.faults. Nobody knows while diverted."""
        return [] if self.diverted else await self._remote.faults()

    def now_ms(self) -> int:
        """See Store.now_ms."""
        return self._remote.now_ms()

    # --- committing ------------------------------------------------------------------------------

    async def commit(
        self, transitions: Sequence[Transition], *, kind: CommitKind, live_max: int = 0
    ) -> list[Result]:
        """See Store.commit. Each transition goes where its task is."""
        if not self._at_rest and not self.diverted:
            return await self._commit_away(transitions, kind, live_max)
        here = [at for at, one in enumerate(transitions) if one.task_id in self._at_rest]
        there = [at for at, one in enumerate(transitions) if one.task_id not in self._at_rest]
        results: list[Result | None] = [None] * len(transitions)
        if here:
            known = [transitions[at] for at in here]
            _fill(results, here, await self._write(known, kind, live_max))
        if there:
            try:
                answers = await self._commit_away([transitions[at] for at in there], kind, live_max)
            except CommitFailed as failed:
                _fill(results, there, failed.results)
                unknown = any(results[at] is None for at in here)
                kind_of_error = CommitPartly if unknown else CommitFailed
                raise kind_of_error(failed.message, results) from failed
            except StoreUnavailable as error:
                partial = error.results if isinstance(error, CommitPartly) else ()
                _fill(results, there[: len(partial)], partial)
                raise CommitPartly(error.message, results) from error
            _fill(results, there, answers)
        return _whole(results)

    async def _commit_away(
        self, transitions: Sequence[Transition], kind: CommitKind, live_max: int
    ) -> list[Result]:
        if not self.diverted:
            try:
                return await self._remote.commit(transitions, kind=kind, live_max=live_max)
            except StoreUnreachable:
                if kind == "settle" or not await self._hears_down():
                    self.doubted.set()
                    raise
        if kind == "settle":
            raise StoreUnreachable(AWAY)
        return await self._divert(transitions, live_max)

    async def _divert(self, transitions: Sequence[Transition], live_max: int) -> list[Result]:
        """Create tasks in the journal, as many as may run at once."""
        results: list[Result | None] = [None] * len(transitions)
        room = max(0, self._running_max - self.running)
        willing = [at for at, one in enumerate(transitions) if not one.durable]
        taken, surplus = willing[:room], willing[room:]
        _fill(results, surplus, [Result(Verdict.FULL)] * len(surplus))
        if taken:
            marked = [_marked(transitions[at]) for at in taken]
            _fill(results, taken, await self._write(marked, "submit", live_max))
        if None in results:
            raise CommitPartly("redis is away, and durability is required", results)
        return _whole(results)

    async def _write(
        self, transitions: Sequence[Transition], kind: CommitKind, live_max: int
    ) -> list[Result | None]:
        """Commit to the journal, except what is being imported."""
        results: list[Result | None] = [None] * len(transitions)
        staying = [at for at, one in enumerate(transitions) if one.task_id not in self._departed]
        if staying:
            written = [transitions[at] for at in staying]
            _fill(results, staying, await self._write_all(written, kind, live_max))
        return results

    async def _write_all(
        self, transitions: Sequence[Transition], kind: CommitKind, live_max: int
    ) -> list[Result]:
        task_ids = [one.task_id for one in transitions]
        new = {task_id for task_id in task_ids if task_id not in self._at_rest}
        self._at_rest.update(dict.fromkeys(new, False))  # nobody asks Redis about them now
        self._committing.update(task_ids)
        try:
            results = await self._journal.commit(transitions, kind=kind, live_max=live_max)
        except StoreUnavailable:
            for task_id in new:
                del self._at_rest[task_id]
            raise
        finally:
            self._committing -= Counter(task_ids)
        for transition, result in zip(transitions, results, strict=True):
            if result.verdict is not Verdict.FULL:
                self._note(transition, result)
            elif transition.task_id in new:
                del self._at_rest[transition.task_id]
        return results

    def _note(self, transition: Transition, result: Result) -> None:
        task_id = transition.task_id
        if result.verdict is Verdict.APPLIED and "stage" in transition.fields:
            rests = _rests(transition.fields | {"state": transition.event.state})
            self._at_rest[task_id] = rests
            self._note_queue(task_id, transition.enqueue)
            if rests:
                self.rested.set()

    def _note_queue(self, task_id: str, queue: str | None) -> None:
        """Remember in which queue a task waits; None: in none."""
        if queue is None:
            self._queued.pop(task_id, None)
        else:
            self._queued[task_id] = queue, asyncio.get_running_loop().time()


def _queue_of(task: Journaled) -> str | None:
    return task.fields["queue"] if task.fields["stage"] == Stage.QUEUED else None


def _due_at_once(task: Journaled, now_ms: int) -> Journaled:
    """A task that waits for a worker, as one that is due: whoever looks first queues it anew."""
    if task.fields["stage"] != Stage.QUEUED:
        return task
    due = {"stage": Stage.DELAYED.value, "due_ms": str(now_ms), "entry": ""}
    return msgspec.structs.replace(task, fields=task.fields | due, due_ms=now_ms)


def _marked(transition: Transition) -> Transition:
    """A creation that says that it was made in the journal: an import is known by that."""
    fields = transition.fields | {JOURNAL_FIELD: transition.op_id}
    return msgspec.structs.replace(transition, fields=fields)


def _rests(fields: Mapping[str, str | int | float]) -> bool:
    """Whether nothing will happen to a task until a person or a clock says so."""
    stage = fields.get("stage")
    return stage in (Stage.ENDED, Stage.WAITING) or fields.get("state") == "scheduled"


def _fill(
    results: list[Result | None], places: Sequence[int], answers: Sequence[Result | None]
) -> None:
    for at, answer in zip(places, answers, strict=True):
        results[at] = answer


def _whole(results: Sequence[Result | None]) -> list[Result]:
    """All results, where there are all.

    Raises:
        CommitPartly: Some were left out because their task is being imported.
    """
    if None in results:
        raise CommitPartly("the task is on its way to redis", results)
    return [result for result in results if result is not None]
