"""What operators ask for: workers, queues, dead letters, pipelines, why a task is not running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from stepstream.errors import (
    InvalidTask,
    PayloadTooLarge,
    QueueNotFound,
    StepstreamError,
    TaskContended,
    TaskNotFailed,
    TaskNotFound,
    WorkerNotFound,
)
from stepstream_dispatcher.core.admission import Limits, Submission, check_task_id, input_hash
from stepstream_dispatcher.core.explain import Explanation, Scene, Seat, explain
from stepstream_dispatcher.core.facts import InputUpdated, Redriven
from stepstream_dispatcher.core.lifecycle import Refusal
from stepstream_dispatcher.core.pipeline import Catalog, Pipeline
from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.engine.committer import Committer, Outcome, Proposal, broken
from stepstream_dispatcher.engine.desk import Desk, Listing, Selection, Sight
from stepstream_dispatcher.engine.intents import IntentKeeper
from stepstream_dispatcher.engine.vocabulary import Vocabulary
from stepstream_dispatcher.store.port import Intents, Store, Verdict

__all__ = ["KnownWorker", "Operations"]

REDRIVE_MAX: Final = 1000
NAME_MAX: Final = 64  # characters of a name that a message repeats


class KnownWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that was seen in the last 10 minutes."""

    name: str
    instance_id: str
    dispatcher_id: str  # who holds its session; empty when nobody does
    queues: tuple[str, ...]
    step_types: tuple[str, ...]
    max_in_flight: int
    in_flight: int
    processed: int
    failed: int
    seen_ms: int  # Unix ms by the store's clock; 0: unknown
    sdk: str
    draining: bool


