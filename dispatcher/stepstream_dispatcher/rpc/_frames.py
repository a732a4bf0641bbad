"""The frames of a worker stream: what a worker's say becomes facts, what waits becomes frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import msgspec
from google.protobuf.duration_pb2 import Duration

from stepstream.errors import InvalidTask, RemoteProtocolError
from stepstream.session import BATCH_BYTES_MAX, MAX_MESSAGE_BYTES
from stepstream.v1 import worker_service_pb2 as api
from stepstream_dispatcher.core.facts import Completed, Fact, Failed, Released
from stepstream_dispatcher.core.spans import carrier_of
from stepstream_dispatcher.engine.reception import Opened
from stepstream_dispatcher.engine.sessions import Handout, Hello, Inventory, Outbox, Session
from stepstream_dispatcher.engine.settling import Held, Settlement
from stepstream_dispatcher.rpc._convert import duration_of_ms, ms_of

__all__ = [
    "credit_of",
    "frames_of",
    "held_of",
    "hello_of",
    "parts_of",
    "registered",
    "settlements_of",
]

SLOTS_MAX: Final = 10_000
QUEUES_MAX: Final = 64
STEP_TYPES_MAX: Final = 256
RETRY_AFTER_MS_MAX: Final = 24 * 3600 * 1000
MESSAGE_MAX: Final = 4096  # characters kept of an error message
CODE_MAX: Final = 64
ASSIGNMENT_BYTES: Final = 512  # what an assignment takes besides its payloads, rounded up
CANCEL_GRACE: Final = Duration(seconds=5)
NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


# --- in ------------------------------------------------------------------------------------------


def parts_of(frame: api.WorkRequest | api.WorkResponse) -> list[str]:
    """Names of the parts that a frame carries, in field order."""
    return [field.name for field, _ in frame.ListFields()]


def hello_of(register: api.Register) -> Hello:
    """Read a registration.

    Raises:
        RemoteProtocolError: A field is out of its limits.
    """
    _require(NAME.match(register.worker_name), "worker_name", "1 to 64 of [A-Za-z0-9._-]")
    _require(NAME.match(register.instance_id), "instance_id", "1 to 64 of [A-Za-z0-9._-]")
    _require(0 < len(register.queues) <= QUEUES_MAX, "queues", f"1 to {QUEUES_MAX}")
    _require(0 < len(register.step_types) <= STEP_TYPES_MAX, "step_types", f"1 to {STEP_TYPES_MAX}")
    return Hello(
        worker_name=register.worker_name,
        instance_id=register.instance_id,
        sdk=register.sdk[:CODE_MAX],
        queues=frozenset(register.queues),
        step_types=frozenset(register.step_types),
        max_in_flight=_credit(register.max_in_flight, "max_in_flight"),
        max_message_bytes=register.max_message_bytes or MAX_MESSAGE_BYTES,
        inventory=tuple(
            Inventory(
                assignment_id=_assignment_id(item.assignment_id),
                lease_token=item.lease_token,
                elapsed_s=item.elapsed.seconds + item.elapsed.nanos / 1e9,
                settled=item.settled,
            )
            for item in register.inventory
        ),
    )


def credit_of(pull: api.Pull) -> tuple[int, int]:
    """Read a worker's credit: attempts that it runs at once, and those that it takes ahead.

    Raises:
        RemoteProtocolError: One is out of range.
    """
    return _credit(pull.max_in_flight, "max_in_flight"), _credit(pull.ahead, "ahead")


def _credit(attempts: int, field: str) -> int:
    _require(0 <= attempts <= SLOTS_MAX, field, f"0 to {SLOTS_MAX}")
    return attempts


def settlements_of(report: api.Report, payload_bytes_max: int) -> list[Settlement]:
    """Read settled attempts; what can't be recorded as it is becomes a failure that says so."""
    return [_settlement(one, payload_bytes_max) for one in report.settlements]


def _settlement(one: api.Settlement, payload_bytes_max: int) -> Settlement:
    fact, refused = _fact(one, payload_bytes_max)
    return Settlement(
        assignment_id=_assignment_id(one.assignment_id),
        lease_token=one.lease_token,
        fact=fact,
        refused=refused,
    )


def _fact(one: api.Settlement, payload_bytes_max: int) -> tuple[Fact, str]:
    token = one.lease_token
    kind = one.WhichOneof("result")
    if kind == "completed":
        output = one.completed.output.SerializeToString()
        if len(output) > payload_bytes_max:
            words = f"output has {len(output)} bytes, limit {payload_bytes_max}"
            return _refused(token, "OUTPUT_TOO_LARGE", words)
        outcome = one.completed.outcome or "completed"
        return Completed(token=token, outcome=outcome, output=output), ""
    if kind == "failed":
        return _failed(token, one.failed)
    if kind == "released":
        return Released(token=token, reason=one.released.reason, reported=True), ""
    return _refused(token, "INVALID_REPORT", "the settlement has no result")


def _failed(token: str, failed: api.Failed) -> tuple[Fact, str]:
    retry_after_ms: int | None = None
    if failed.HasField("retry_after"):
        try:
            asked_ms = ms_of(failed.retry_after, "retry_after")
        except InvalidTask as error:
            return _refused(token, "INVALID_REPORT", error.message)
        retry_after_ms = min(max(asked_ms, 0), RETRY_AFTER_MS_MAX)
    fact = Failed(
        token=token,
        code=failed.code[:CODE_MAX] or "HANDLER_ERROR",
        message=failed.message[:MESSAGE_MAX],
        retryable=failed.retryable,
        retry_after_ms=retry_after_ms,
    )
    return fact, ""


