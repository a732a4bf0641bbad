"""What moves have in common: where a task goes, and what every transition to it says."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from stepstream_dispatcher.core.decision import AttemptFailure, Circumstances
from stepstream_dispatcher.core.pipeline import DONE, FAILED, RetryPolicy, Step
from stepstream_dispatcher.core.record import (
    Event,
    EventType,
    Stage,
    TaskRecord,
    Transition,
    with_fields,
)

__all__ = [
    "DEADLINE_EXCEEDED",
    "ERRORS_MAX",
    "MESSAGE_MAX",
    "Fields",
    "changed",
    "delay",
    "end",
    "enter",
    "event_of",
    "expire",
    "failure_of",
    "follow",
    "fresh_step",
    "no_releases",
    "policy_of",
    "queue",
    "settlement",
]

DEADLINE_EXCEEDED: Final = "DEADLINE_EXCEEDED"  # code of what took too long
ERRORS_MAX: Final = 50  # entries of the error history; older ones are overwritten
MESSAGE_MAX: Final = 256  # characters of an event's message

Fields: TypeAlias = dict[str, str | int | float]

_NO_HOLDER: Final[Fields] = {"lease": "", "owner": "", "worker": "", "entry": ""}


def follow(
    record: TaskRecord,
    at: Circumstances,
    target: str,
    change: dict[str, Any],
    *,
    kind: EventType = EventType.COMPLETED,
    **words: str,
) -> Transition:
    """Go where an outcome leads: to another step, to `done` or to `failed`."""
    if target == DONE:
        return end(record, at, "done", change, **words)
    if target == FAILED:
        return end(record, at, "failed", change, **words)
    step = at.pipeline.step(target)
    fields = {**fresh_step(record), **change.pop("fields", {}), "step": target}
    change["fields"] = fields
    if step.kind == "human":
        kind = EventType.WAITING
    return enter(record, at, kind, step, change, **words)


def enter(
    record: TaskRecord,
    at: Circumstances,
    kind: EventType,
    step: Step,
    change: dict[str, Any],
    **words: str,
) -> Transition:
    """Begin a step: on its lane, or before a person."""
    if step.kind == "worker":
        return queue(record, at, kind, change, state=step.state, queue=step.queue, **words)
    fields: Fields = {**change.pop("fields", {}), "stage": Stage.WAITING}
    fields.update(_no_due(record), queue="", entry="")
    event = event_of(record, at, kind, step.state, **words)
    return changed(record, at, state=step.state, fields=fields, event=event, **change)


def queue(
    record: TaskRecord,
    at: Circumstances,
    kind: EventType,
    change: dict[str, Any],
    *,
    state: str = "",
    queue: str = "",
    **words: str,
) -> Transition:
    """Put the current step on its lane."""
    state = state or record.state
    queue = queue or record.queue
    fields: Fields = {**change.pop("fields", {}), "stage": Stage.QUEUED, "queue": queue}
    fields.update(_no_due(record))
    event = event_of(record, at, kind, state, **words)
    return changed(record, at, state=state, fields=fields, enqueue=queue, event=event, **change)


def delay(
    record: TaskRecord,
    at: Circumstances,
    kind: EventType,
    delay_ms: int,
    change: dict[str, Any],
    **words: str,
) -> Transition:
    """Put the current step off."""
    due_ms = at.now_ms + delay_ms
    fields: Fields = {**change.pop("fields", {}), "stage": Stage.DELAYED, "due_ms": due_ms}
    event = msgspec.structs.replace(
        event_of(record, at, kind, record.state, actor=record.worker, **words), delay_ms=delay_ms
    )
    return changed(record, at, fields=fields, event=event, **change)


_ENDINGS: Final = {
    "done": EventType.DONE,
    "failed": EventType.FAILED,
    "cancelled": EventType.CANCELLED,
}


def end(
    record: TaskRecord, at: Circumstances, state: str, change: dict[str, Any], **words: str
) -> Transition:
    """End the task as `done`, `failed` or `cancelled`."""
    fields: Fields = {**change.pop("fields", {}), "stage": Stage.ENDED}
    fields.update(_no_due(record), entry="")
    words.setdefault("actor", record.worker)
    event = event_of(record, at, _ENDINGS[state], state, **words)
    return changed(
        record, at, state=state, fields=fields, live=-1, retain_s=at.retain_s, event=event, **change
    )


def expire(record: TaskRecord, at: Circumstances, change: dict[str, Any]) -> Transition:
    """Fail the task because its deadline has passed, whatever its latest attempt has come to."""
    allowed_s = (record.deadline_ms - record.created_ms) / 1000
    message = f"the task had not ended {allowed_s:g} s after it was accepted"
    fields = change.setdefault("fields", {})
    noted = msgspec.structs.replace(record, errors=fields.get("errors", record.errors))
    if record.stage is not Stage.LEASED:
        noted = msgspec.structs.replace(noted, leased_ms=record.created_ms)
    fields["errors"] = noted.errors + 1
    entry = failure_of(noted, at, DEADLINE_EXCEEDED, message, retryable=False)
    change["data"] = {**change.get("data", {}), **entry}
    return end(record, at, "failed", change, detail=DEADLINE_EXCEEDED, message=message)


def changed(
    record: TaskRecord,
    at: Circumstances,
    *,
    fields: Fields,
    event: Event,
    state: str = "",
    holder: Fields | None = None,
    **rest: Any,
) -> Transition:
    """Build the transition to the next version, with the state's move where it changes."""
    state = state or record.state
    moved = state != record.state
    if holder:
        fields = {**holder, **fields}
    fields["version"] = record.version + 1
    fields["updated_ms"] = at.now_ms
    if moved:
        fields["state"] = state
    due_ms, undelay = _timer(record, fields)
    return Transition(
        task_id=at.task_id,
        op_id=at.op_id,
        expected_version=record.version,
        fields=fields,
        move=(record.state, state) if moved else None,
        due_ms=due_ms,
        undelay=undelay,
        event=event,
        **rest,
    )