class Operations:
    """Serves the operators of one dispatcher; what concerns others reaches them as intents.

    Args:
        silence_limit_s: A dispatcher that has not beaten for this long is gone, with its workers.
        dispatcher_id: This dispatcher.
    """

    def __init__(
        self,
        *,
        store: Store,
        committer: Committer,
        desk: Desk,
        intents: IntentKeeper,
        catalog: Catalog,
        vocabulary: Vocabulary,
        limits: Limits,
        silence_limit_s: float,
        dispatcher_id: str,
    ) -> None:
        self._store = store
        self._committer = committer
        self._desk = desk
        self._intents = intents
        self._catalog = catalog
        self._vocabulary = vocabulary
        self._limits = limits
        self._silence_limit_ms = int(silence_limit_s * 1000)
        self._dispatcher_id = dispatcher_id

    # --- workers ---------------------------------------------------------------------------------

    async def workers(self) -> list[KnownWorker]:
        """List workers by name, at whichever dispatcher they are."""
        return await self._workers(await self._store.intents())

    async def _workers(self, intents: Intents) -> list[KnownWorker]:
        known = await self._store.workers()
        ages_ms = await self._store.dispatchers()
        alive = {name for name, age_ms in ages_ms.items() if age_ms < self._silence_limit_ms}
        return [_worker(name, known[name], alive, intents.draining) for name in sorted(known)]

    async def drain(self, name: str) -> None:
        """Send a worker away, whoever it is connected to. One that has left is left alone.

        Raises:
            InvalidTask, WorkerNotFound, StoreUnavailable: See the errors.
        """
        _require(name, "name")
        fields = (await self._store.workers()).get(name)
        if fields is None:
            raise WorkerNotFound(f"no worker {name[:NAME_MAX]!r} in the last 10 minutes")
        if fields.get("is_running") != "1":
            return
        await self._store.dismiss(fields["instance"])
        await self._intents.look()
        if fields["dispatcher"] != self._dispatcher_id:
            await self._store.notify(fields["dispatcher"], f"drain {name}".encode())

    # --- queues ----------------------------------------------------------------------------------

    async def pause(self, queue: str) -> None:
        """Hand out nothing from a queue, at any dispatcher, until it is resumed.

        Raises:
            InvalidTask, QueueNotFound, StoreUnavailable: See the errors.
        """
        await self._check_queue(queue)
        await self._store.pause(queue)
        await self._tell_all(f"pause {queue}")

    async def resume(self, queue: str) -> None:
        """Hand out from a queue again.

        Raises:
            InvalidTask, QueueNotFound, StoreUnavailable: See the errors.
        """
        if queue not in (await self._store.intents()).paused:
            await self._check_queue(queue)
        await self._store.resume(queue)
        await self._tell_all(f"resume {queue}")

    async def paused(self) -> Mapping[str, int]:
        """Queues that are paused, and since when, Unix ms."""
        return (await self._store.intents()).paused

    async def _tell_all(self, words: str) -> None:
        """Obey at once, and have the others do so; they look by themselves every 2 s."""
        await self._intents.look()
        for dispatcher_id in await self._store.dispatchers():
            if dispatcher_id != self._dispatcher_id:
                await self._store.notify(dispatcher_id, words.encode())

    async def _check_queue(self, queue: str) -> None:
        _require(queue, "queue")
        if await self._vocabulary.has_queue(queue):
            return
        if not any(queue in one.queues for one in await self.workers() if one.dispatcher_id):
            raise QueueNotFound(
                f"no pipeline and no connected worker has queue {queue[:NAME_MAX]!r}"
            )

    # --- dead letters ----------------------------------------------------------------------------

    async def dead_letters(self, *, page_size: int, page_token: str) -> Listing:
        """List failed tasks, latest first.

        Raises:
            InvalidTask: A bad page size or token.
        """
        selection = Selection(page_size=page_size, page_token=page_token, state="failed")
        return await self._desk.list(selection)

    async def redrive(self, task_ids: Sequence[str]) -> list[StepstreamError | None]:
        """Start failed tasks anew, each by itself; None for each that is under way again.

        Raises:
            InvalidTask: The list is empty or too long.
            StoreUnavailable: Nobody knows which of them are; ask again.
        """
        if not 1 <= len(task_ids) <= REDRIVE_MAX:
            words = f"task_ids must have 1 to {REDRIVE_MAX} entries, got {len(task_ids)}"
            raise InvalidTask(words, field="task_ids")
        answers: list[StepstreamError | None] = [_wrong_id(task_id) for task_id in task_ids]
        wanted = {one: at for at, one in enumerate(task_ids) if answers[at] is None}
        records = await self._store.records(list(wanted))
        proposals: list[Proposal] = []
        for (task_id, at), record in zip(wanted.items(), records, strict=True):
            if record is None:
                answers[at] = TaskNotFound(f"no task {task_id}")
            else:
                proposals.append(Proposal(task_id=task_id, record=record, fact=Redriven()))
        for proposal, outcome in zip(
            proposals, await self._committer.apply(proposals), strict=True
        ):
            answers[wanted[proposal.task_id]] = _refusal(proposal.task_id, outcome)
        return [answers[wanted.get(one, at)] for at, one in enumerate(task_ids)]

    async def update_input(self, task_id: str, payload: bytes, *, version: int) -> Sight:
        """Replace the input of a failed task, if it is at the version that the operator saw.

        Args:
            payload: Serialized Payload.
            version: 0: whatever it is.

        Raises:
            InvalidTask, PayloadTooLarge, TaskNotFound, TaskNotFailed, TaskContended,
            StoreUnavailable: See the errors.
        """
        check_task_id(task_id)
        self._check_input(payload)
        if version < 0:
            raise InvalidTask("version must not be negative", field="version")
        (record,) = await self._store.records([task_id])
        if record is None:
            raise TaskNotFound(f"no task {task_id}")
        name = record.pipeline.partition("@")[0]
        digest = input_hash(Submission(pipeline=name, input=payload))
        fact = InputUpdated(input=payload, input_hash=digest, seen_version=version)
        proposal = Proposal(task_id=task_id, record=record, fact=fact)
        (outcome,) = await self._committer.apply([proposal])
        if refusal := _refusal(task_id, outcome, seen_version=version):
            raise refusal
        return await self._desk.get(task_id)

    def _check_input(self, payload: bytes) -> None:
        if not payload:
            raise InvalidTask("input is required: one of json, text, data", field="input")
        if len(payload) > self._limits.payload_bytes:
            size = f"{len(payload)} bytes, limit {self._limits.payload_bytes}"
            raise PayloadTooLarge(f"input is too large: {size}", field="input")

    # --- pipelines and tasks ---------------------------------------------------------------------

    def pipelines(self) -> list[Pipeline]:
        """The pipelines that new tasks begin with, by name."""
        return sorted(self._catalog, key=lambda pipeline: pipeline.name)

    async def explain(self, task_id: str) -> Explanation:
        """Say why a task is not running.

        Raises:
            InvalidTask, TaskNotFound, StoreUnavailable: See the errors.
        """
        check_task_id(task_id)
        (record,) = await self._store.records([task_id])
        if record is None:
            raise TaskNotFound(f"no task {task_id}")
        intents = await self._store.intents()
        workers = await self._workers(intents)
        return explain(
            Scene(
                task_id=task_id,
                record=record,
                seats=[_seat(worker) for worker in workers if worker.dispatcher_id],
                step_types=await self._step_types(record),
                paused=intents.paused,
                now_ms=self._store.now_ms(),
            )
        )

    async def _step_types(self, record: TaskRecord) -> frozenset[str]:
        """What a worker must serve to be fed from the record's queue."""
        if record.queue:
            await self._vocabulary.has_queue(record.queue)  # a pipeline of another may be new here
        return self._catalog.step_types(record.queue)


