"""The moves: for each line of the table of lifecycle, the whole change that a fact causes.

A move is a pure function of the record, the fact and the circumstances (clock, random number,
pipeline); it refuses where the fact itself forbids the change.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.changes import (
    DEADLINE_EXCEEDED,
    MESSAGE_MAX,
    Fields,
    changed,
    delay,
    end,
    enter,
    event_of,
    expire,
    failure_of,
    follow,
    fresh_step,
    no_releases,
    policy_of,
    queue,
    settlement,
)
from stepstream_dispatcher.core.decision import Circumstances, Decision, Refusal
from stepstream_dispatcher.core.record import EventType, Stage, TaskRecord, Transition
from stepstream_dispatcher.core.retry import loss_delay_ms, release_delay_ms, retry_delay_ms

__all__ = [
    "LOSSES_MAX",
    "adopt",
    "cancel_ended",
    "cancel_later",
    "cancel_now",
    "complete",
    "due",
    "fail",
    "lease",
    "lose",
    "miss_deadline",
    "overrun_deadline",
    "progress",
    "redrive",
    "release",
    "requeue",
    "review",
    "update_input",
]

LOSSES_MAX: Final = 5  # workers that one step may take down before it is a dead letter (design 4)
NOTE_BYTES_MAX: Final = 64  # bytes of a progress note, as of every value in the record


def lease(record: TaskRecord, fact: f.Leased, at: Circumstances) -> Decision:
    """An entry of its lane is handed to a worker: one more attempt, under a new token."""
    if fact.entry != record.entry or record.is_late(at.now_ms):
        return Refusal.OBSOLETE
    state = at.pipeline.step(record.step).state
    attempt = record.attempt + 1
    fields: Fields = {
        "stage": Stage.LEASED,
        "attempt": attempt,
        "lease": fact.token,
        "owner": fact.owner,
        "worker": fact.worker,
        "leased_ms": at.now_ms,
    }
    if record.progress or record.note:
        fields.update(progress=0.0, note="")
    return changed(
        record,
        at,
        state=state,
        fields=fields,
        event=msgspec.structs.replace(
            event_of(record, at, EventType.LEASED, state, actor=fact.worker), attempt=attempt
        ),
    )


def adopt(record: TaskRecord, fact: f.Adopted, at: Circumstances) -> Decision:
    """Another dispatcher answers for the attempt; the token stays."""
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    if fact.owner == record.owner:
        return Refusal.OBSOLETE
    return changed(
        record,
        at,
        lease=fact.token,
        fields={"owner": fact.owner},
        event=event_of(record, at, EventType.ADOPTED, record.state, actor=fact.worker),
    )


def complete(record: TaskRecord, fact: f.Completed, at: Circumstances) -> Decision:
    """The attempt ended well: its output is kept, and its outcome says where the task goes."""
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    target = at.pipeline.step(record.step).on.get(fact.outcome)
    if target is None:
        return Refusal.UNKNOWN_OUTCOME
    settled = settlement(record, fact.token, reported=True, tally="processed")
    settled["data"] = {f"output.{record.step}": fact.output}
    if record.cancel:
        return end(record, at, "cancelled", settled, detail="cancelled after it completed")
    if record.is_late(at.now_ms):
        return expire(record, at, settled)
    return follow(record, at, target, settled, actor=record.worker, detail=fact.outcome)


def fail(record: TaskRecord, fact: f.Failed, at: Circumstances) -> Decision:
    """The attempt ended badly: it is charged, and the step runs again later or the task fails."""
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    settled = settlement(record, fact.token, reported=fact.reported, tally="failed")
    settled["data"] = failure_of(record, at, fact.code, fact.message, retryable=fact.retryable)
    settled["fields"] = {"failures": record.failures + 1, "errors": record.errors + 1}
    settled["fields"].update(no_releases(record))
    words = {"detail": fact.code, "message": fact.message}
    if record.cancel:
        return end(record, at, "cancelled", settled, **words)
    if record.is_late(at.now_ms):
        return expire(record, at, settled)
    policy = policy_of(record, at.pipeline.step(record.step))
    if not fact.retryable or record.failures >= policy.retries:
        return end(record, at, "failed", settled, **words)
    delay_ms = fact.retry_after_ms
    if delay_ms is None:
        delay_ms = retry_delay_ms(policy, record.failures + 1, at.rand)
    return delay(record, at, EventType.RETRYING, delay_ms, settled, **words)


def lose(record: TaskRecord, fact: f.Lost, at: Circumstances) -> Decision:
    """The worker never came back: the crash budget is charged, and the step runs again."""
    if (fact.token, fact.owner) != (record.lease, record.owner):
        return Refusal.OBSOLETE
    settled = settlement(record, fact.token, reported=False, tally="failed")
    settled["data"] = failure_of(
        record,
        at,
        "WORKER_LOST",
        fact.reason,
        retryable=True,
        progress=fact.progress,
        note=fact.note,
    )
    losses = record.losses + 1
    settled["fields"] = {"losses": losses, "errors": record.errors + 1}
    if record.releases:
        settled["fields"]["releases"] = 0
    words = {"detail": "WORKER_LOST", "message": fact.reason}
    if record.cancel:
        return end(record, at, "cancelled", settled, **words)
    if record.is_late(at.now_ms):
        return expire(record, at, settled)
    if losses >= LOSSES_MAX:
        return end(record, at, "failed", settled, **words)
    delay_ms = loss_delay_ms(losses, fact.waited_ms)
    if delay_ms == 0:
        return queue(record, at, EventType.LOST, settled, actor=record.worker, **words)
    return delay(record, at, EventType.LOST, delay_ms, settled, **words)


def release(record: TaskRecord, fact: f.Released, at: Circumstances) -> Decision:
    """The attempt is given back uncharged: the step is queued again, at once or soon."""
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    if fact.owner and fact.owner != record.owner:
        return Refusal.OBSOLETE
    settled = settlement(record, fact.token, reported=fact.reported, tally="")
    if record.cancel:
        return end(record, at, "cancelled", settled, message=fact.reason)
    if record.is_late(at.now_ms):
        return expire(record, at, settled)
    delay_ms = 0
    if fact.needless:
        settled["fields"] = {"releases": record.releases + 1}
        delay_ms = release_delay_ms(record.releases + 1)
    if fact.unseen:
        settled["fields"] = {"unseen": record.unseen + 1}
    if delay_ms:
        return delay(record, at, EventType.RELEASED, delay_ms, settled, message=fact.reason)
    return queue(record, at, EventType.RELEASED, settled, actor=record.worker, message=fact.reason)


def requeue(record: TaskRecord, fact: f.Requeued, at: Circumstances) -> Decision:
    """An entry that was taken and not leased is replaced by a new one, at once or soon."""
    if fact.entry != record.entry:
        return Refusal.OBSOLETE
    change: dict[str, Any] = {"ack": (record.queue, record.entry)}
    if fact.needless:
        releases = record.releases + 1
        change["fields"] = {"releases": releases}
        if delay_ms := release_delay_ms(releases):
            change["fields"]["entry"] = ""
            return delay(record, at, EventType.QUEUED, delay_ms, change, message=fact.reason)
    return queue(record, at, EventType.QUEUED, change, message=fact.reason)


def due(record: TaskRecord, _fact: f.Due, at: Circumstances) -> Decision:
    """The due time has come: the step begins."""
    if record.due_ms > at.now_ms:
        return Refusal.OBSOLETE
    change: dict[str, Any] = {}
    step = at.pipeline.step(record.step)
    if step.kind == "human":
        return enter(record, at, EventType.WAITING, step, change)
    state = "pending" if record.state == "scheduled" else record.state
    return queue(record, at, EventType.QUEUED, change, state=state)


def cancel_now(record: TaskRecord, fact: f.CancelAsked, at: Circumstances) -> Decision:
    """Nobody holds the task: it is cancelled at once."""
    return end(record, at, "cancelled", _withdrawn(record), message=fact.reason)


def miss_deadline(record: TaskRecord, fact: f.DeadlinePassed, at: Circumstances) -> Decision:
    """Nobody holds the task: it fails at once."""
    if fact.token or not record.is_late(at.now_ms):
        return Refusal.OBSOLETE
    return expire(record, at, _withdrawn(record))


def overrun_deadline(record: TaskRecord, fact: f.DeadlinePassed, at: Circumstances) -> Decision:
    """The dispatcher that answers for the attempt has stopped it: the task fails with it."""
    if fact.token != record.lease:
        return Refusal.OBSOLETE
    settled = settlement(record, fact.token, reported=False, tally="failed")
    if record.cancel:
        return end(record, at, "cancelled", settled, detail=DEADLINE_EXCEEDED)
    return expire(record, at, settled)


def cancel_later(record: TaskRecord, fact: f.CancelAsked, at: Circumstances) -> Decision:
    """A worker holds the task: the intent is stored until the attempt is settled."""
    if record.cancel:
        return Refusal.OBSOLETE
    event = event_of(
        record, at, EventType.CANCEL_REQUESTED, record.state, message=fact.reason[:MESSAGE_MAX]
    )
    return changed(record, at, fields={"cancel": 1}, event=event)


def cancel_ended(record: TaskRecord, _fact: f.CancelAsked, _at: Circumstances) -> Decision:
    """There is nothing to cancel: a cancelled task is one, any other is finished."""
    return Refusal.OBSOLETE if record.state == "cancelled" else Refusal.FINISHED


def review(record: TaskRecord, fact: f.Reviewed, at: Circumstances) -> Decision:
    """A person decided: the task goes where the decision leads, or back to be done again."""
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
    return follow(
        record,
        at,
        step.on[fact.decision],
        change,
        kind=EventType.REVIEWED,
        actor=fact.reviewer,
        detail=fact.decision,
        message=fact.feedback,
    )


def redrive(record: TaskRecord, _fact: f.Redriven, at: Circumstances) -> Decision:
    """A dead letter begins its last step again, with all budgets full and no deadline."""
    if record.state != "failed":
        return Refusal.NOT_FAILED
    step = at.pipeline.step(record.step)
    change: dict[str, Any] = {"live": 1, "retain_s": -1, "fields": fresh_step(record)}
    change["fields"].update(attempt=record.attempt, cancel=0, deadline_ms=0)
    return enter(record, at, EventType.REDRIVEN, step, change)


def update_input(record: TaskRecord, fact: f.InputUpdated, at: Circumstances) -> Decision:
    """A dead letter gets another input."""
    if record.state != "failed":
        return Refusal.NOT_FAILED
    if fact.seen_version and fact.seen_version != record.version:
        return Refusal.NOT_FAILED
    return changed(
        record,
        at,
        fields={"input_hash": fact.input_hash},
        data={"input": fact.input},
        event=event_of(record, at, EventType.INPUT_UPDATED, record.state),
    )


def progress(record: TaskRecord, fact: f.Progressed, at: Circumstances) -> Decision:
    """The running attempt said how far it is: nothing moves."""
    if fact.token != record.lease:
        return Refusal.STALE_LEASE
    note = fact.note.encode()[:NOTE_BYTES_MAX].decode(errors="ignore")
    event = msgspec.structs.replace(
        event_of(record, at, EventType.PROGRESS, record.state, actor=record.worker, message=note),
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


def _withdrawn(record: TaskRecord) -> dict[str, Any]:
    """What every end of a task that nobody holds has: its entry, if any, to delete."""
    return {"ack": (record.queue, record.entry)} if record.entry else {}