def _timer(record: TaskRecord, fields: Fields) -> tuple[int | None, bool]:
    """How the task's place in the delayed set changes: (due_ms, undelay) of the transition."""
    if not record.deadline_ms and record.stage is not Stage.DELAYED:  # most: it had none before
        return int(fields.get("due_ms", 0)) or None, False
    before_ms, after_ms = record.timer_ms, with_fields(record, fields).timer_ms
    if before_ms == after_ms:
        return None, False
    return after_ms or None, not after_ms


def fresh_step(record: TaskRecord) -> Fields:
    """What a step begins with. Progress is written always: a report of it raises no version."""
    begun: Fields = {"attempt": 0, "progress": 0.0, "note": "", **no_releases(record)}
    if record.failures:
        begun["failures"] = 0
    if record.losses:
        begun["losses"] = 0
    return begun


def no_releases(record: TaskRecord) -> Fields:
    """What ends a row of releases; most records have none, and write nothing."""
    if not (record.releases or record.unseen):
        return {}
    counts = {"releases": record.releases, "unseen": record.unseen}
    return {name: 0 for name, count in counts.items() if count}


def _no_due(record: TaskRecord) -> Fields:
    """What ends a delay; most records have none, and write nothing."""
    return {"due_ms": 0} if record.due_ms else {}


def settlement(record: TaskRecord, token: str, *, reported: bool, tally: str) -> dict[str, Any]:
    """What every end of an attempt has: guard, entry to delete, count, no holder any more."""
    return {
        "lease": token,
        "settles": record.step if reported else "",
        "ack": (record.queue, record.entry),
        "tally": (record.worker, tally) if tally else None,
        "holder": _NO_HOLDER,
    }


def event_of(
    record: TaskRecord,
    at: Circumstances,
    kind: EventType,
    state: str,
    *,
    actor: str = "",
    detail: str = "",
    message: str = "",
) -> Event:
    """What the history says of the fact: the record's next version, at its present step."""
    return Event(
        sequence=record.version + 1,
        at_ms=at.now_ms,
        type=kind,
        state=state,
        step=record.step,
        attempt=record.attempt,
        actor=actor,
        detail=detail,
        message=message[:MESSAGE_MAX],
    )


def failure_of(
    record: TaskRecord,
    at: Circumstances,
    code: str,
    message: str,
    *,
    retryable: bool,
    progress: float = 0.0,
    note: str = "",
) -> dict[str, bytes]:
    """The data field with an entry of the error history."""
    entry = AttemptFailure(
        attempt=record.attempt,
        worker=record.worker,
        step=record.step,
        code=code,
        message=message,
        started_ms=record.leased_ms,
        ended_ms=at.now_ms,
        retryable=retryable,
        progress=progress,
        note=note,
    )
    return {f"error.{record.errors % ERRORS_MAX}": msgspec.msgpack.encode(entry)}


def policy_of(record: TaskRecord, step: Step) -> RetryPolicy:
    """The step's policy with what the task itself overrides."""
    policy = step.retry
    if record.max_retries >= 0:
        policy = msgspec.structs.replace(policy, retries=record.max_retries)
    if record.initial_delay_ms >= 0:
        initial_ms = record.initial_delay_ms
        policy = msgspec.structs.replace(
            policy, initial_ms=initial_ms, max_ms=max(initial_ms, policy.max_ms)
        )
    return policy
