"""The frames of the worker stream: what the worker writes into them, and how it ends an attempt.

Like `stepstream._convert` for the clients, this is the worker's one place that fills messages.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping

import msgspec
from google.protobuf.message import Message

from stepstream._convert import fill_payload, seconds_to_duration
from stepstream.errors import InvalidTask
from stepstream.session import MAX_MESSAGE_BYTES, PROTOCOL_VERSION
from stepstream.types import Value
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker.attempt import Attempt, Why
from stepstream.worker.inventory import Item
from stepstream.worker.outcomes import Completed, NotRetryable, Retryable, RetryAfter

__all__ = [
    "OUTPUT_BYTES_MAX",
    "Identity",
    "completed",
    "failed",
    "failure",
    "heartbeat",
    "parts",
    "register",
    "released",
    "stopped",
]

OUTPUT_BYTES_MAX = 1024 * 1024  # task.proto, Payload
_CODE_CHARACTERS_MAX = 64  # worker_service.proto, Failed.code
_MESSAGE_BYTES_MAX = 4096  # worker_service.proto, Failed.message
_NOTE_BYTES_MAX = 64  # worker_service.proto, HeldAttempt.note


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a worker is, for as long as its process lives."""

    name: str
    instance_id: str
    sdk: str
    queues: tuple[str, ...]
    step_types: tuple[str, ...]
    labels: Mapping[str, str]


def parts(frame: Message) -> list[str]:
    """Names of the parts that a frame carries, in field order."""
    return [field.name for field, _ in frame.ListFields()]


def register(
    identity: Identity, capacity: int, held: Iterable[Item], now_mono: float
) -> pb.Register:
    """The first part of a stream: who the worker is and what it brings along."""
    return pb.Register(
        worker_name=identity.name,
        instance_id=identity.instance_id,
        sdk=identity.sdk,
        protocol_version=PROTOCOL_VERSION,
        queues=identity.queues,
        step_types=identity.step_types,
        labels=identity.labels,
        max_in_flight=capacity,
        max_message_bytes=MAX_MESSAGE_BYTES,
        inventory=[_inventory_item(item, now_mono) for item in held],
    )


def heartbeat(held: Iterable[Item], batch_received: int, loop_lag_s: float) -> pb.Heartbeat:
    """That the worker lives; marks the news of each attempt's progress as told."""
    return pb.Heartbeat(
        held=[_held_attempt(item) for item in held],
        batch_received=batch_received,
        loop_lag=seconds_to_duration(loop_lag_s, "loop_lag"),
    )


def completed(attempt: Attempt, value: Value | Completed) -> pb.Settlement:
    """A handler's return value, or the failure that it amounts to when it cannot travel."""
    outcome = value if isinstance(value, Completed) else Completed(value)
    settlement = _settlement(attempt)
    output = settlement.completed.output
    try:
        fill_payload(output, outcome.output, "output")
    except InvalidTask as error:
        return failed(attempt, "INVALID_OUTPUT", str(error), retryable=False)
    if (size := output.ByteSize()) > OUTPUT_BYTES_MAX:
        words = f"the output has {size} bytes, the limit is {OUTPUT_BYTES_MAX}"
        return failed(attempt, "OUTPUT_TOO_LARGE", words, retryable=False)
    settlement.completed.outcome = "" if outcome.outcome == "completed" else str(outcome.outcome)
    return settlement


def failed(
    attempt: Attempt,
    code: str,
    message: str,
    *,
    retryable: bool,
    retry_after_s: float | None = None,
) -> pb.Settlement:
    """An attempt that ended badly."""
    settlement = _settlement(attempt)
    settlement.failed.code = _cut(code, _CODE_CHARACTERS_MAX)
    settlement.failed.message = _cut(message, _MESSAGE_BYTES_MAX)
    settlement.failed.retryable = retryable
    if retry_after_s is not None:
        settlement.failed.retry_after.CopyFrom(seconds_to_duration(retry_after_s, "retry_after"))
    return settlement


def failure(attempt: Attempt, error: BaseException) -> pb.Settlement:
    """What a handler raised."""
    match error:
        case NotRetryable():
            return failed(attempt, error.code, str(error), retryable=False)
        case Retryable():
            return failed(attempt, error.code, str(error), retryable=True)
        case RetryAfter():
            return failed(
                attempt, error.code, str(error), retryable=True, retry_after_s=error.seconds
            )
        case _:
            return failed(attempt, "HANDLER_ERROR", _words(error), retryable=True)


def stopped(attempt: Attempt, why: Why) -> pb.Settlement | None:
    """An attempt that was cancelled; None when its result is nobody's business any more."""
    match why:
        case Why.REQUESTED:
            return failed(attempt, "CANCELLED", why.value, retryable=False)
        case Why.TIMEOUT:
            return failed(attempt, "DEADLINE_EXCEEDED", why.value, retryable=True)
        case Why.DEADLINE:
            return failed(attempt, "DEADLINE_EXCEEDED", why.value, retryable=False)
        case Why.LEASE_LOST:
            return None
        case Why.SILENCE | Why.LEAVING:
            return released(attempt, why.value)


def released(attempt: Attempt, reason: str) -> pb.Settlement:
    """An attempt given back uncharged."""
    settlement = _settlement(attempt)
    settlement.released.reason = reason
    return settlement


def _words(error: BaseException) -> str:
    """The error as the last lines of a traceback show it, without its module."""
    words = "".join(traceback.format_exception_only(error)).strip()
    return words.removeprefix(f"{type(error).__module__}.")


def _settlement(attempt: Attempt) -> pb.Settlement:
    return pb.Settlement(assignment_id=attempt.assignment.assignment_id, lease_token=attempt.token)


def _inventory_item(item: Item, now_mono: float) -> pb.InventoryItem:
    return pb.InventoryItem(
        assignment_id=item.assignment_id,
        lease_token=item.token,
        elapsed=seconds_to_duration(now_mono - item.since_mono, "elapsed"),
        settled=item.result is not None,
    )


def _held_attempt(item: Item) -> pb.HeldAttempt:
    held = pb.HeldAttempt(assignment_id=item.assignment_id, lease_token=item.token)
    if item.moved:
        item.moved = False
        held.progress = item.progress
        held.note = _cut(item.note, _NOTE_BYTES_MAX)
    return held


def _cut(text: str, bytes_max: int) -> str:
    """Shortens text to so many bytes of UTF-8; what UTF-8 cannot write becomes a question mark."""
    return text.encode(errors="replace")[:bytes_max].decode(errors="ignore")
