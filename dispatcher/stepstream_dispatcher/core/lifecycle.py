"""The life of a task as a table: (stage, fact) -> the transition that follows.

Theory of operation. A task is at one step of its pipeline, and that step is in one *stage*: queued,
leased, delayed, waiting for a person, or ended. `MOVES` has one line for every fact that a stage
admits; what is not there is refused with the word of `REFUSALS`. A move is a pure function of the
record, the fact and the circumstances (clock, random number, pipeline); it returns the whole
change, or a refusal where the fact itself forbids it. The store guards the change by the record's
version and, for a holder's words, by its lease; after a conflict the same fact is decided again
from the newer record.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.pipeline import Pipeline, RetryPolicy, Step
from stepstream_dispatcher.core.record import Event, EventType, Stage, TaskRecord, Transition
from stepstream_dispatcher.core.retry import loss_delay_ms, retry_delay_ms

__all__ = [
    "ERRORS_MAX",
    "LOSSES_MAX",
    "MOVES",
    "REFUSALS",
    "AttemptFailure",
    "Circumstances",
    "Refusal",
    "decide",
    "phase_of",
    "runs_alone",
]

LOSSES_MAX: Final = 5  # workers that one step may take down before it is a dead letter (design 4)
LOSSES_BEFORE_ALONE: Final = 2  # from then on a step runs alone, so that the innocent are spared
ERRORS_MAX: Final = 50  # entries of the error history; older ones are overwritten
MESSAGE_MAX: Final = 256  # characters of an event's message
NOTE_BYTES_MAX: Final = 64  # bytes of a progress note, as of every value in the record

FAILED_TARGET: Final = "failed"
DONE_TARGET: Final = "done"


class Refusal(Enum):
    """Why a fact changes nothing."""

    OBSOLETE = "obsolete"  # it is true no more, or done already
    STALE_LEASE = "stale lease"  # the speaker does not hold the attempt
    FINISHED = "finished"  # the task has ended
    NOT_WAITING = "not waiting"  # no review is open, or not at the version seen
    NO_REVISION_LEFT = "no revision left"
    UNKNOWN_OUTCOME = "unknown outcome"
    NOT_FAILED = "not failed"  # only a dead letter can be redriven or edited


class AttemptFailure(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One entry of the error history; stored as a MessagePack array in this field order."""

    attempt: int
    worker: str
    step: str
    code: str
    message: str
    started_ms: int
    ended_ms: int
    retryable: bool


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision may know besides the record and the fact."""

    task_id: str
    pipeline: Pipeline  # at the version that the task began with
    now_ms: int  # the store's clock
    rand: float  # in [0, 1), for jitter
    op_id: str  # 8 characters; the same when the fact is decided again
    retain_s: int  # how long an ended task is kept


Decision: TypeAlias = Transition | Refusal
F = TypeVar("F", bound=f.Fact)
Fields: TypeAlias = dict[str, str | int | float]
Move: TypeAlias = Callable[[TaskRecord, Any, Circumstances], Decision]

_NO_HOLDER: Final[Fields] = {"lease": "", "owner": "", "worker": "", "entry": ""}
_FRESH_STEP: Final[Fields] = {"attempt": 0, "failures": 0, "losses": 0, "progress": 0.0, "note": ""}


def decide(record: TaskRecord, fact: f.Fact, at: Circumstances) -> Decision:
    """Turn a fact into the one transition that it causes, or say why it causes none."""
    move = MOVES.get((record.stage, type(fact)))
    if move is None:
        return REFUSALS.get((record.stage, type(fact)), REFUSALS_BY_FACT[type(fact)])
    return move(record, fact, at)


def runs_alone(record: TaskRecord) -> bool:
    """Whether the next attempt must have an idle worker for itself."""
    return record.losses >= LOSSES_BEFORE_ALONE


def phase_of(record: TaskRecord) -> str:
    """Derive the phase, a word of stepstream.v1.Phase without its prefix."""
    if record.stage is Stage.ENDED:
        return {"done": "SUCCEEDED", "failed": "FAILED"}.get(record.state, "CANCELLED")
    if record.stage is Stage.DELAYED:
        return "SCHEDULED" if record.state == "scheduled" else "RETRYING"
    return _PHASES[record.stage]


_PHASES: Final = {
    Stage.QUEUED: "QUEUED",
    Stage.LEASED: "RUNNING",
    Stage.WAITING: "WAITING_FOR_REVIEW",
}


# --- moves ---------------------------------------------------------------------------------------


def _lease(record: TaskRecord, fact: f.Leased, at: Circumstances) -> Decision:
    if fact.entry != record.entry:
        return Refusal.OBSOLETE
    state = at.pipeline.step(record.step).state
    attempt = record.attempt + 1
    fields: Fields = {
        "stage": Stage.LEASED.value,
        "attempt": attempt,
        "lease": fact.token,
        "owner": fact.owner,
        "worker": fact.worker,
        "leased_ms": at.now_ms,
    }
    if record.progress or record.note:
        fields.update(progress=0.0, note="")
    return _change(
        record,
        at,
        state=state,
        fields=fields,
        event=msgspec.structs.replace(
            _event(record, at, EventType.LEASED, state, actor=fact.worker), attempt=attempt
        ),
    )


def _adopt(record: TaskRecord, fact: f.Adopted, at: Circumstances) -> Decision:
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    if fact.owner == record.owner:
        return Refusal.OBSOLETE
    return _change(
        record,
        at,
        lease=fact.token,
        fields={"owner": fact.owner},
        event=_event(record, at, EventType.ADOPTED, record.state, actor=fact.worker),
    )


def _complete(record: TaskRecord, fact: f.Completed, at: Circumstances) -> Decision:
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    target = at.pipeline.step(record.step).on.get(fact.outcome)
    if target is None:
        return Refusal.UNKNOWN_OUTCOME
    settled = _settled(record, fact.token, reported=True, tally="processed")
    settled["data"] = {f"output.{record.step}": fact.output}
    if record.cancel:
        return _end(record, at, "cancelled", settled, detail="cancelled after it completed")
    return _follow(record, at, target, settled, actor=record.worker, detail=fact.outcome)


def _fail(record: TaskRecord, fact: f.Failed, at: Circumstances) -> Decision:
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    settled = _settled(record, fact.token, reported=fact.reported, tally="failed")
    settled["data"] = _failure(record, at, fact.code, fact.message, retryable=fact.retryable)
    settled["fields"] = {"failures": record.failures + 1, "errors": record.errors + 1}
    words = {"detail": fact.code, "message": fact.message}
    if record.cancel:
        return _end(record, at, "cancelled", settled, **words)
    policy = _policy(record, at.pipeline.step(record.step))
    if not fact.retryable or record.failures >= policy.retries:
        return _end(record, at, "failed", settled, **words)
    delay_ms = fact.retry_after_ms
    if delay_ms is None:
        delay_ms = retry_delay_ms(policy, record.failures + 1, at.rand)
    return _delay(record, at, EventType.RETRYING, delay_ms, settled, **words)


def _lose(record: TaskRecord, fact: f.Lost, at: Circumstances) -> Decision:
    if (fact.token, fact.owner) != (record.lease, record.owner):
        return Refusal.OBSOLETE
    settled = _settled(record, fact.token, reported=False, tally="failed")
    settled["data"] = _failure(record, at, "WORKER_LOST", fact.reason, retryable=True)
    losses = record.losses + 1
    settled["fields"] = {"losses": losses, "errors": record.errors + 1}
    words = {"detail": "WORKER_LOST", "message": fact.reason}
    if record.cancel:
        return _end(record, at, "cancelled", settled, **words)
    if losses >= LOSSES_MAX:
        return _end(record, at, "failed", settled, **words)
    delay_ms = loss_delay_ms(losses, fact.waited_ms)
    if delay_ms == 0:
        return _queue(record, at, EventType.LOST, settled, actor=record.worker, **words)
    return _delay(record, at, EventType.LOST, delay_ms, settled, **words)


def _release(record: TaskRecord, fact: f.Released, at: Circumstances) -> Decision:
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    if fact.owner and fact.owner != record.owner:
        return Refusal.OBSOLETE
    settled = _settled(record, fact.token, reported=fact.reported, tally="")
    if record.cancel:
        return _end(record, at, "cancelled", settled, message=fact.reason)
    return _queue(record, at, EventType.RELEASED, settled, actor=record.worker, message=fact.reason)


def _requeue(record: TaskRecord, fact: f.Requeued, at: Circumstances) -> Decision:
    if fact.entry != record.entry:
        return Refusal.OBSOLETE
    change = {"ack": (record.queue, record.entry)}
    return _queue(record, at, EventType.QUEUED, change, message=fact.reason)


def _due(record: TaskRecord, _fact: f.Due, at: Circumstances) -> Decision:
    if record.due_ms > at.now_ms:
        return Refusal.OBSOLETE
    change: dict[str, Any] = {"undelay": True}
    step = at.pipeline.step(record.step)
    if step.kind == "human":
        return _enter(record, at, EventType.WAITING, step, change)
    state = "pending" if record.state == "scheduled" else record.state
    return _queue(record, at, EventType.QUEUED, change, state=state)


def _cancel_now(record: TaskRecord, fact: f.CancelAsked, at: Circumstances) -> Decision:
    change: dict[str, Any] = {}
    if record.entry:
        change["ack"] = (record.queue, record.entry)
    if record.stage is Stage.DELAYED:
        change["undelay"] = True
    return _end(record, at, "cancelled", change, message=fact.reason)


def _cancel_later(record: TaskRecord, fact: f.CancelAsked, at: Circumstances) -> Decision:
    if record.cancel:
        return Refusal.OBSOLETE
    event = _event(
        record, at, EventType.CANCEL_REQUESTED, record.state, message=fact.reason[:MESSAGE_MAX]
    )
    return _change(record, at, fields={"cancel": 1}, event=event)


def _cancel_ended(record: TaskRecord, _fact: f.CancelAsked, _at: Circumstances) -> Decision:
    return Refusal.OBSOLETE if record.state == "cancelled" else Refusal.FINISHED


def _review(record: TaskRecord, fact: f.Reviewed, at: Circumstances) -> Decision:
    if fact.seen_version and fact.seen_version != record.version:
        return Refusal.NOT_WAITING
    step = at.pipeline.step(record.step)
    change: dict[str, Any] = {"fields": {"reviewer": fact.reviewer}, "data": {}}
    if fact.output:
        change["data"][f"output.{record.step}"] = fact.output
    if fact.decision == "rejected":
        if record.revisions >= step.max_revisions:
            return Refusal.NO_REVISION_LEFT
        change["fields"]["revisions"] = record.revisions + 1
        change["data"]["feedback"] = fact.feedback.encode()
    return _follow(
        record,
        at,
        step.on[fact.decision],
        change,
        kind=EventType.REVIEWED,
        actor=fact.reviewer,
        detail=fact.decision,
        message=fact.feedback,
    )


def _redrive(record: TaskRecord, _fact: f.Redriven, at: Circumstances) -> Decision:
    if record.state != "failed":
        return Refusal.NOT_FAILED
    step = at.pipeline.step(record.step)
    change: dict[str, Any] = {"live": 1, "retain_s": -1, "fields": {**_FRESH_STEP, "cancel": 0}}
    change["fields"]["attempt"] = record.attempt
    return _enter(record, at, EventType.REDRIVEN, step, change)


def _update_input(record: TaskRecord, fact: f.InputUpdated, at: Circumstances) -> Decision:
    if record.state != "failed":
        return Refusal.NOT_FAILED
    if fact.seen_version and fact.seen_version != record.version:
        return Refusal.NOT_FAILED
    return _change(
        record,
        at,
        fields={"input_hash": fact.input_hash},
        data={"input": fact.input},
        event=_event(record, at, EventType.INPUT_UPDATED, record.state),
    )


def _progress(record: TaskRecord, fact: f.Progressed, at: Circumstances) -> Decision:
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    note = fact.note.encode()[:NOTE_BYTES_MAX].decode(errors="ignore")
    event = msgspec.structs.replace(
        _event(record, at, EventType.PROGRESS, record.state, actor=record.worker, message=note),
        sequence=0,
        progress=fact.progress,
    )
    return Transition(
        task_id=at.task_id,
        op_id=at.op_id,
        expected_version=record.version,
        lease=fact.token,
        touch=True,
        fields={"progress": fact.progress, "note": note},
        event=event,
    )


# --- parts of moves ------------------------------------------------------------------------------


def _follow(
    record: TaskRecord,
    at: Circumstances,
    target: str,
    change: dict[str, Any],
    *,
    kind: EventType = EventType.COMPLETED,
    **words: str,
) -> Transition:
    """Go where an outcome leads: to another step, to `done` or to `failed`."""
    if target == DONE_TARGET:
        return _end(record, at, "done", change, **words)
    if target == FAILED_TARGET:
        return _end(record, at, "failed", change, **words)
    step = at.pipeline.step(target)
    change["fields"] = {**_FRESH_STEP, **change.pop("fields", {}), "step": target}
    if step.kind == "human":
        kind = EventType.WAITING
    return _enter(record, at, kind, step, change, **words)


def _enter(
    record: TaskRecord,
    at: Circumstances,
    kind: EventType,
    step: Step,
    change: dict[str, Any],
    **words: str,
) -> Transition:
    """Begin a step: on its lane, or before a person."""
    if step.kind == "worker":
        return _queue(record, at, kind, change, state=step.state, queue=step.queue, **words)
    fields: Fields = {**change.pop("fields", {}), "stage": Stage.WAITING.value, "due_ms": 0}
    fields.update(queue="", entry="")
    event = _event(record, at, kind, step.state, **words)
    return _change(record, at, state=step.state, fields=fields, event=event, **change)


def _queue(
    record: TaskRecord,
    at: Circumstances,
    kind: EventType,
    change: dict[str, Any],
    *,
    state: str = "",
    queue: str = "",
    **words: str,
) -> Transition:
    state = state or record.state
    queue = queue or record.queue
    fields: Fields = {**change.pop("fields", {}), "stage": Stage.QUEUED.value, "queue": queue}
    fields["due_ms"] = 0
    event = _event(record, at, kind, state, **words)
    return _change(record, at, state=state, fields=fields, enqueue=queue, event=event, **change)


def _delay(
    record: TaskRecord,
    at: Circumstances,
    kind: EventType,
    delay_ms: int,
    change: dict[str, Any],
    **words: str,
) -> Transition:
    due_ms = at.now_ms + delay_ms
    fields: Fields = {**change.pop("fields", {}), "stage": Stage.DELAYED.value, "due_ms": due_ms}
    event = msgspec.structs.replace(
        _event(record, at, kind, record.state, actor=record.worker, **words), delay_ms=delay_ms
    )
    return _change(record, at, fields=fields, due_ms=due_ms, event=event, **change)


_ENDINGS: Final = {
    "done": EventType.DONE,
    "failed": EventType.FAILED,
    "cancelled": EventType.CANCELLED,
}


def _end(
    record: TaskRecord, at: Circumstances, state: str, change: dict[str, Any], **words: str
) -> Transition:
    fields: Fields = {**change.pop("fields", {}), "stage": Stage.ENDED.value, "due_ms": 0}
    fields["entry"] = ""
    words.setdefault("actor", record.worker)
    event = _event(record, at, _ENDINGS[state], state, **words)
    return _change(
        record, at, state=state, fields=fields, live=-1, retain_s=at.retain_s, event=event, **change
    )


def _change(
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
    return Transition(
        task_id=at.task_id,
        op_id=at.op_id,
        expected_version=record.version,
        fields=fields,
        move=(record.state, state) if moved else None,
        event=event,
        **rest,
    )


def _settled(record: TaskRecord, token: str, *, reported: bool, tally: str) -> dict[str, Any]:
    """What every end of an attempt has: guard, entry to delete, count, no holder any more."""
    return {
        "lease": token,
        "settles": record.step if reported else "",
        "ack": (record.queue, record.entry),
        "tally": (record.worker, tally) if tally else None,
        "holder": _NO_HOLDER,
    }


def _event(
    record: TaskRecord,
    at: Circumstances,
    kind: EventType,
    state: str,
    *,
    actor: str = "",
    detail: str = "",
    message: str = "",
) -> Event:
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


def _failure(
    record: TaskRecord, at: Circumstances, code: str, message: str, *, retryable: bool
) -> dict[str, bytes]:
    entry = AttemptFailure(
        attempt=record.attempt,
        worker=record.worker,
        step=record.step,
        code=code,
        message=message,
        started_ms=record.leased_ms,
        ended_ms=at.now_ms,
        retryable=retryable,
    )
    return {f"error.{record.errors % ERRORS_MAX}": msgspec.msgpack.encode(entry)}


def _policy(record: TaskRecord, step: Step) -> RetryPolicy:
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


MOVES: Final[dict[tuple[Stage, type[f.Fact]], Move]] = {
    (Stage.QUEUED, f.Leased): _lease,
    (Stage.QUEUED, f.Requeued): _requeue,
    (Stage.QUEUED, f.CancelAsked): _cancel_now,
    (Stage.LEASED, f.Adopted): _adopt,
    (Stage.LEASED, f.Completed): _complete,
    (Stage.LEASED, f.Failed): _fail,
    (Stage.LEASED, f.Lost): _lose,
    (Stage.LEASED, f.Released): _release,
    (Stage.LEASED, f.CancelAsked): _cancel_later,
    (Stage.LEASED, f.Progressed): _progress,
    (Stage.DELAYED, f.Due): _due,
    (Stage.DELAYED, f.CancelAsked): _cancel_now,
    (Stage.WAITING, f.Reviewed): _review,
    (Stage.WAITING, f.CancelAsked): _cancel_now,
    (Stage.ENDED, f.CancelAsked): _cancel_ended,
    (Stage.ENDED, f.Redriven): _redrive,
    (Stage.ENDED, f.InputUpdated): _update_input,
}
"""Every legal move, one line each."""

REFUSALS: Final[dict[tuple[Stage, type[f.Fact]], Refusal]] = {
    (Stage.ENDED, f.Reviewed): Refusal.NOT_WAITING,
}
"""Refusals that depend on the stage too."""

REFUSALS_BY_FACT: Final[dict[type[f.Fact], Refusal]] = {
    f.Leased: Refusal.OBSOLETE,
    f.Requeued: Refusal.OBSOLETE,
    f.Adopted: Refusal.STALE_LEASE,
    f.Completed: Refusal.STALE_LEASE,
    f.Failed: Refusal.STALE_LEASE,
    f.Released: Refusal.STALE_LEASE,
    f.Lost: Refusal.OBSOLETE,
    f.Progressed: Refusal.STALE_LEASE,
    f.Due: Refusal.OBSOLETE,
    f.Reviewed: Refusal.NOT_WAITING,
    f.Redriven: Refusal.NOT_FAILED,
    f.InputUpdated: Refusal.NOT_FAILED,
}
"""The word for a fact that no move takes up."""
