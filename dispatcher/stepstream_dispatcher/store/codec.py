"""How records, events and changes are written down: text fields, MessagePack and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from stepstream.errors import InternalError
from stepstream_dispatcher.core.record import Event, EventType, TaskRecord, Transition

__all__ = [
    "OPS_KEPT",
    "OP_ID_LENGTH",
    "WAITING_STATES",
    "decode_event",
    "decode_published",
    "decode_record",
    "encode_event",
    "encode_published",
    "field_text",
    "first_event",
    "is_told_by_record",
    "published_by",
]

OP_ID_LENGTH: Final = 8  # characters
OPS_KEPT: Final = 8  # operation ids that a record remembers; 64 bytes, the limit of a packed value
WAITING_STATES: Final = ("scheduled", "human_review", "failed")  # those with a set by since-when


class _Published(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the channel carries it. `dispatcher` stands first, see `published_by`."""

    dispatcher: str
    task_id: str
    type: str  # name of the event type
    sequence: int
    at_ms: int
    state: str
    step: str
    attempt: int
    actor: str
    detail: str
    message: str
    delay_ms: int
    progress: float


_event_encoder: Final = msgspec.msgpack.Encoder()
_event_decoder: Final = msgspec.msgpack.Decoder(Event)
_json_encoder: Final = msgspec.json.Encoder()
_published_decoder: Final = msgspec.json.Decoder(_Published)


def field_text(value: str | float) -> str:
    """Write a record field as text; an enum member becomes its value."""
    return str.__str__(value) if isinstance(value, str) else str(value)


def decode_record(task_id: str, fields: Mapping[str, str]) -> TaskRecord:
    """Read a record from its text fields; fields of the store itself are skipped.

    Raises:
        InternalError: Somebody wrote into the record what is none.
    """
    try:
        return msgspec.convert(fields, TaskRecord, strict=False)
    except msgspec.ValidationError as error:
        raise InternalError(f"the record of task {task_id} is unreadable: {error}") from error


def encode_event(event: Event) -> bytes:
    """Pack an event for the history, without what is empty at its end."""
    values = list(msgspec.structs.astuple(event))
    while not values[-1]:
        values.pop()
    return _event_encoder.encode(values)


def is_told_by_record(transition: Transition) -> bool:
    """Whether an event need not be kept: it says of a new task what its record says already."""
    if transition.expected_version:
        return False
    fields = transition.fields
    return transition.event == first_event(
        int(fields.get("created_ms", 0)), str(fields["state"]), str(fields["step"])
    )


def first_event(created_ms: int, state: str, step: str) -> Event:
    """The event that is not kept of a task at version 1, out of its record."""
    return Event(sequence=1, at_ms=created_ms, type=EventType.SUBMITTED, state=state, step=step)


def decode_event(packed: bytes) -> Event:
    """Unpack an event of the history."""
    return _event_decoder.decode(packed)


def encode_published(dispatcher_id: str, task_id: str, event: Event) -> bytes:
    """Write an event as the JSON that `task:events` carries."""
    return _json_encoder.encode(
        _Published(
            dispatcher=dispatcher_id,
            task_id=task_id,
            type=event.type.name,
            sequence=event.sequence,
            at_ms=event.at_ms,
            state=event.state,
            step=event.step,
            attempt=event.attempt,
            actor=event.actor,
            detail=event.detail,
            message=event.message,
            delay_ms=event.delay_ms,
            progress=event.progress,
        )
    )


def decode_published(payload: bytes) -> tuple[str, Event]:
    """Read the task id and the event out of a message of `task:events`.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: The message is not one of ours.
        KeyError: The type is one that this release does not know.
    """
    published = _published_decoder.decode(payload)
    event = Event(
        sequence=published.sequence,
        at_ms=published.at_ms,
        type=EventType[published.type],
        state=published.state,
        step=published.step,
        attempt=published.attempt,
        actor=published.actor,
        detail=published.detail,
        message=published.message,
        delay_ms=published.delay_ms,
        progress=published.progress,
    )
    return published.task_id, event


def published_by(dispatcher_id: str) -> bytes:
    """How every message of a dispatcher begins, so that it skips its own unparsed."""
    return b'{"dispatcher":' + _json_encoder.encode(dispatcher_id) + b","