def _worker(
    name: str, fields: Mapping[str, str], alive: set[str], draining: frozenset[str]
) -> KnownWorker:
    here = fields.get("is_running") == "1" and fields.get("dispatcher", "") in alive
    instance_id = fields.get("instance", "")
    return KnownWorker(
        name=name,
        instance_id=instance_id,
        dispatcher_id=fields.get("dispatcher", "") if here else "",
        queues=_names(fields.get("queues", "")),
        step_types=_names(fields.get("step_types", "")),
        max_in_flight=int(fields.get("max_in_flight", 0)),
        in_flight=int(fields.get("current_tasks", 0)) if here else 0,
        processed=int(fields.get("processed", 0)),
        failed=int(fields.get("failed", 0)),
        seen_ms=int(fields.get("seen_ms", 0)),
        sdk=fields.get("sdk", ""),
        draining=here and (fields.get("draining") == "1" or instance_id in draining),
    )


def _names(joined: str) -> tuple[str, ...]:
    return tuple(joined.split(",")) if joined else ()


def _seat(worker: KnownWorker) -> Seat:
    return Seat(
        name=worker.name,
        queues=frozenset(worker.queues),
        step_types=frozenset(worker.step_types),
        slots=worker.max_in_flight,
        held=worker.in_flight,
        draining=worker.draining,
    )


def _require(value: str, field: str) -> None:
    if not value:
        raise InvalidTask(f"{field} is required", field=field)


def _wrong_id(task_id: str) -> StepstreamError | None:
    try:
        check_task_id(task_id)
    except InvalidTask as error:
        return error
    return None


def _refusal(task_id: str, outcome: Outcome, *, seen_version: int = 0) -> StepstreamError | None:
    """Why a change of a dead letter was refused; None if it was made."""
    if outcome.verdict is Verdict.NOT_FOUND:
        return TaskNotFound(f"task {task_id} has expired")
    if outcome.verdict is Verdict.VERSION_CONFLICT:
        return TaskContended(f"task {task_id} changes too fast")
    if outcome.refusal is Refusal.BROKEN:
        return broken(task_id)
    record = outcome.record
    if outcome.refusal is None or record is None:
        return None
    if record.state != "failed":
        return TaskNotFailed(f"task {task_id} has not failed: it is {record.state}")
    words = f"task {task_id} is at version {record.version}, not {seen_version}"
    return TaskNotFailed(f"{words}; look again")