def _refused(token: str, code: str, words: str) -> tuple[Fact, str]:
    return Failed(token=token, code=code, message=words, retryable=False), words


def held_of(heartbeat: api.Heartbeat) -> list[Held]:
    """Read the attempts that a heartbeat names."""
    return [
        Held(
            lease_token=one.lease_token,
            progress=min(1.0, max(0.0, one.progress)) if one.HasField("progress") else None,
            note=one.note,
        )
        for one in heartbeat.held
    ]


def _assignment_id(value: str) -> str:
    _require(value.count("/") >= 2, "assignment_id", "task/step/attempt as it was handed out")  # noqa: PLR2004
    return value


def _require(holds: object, field: str, words: str) -> None:
    if not holds:
        raise RemoteProtocolError(f"{field} must be {words}", field=field)


# --- out -----------------------------------------------------------------------------------------


def registered(
    opened: Opened, *, dispatcher_id: str, heartbeat_interval_s: float, silence_limit_s: float
) -> api.WorkResponse:
    """Write the answer to a registration."""
    verdicts = [
        api.InventoryVerdict(assignment_id=name, verdict=api.Verdict.Value(f"VERDICT_{word}"))
        for name, word in opened.verdicts
    ]
    answer = api.Registered(
        session_id=opened.session.id,
        dispatcher_id=dispatcher_id,
        heartbeat_interval=duration_of_ms(int(heartbeat_interval_s * 1000)),
        silence_limit=duration_of_ms(int(silence_limit_s * 1000)),
        max_message_bytes=MAX_MESSAGE_BYTES,
        warnings=opened.warnings,
        verdicts=verdicts,
    )
    return api.WorkResponse(registered=answer)


def frames_of(session: Session) -> Iterator[api.WorkResponse]:
    """Take all that waits in an outbox: one frame, or more where a batch is long."""
    outbox = session.outbox
    handouts = outbox.take_handouts()
    first = _first_frame(outbox)
    chunks = _chunks(handouts)
    for chunk in chunks:
        session.batches += 1
        first.batch.number = session.batches
        for handout in chunk:
            handout.attempt.batch = session.batches
            _add_assignment(first.batch, handout)
        yield first
        first = api.WorkResponse()
    if outbox.drain:  # last: no batch may follow it
        first.drain.reason, outbox.drain = outbox.drain, ""
        first.drain.leave, outbox.leave = outbox.leave, False
    if first.ListFields():
        yield first


def _first_frame(outbox: Outbox) -> api.WorkResponse:
    frame = api.WorkResponse()
    if outbox.receipts:
        receipts, outbox.receipts = outbox.receipts, []
        frame.receipts.receipts.extend(
            api.Receipt(
                assignment_id=one.assignment_id,
                lease_token=one.lease_token,
                status=_RECEIPTS[one.status],
                message=one.message,
            )
            for one in receipts
        )
        outbox.emptied()
    if outbox.not_owned is not None:
        frame.heartbeat_ack.SetInParent()
        frame.heartbeat_ack.not_owned.extend(outbox.not_owned)
        outbox.not_owned = None
    if outbox.cancels:
        cancels, outbox.cancels = outbox.cancels, []
        frame.cancels.extend(
            api.Cancel(
                assignment_id=one.assignment_id,
                reason=api.CancelReason.Value(f"CANCEL_REASON_{one.reason}"),
                grace=CANCEL_GRACE,
            )
            for one in cancels
        )
    return frame


_RECEIPTS: Final = {
    name.removeprefix("RECEIPT_STATUS_"): value for name, value in api.ReceiptStatus.items()
}


def _chunks(handouts: list[Handout]) -> Iterator[list[Handout]]:
    chunk: list[Handout] = []
    room = BATCH_BYTES_MAX
    for handout in handouts:
        size = ASSIGNMENT_BYTES + handout.size
        if chunk and size > room:
            yield chunk
            chunk, room = [], BATCH_BYTES_MAX
        chunk.append(handout)
        room -= size
    if chunk:
        yield chunk


def _add_assignment(batch: api.Batch, handout: Handout) -> None:
    attempt, data = handout.attempt, handout.data
    record = attempt.record
    assignment = batch.assignments.add(
        assignment_id=attempt.assignment_id,
        lease_token=record.lease,
        task_id=attempt.task_id,
        pipeline=record.pipeline.partition("@")[0],
        step=record.step,
        attempt=record.attempt,
        timeout=_timeout(handout.timeout_ms),
    )
    assignment.input.MergeFromString(data.get("input", b""))
    if len(data) > 1:
        _add_data(assignment, data)


@lru_cache
def _timeout(timeout_ms: int) -> Duration:
    """The same message for all attempts with the same limit; most have the one of their step."""
    return duration_of_ms(timeout_ms)


def _add_data(assignment: api.Assignment, data: dict[str, bytes]) -> None:
    for field, value in data.items():
        kind, _, name = field.partition(".")
        if kind == "output":
            assignment.outputs[name].ParseFromString(value)
        elif kind == "feedback":
            assignment.feedback = value.decode()
        elif kind == "labels":
            assignment.labels.update(msgspec.json.decode(value, type=dict[str, str]))
        elif kind == "trace":
            assignment.trace_context.update(carrier_of(value))
