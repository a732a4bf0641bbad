"""What operators ask for: workers, pauses, dead letters, pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from stepstream.errors import (
    InvalidTask,
    NotFailed,
    PayloadTooLarge,
    QueueNotFound,
    StepstreamError,
    WorkerNotFound,
)
from stepstream_dispatcher.core.admission import Submission, input_hash
from stepstream_dispatcher.core.facts import Fact, InputUpdated, Redriven
from stepstream_dispatcher.core.pipeline import Catalog, Pipeline
from stepstream_dispatcher.engine.desk import Desk, Listing, Selection, Sight
from stepstream_dispatcher.engine.intents import DRAIN_FIELD, Intents
from stepstream_dispatcher.store.port import Store

__all__ = ["Operations", "WorkerSight"]

REDRIVE_MAX: Final = 1000


class WorkerSight(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a worker."""

    name: str
    instance: str
    dispatcher: str  # that holds its session; empty when it is gone
    queues: tuple[str, ...]
    step_types: tuple[str, ...]
    max_in_flight: int
    in_flight: int
    processed: int
    failed: int
    seen_ms: int  # when it was written last, Unix ms by the store's clock; 0: unknown
    sdk: str
    is_running: bool
    draining: bool


class Operations:
    """Serves the operators of one dispatcher."""

    def __init__(self, *, store: Store, desk: Desk, catalog: Catalog, intents: Intents) -> None:
        self._store = store
        self._desk = desk
        self._catalog = catalog
        self._intents = intents

    async def workers(self) -> list[WorkerSight]:
        """List workers by name, gone ones for 10 minutes."""
        known = await self._store.workers()
        return [_worker(name, known[name]) for name in sorted(known)]

    async def drain_worker(self, name: str) -> None:
        """Have a worker finish what it runs, and leave. Idempotent.

        Raises:
            WorkerNotFound: No running worker has that name.
        """
        fields = (await self._store.workers()).get(name, {})
        if fields.get("is_running") != "1":
            raise WorkerNotFound(f"no running worker is named {name[:64]!r}")
        await self._store.save_worker(name, {DRAIN_FIELD: fields["instance"]})
        await self._intents.announce()

    async def pause(self, queue: str) -> None:
        """Hand out nothing more from a queue; what runs goes on. Idempotent.

        Raises:
            QueueNotFound: Nobody uses it.
        """
        await self._check_queue(queue)
        await self._store.pause(queue)
        await self._intents.announce()

    async def resume(self, queue: str) -> None:
        """Hand out from a queue again. Idempotent.

        Raises:
            QueueNotFound: Nobody uses it.
        """
        await self._check_queue(queue)
        await self._store.resume(queue)
        await self._intents.announce()

    async def _check_queue(self, queue: str) -> None:
        known = set(self._catalog.queues()) | await self._store.paused()
        if queue not in known and queue not in await self._served():
            raise QueueNotFound(f"nobody uses a queue {queue[:64]!r}; known: {sorted(known)}")

    async def _served(self) -> set[str]:
        return {queue for worker in await self.workers() for queue in worker.queues}

    async def dead_letters(self, *, page_size: int, page_token: str) -> Listing:
        """List failed tasks, latest first.

        Raises:
            InvalidTask: A bad page size or token.
        """
        return await self._desk.list(
            Selection(page_size=page_size, page_token=page_token, state="failed")
        )

    async def redrive(self, task_ids: Sequence[str]) -> list[StepstreamError | None]:
        """Start dead letters anew at the step that failed; one answer each, None: it is queued.

        Raises:
            InvalidTask: None, or too many.
        """
        if not 1 <= len(task_ids) <= REDRIVE_MAX:
            words = f"task_ids must have 1 to {REDRIVE_MAX} entries, got {len(task_ids)}"
            raise InvalidTask(words, field="task_ids")
        return [await self._redrive(task_id) for task_id in task_ids]

    async def _redrive(self, task_id: str) -> StepstreamError | None:
        try:
            await self._change(task_id, Redriven())
        except StepstreamError as error:
            return error
        return None

    async def update_input(
        self, task_id: str, payload: bytes, *, version: int, bytes_max: int
    ) -> Sight:
        """Replace the input of a dead letter.

        Args:
            payload: Serialized Payload.
            version: That the operator saw; 0: whatever it is.
            bytes_max: Of the payload.

        Raises:
            InvalidTask, PayloadTooLarge, TaskNotFound, NotFailed: See the errors.
        """
        if not payload:
            raise InvalidTask("input is required: one of json, text, data", field="input")
        if len(payload) > bytes_max:
            raise PayloadTooLarge(f"input is over {bytes_max} bytes", field="input")
        if version < 0:
            raise InvalidTask("version must not be negative", field="version")
        record = (await self._desk.get(task_id)).record
        submission = Submission(pipeline=record.pipeline.partition("@")[0], input=payload)
        digest = input_hash(submission)
        fact = InputUpdated(input=payload, input_hash=digest, seen_version=version)
        await self._change(task_id, fact)
        return await self._desk.get(task_id)

    async def _change(self, task_id: str, fact: Fact) -> None:
        outcome = await self._desk.apply(task_id, fact)
        record = outcome.record
        if outcome.refusal is not None and record is not None:
            words = f"task {task_id} is {record.state} at version {record.version}"
            raise NotFailed(f"{words}: only a dead letter as it was seen can be changed")

    def pipelines(self) -> list[Pipeline]:
        """The pipelines that new tasks begin with, by name."""
        return sorted(self._catalog, key=lambda one: one.name)


def _worker(name: str, fields: dict[str, str]) -> WorkerSight:
    running = fields.get("is_running") == "1"
    return WorkerSight(
        name=name,
        instance=fields.get("instance", ""),
        dispatcher=fields.get("dispatcher", "") if running else "",
        queues=tuple(filter(None, fields.get("queues", "").split(","))),
        step_types=tuple(filter(None, fields.get("step_types", "").split(","))),
        max_in_flight=int(fields.get("max_in_flight", 0)),
        in_flight=int(fields.get("current_tasks", 0)) if running else 0,
        processed=int(fields.get("processed", 0)),
        failed=int(fields.get("failed", 0)),
        seen_ms=int(fields.get("seen_ms", 0)),
        sdk=fields.get("sdk", ""),
        is_running=running,
        draining=fields.get("draining") == "1",
    )
