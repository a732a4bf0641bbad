"""The record of one task, its events, and the change that moves it on: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any, Final

import msgspec

__all__ = [
    "TERMINAL_STATES",
    "Event",
    "EventType",
    "Stage",
    "TaskRecord",
    "Transition",
    "after",
    "assignment_id",
    "with_fields",
]

TERMINAL_STATES: Final = frozenset({"done", "failed", "cancelled"})


class Stage(StrEnum):
    """What the current step of a task waits for."""

    QUEUED = "queued"  # an entry of its lane
    LEASED = "leased"  # the worker that holds its lease
    DELAYED = "delayed"  # its due time
    WAITING = "waiting"  # a person
    ENDED = "ended"  # nothing any more


_STAGES: Final[dict[str, Stage]] = {stage.value: stage for stage in Stage}  # quicker than the class


class EventType(IntEnum):
    """What an event says; the numbers are those of stepstream.v1.EventType."""

    SUBMITTED = 1
    SCHEDULED = 2
    QUEUED = 3
    LEASED = 4
    ADOPTED = 5
    COMPLETED = 6
    RETRYING = 7
    LOST = 8
    RELEASED = 9
    WAITING = 10
    REVIEWED = 11
    CANCEL_REQUESTED = 12
    DONE = 13
    FAILED = 14
    CANCELLED = 15
    REDRIVEN = 16
    INPUT_UPDATED = 17
    PROGRESS = 18


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The truth about one task. Every stored value is at most 64 bytes of text."""

    version: int  # transitions so far; sequence of the latest event
    state: str  # where in its pipeline, or scheduled, failed, cancelled
    stage: Stage  # what its current step waits for
    pipeline: str  # "name@version" that it began with
    step: str  # current step; the last one once ended
    queue: str = ""  # lane of the current step; empty for a human step
    attempt: int = 0  # number of the latest attempt of the step; only grows within a run
    failures: int = 0  # charged failures of the step
    losses: int = 0  # workers lost with the step
    releases: int = 0  # times in a row that the step was given back without need
    unseen: int = 0  # workers that vanished with the step before they had named it
    revisions: int = 0  # times a reviewer sent it back in this run
    errors: int = 0  # entries written to the error history, all steps
    lease: str = ""  # token of the attempt that is leased; empty otherwise
    owner: str = ""  # dispatcher that answers for the lease
    worker: str = ""  # worker that holds the lease
    entry: str = ""  # id of its stream entry, pending while leased; empty when it has none
    created_ms: int = 0  # accepted, Unix ms by the store's clock
    updated_ms: int = 0  # latest transition, same clock
    leased_ms: int = 0  # latest lease, same clock
    due_ms: int = 0  # when DELAYED ends, same clock; 0 otherwise
    deadline_ms: int = 0  # when the task fails unless it has ended, same clock; 0: never
    cancel: int = 0  # 1 once a cancel is asked for
    input_hash: str = ""  # 16 hexadecimal digits over pipeline and input
    reviewer: str = ""  # who decided last
    progress: float = 0.0  # of the running attempt, 0 to 1
    note: str = ""  # words beside the progress, <= 64 bytes
    max_retries: int = -1  # the task's own retry limit; -1: the pipeline's
    initial_delay_ms: int = -1  # the task's own first retry delay; -1: the pipeline's
    timeout_ms: int = -1  # the task's own attempt limit; -1: the pipeline's

    @property
    def terminal(self) -> bool:
        """Whether nothing will change any more by itself."""
        return self.stage is Stage.ENDED

    @property
    def timer_ms(self) -> int:
        """When something is due that nobody else would bring about; 0: nothing is.

        What is leased has none: the attempt's own limit is never beyond the deadline.
        """
        match self.stage:
            case Stage.DELAYED:
                return min(self.due_ms, self.deadline_ms or self.due_ms)
            case Stage.QUEUED | Stage.WAITING:
                return self.deadline_ms
            case _:
                return 0

    def is_late(self, now_ms: int) -> bool:
        """Whether its deadline has passed."""
        return 0 < self.deadline_ms <= now_ms


class Event(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One entry of a task's history; stored as a MessagePack array in this field order.

    What is empty at the end is not stored: the defaults of those fields stay empty.
    """

    sequence: int  # the version that the record reached by it; 0 for PROGRESS
    at_ms: int  # Unix ms by the store's clock
    type: EventType
    state: str  # of the task after it; never empty
    step: str = ""
    attempt: int = 0
    actor: str = ""  # worker or reviewer
    detail: str = ""  # outcome, error code or reason
    message: str = ""  # <= 256 characters
    delay_ms: int = 0  # until the next attempt or the delayed start
    progress: float = 0.0  # PROGRESS only


def after(record: TaskRecord, transition: Transition) -> TaskRecord:
    """The record once a transition was applied; `entry` stays as it was where one is added."""
    return with_fields(record, transition.fields)


def with_fields(record: TaskRecord, fields: Mapping[str, str | int | float]) -> TaskRecord:
    """The record with some of its fields set, as a transition says them."""
    values: dict[str, Any] = dict(fields)
    if "stage" in values:
        values["stage"] = _STAGES[values["stage"]]
    return msgspec.structs.replace(record, **values)


def assignment_id(task_id: str, record: TaskRecord) -> str:
    """Name an attempt; attempts count anew after each revision, so that is part of the name."""
    revision = f"{record.revisions}." if record.revisions else ""
    return f"{task_id}/{record.step}/{revision}{record.attempt}"


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One guarded change of one task, carried out whole or not at all.

    The store checks, in this order: the record exists (unless created) -> NOT_FOUND; `settles` was
    settled with this lease, or `op_id` is among the last 8 -> DUPLICATE; `lease` is the record's ->
    STALE_LEASE; `expected_version` is the record's -> VERSION_CONFLICT with the record.
    """

    task_id: str
    op_id: str  # 8 characters, unique within the task; the same when sent again
    expected_version: int  # 0: the record must not exist
    lease: str = ""  # token that the record must hold; empty: no guard
    settles: str = ""  # step whose settlement by `lease` this is; empty: none
    touch: bool = False  # progress only: no version check, no event in the history, no op id kept
    fields: dict[str, str | int | float]  # record fields to set, `version` included (not if touch)
    data: dict[str, bytes] = {}  # fields of task:data to set
    ack: tuple[str, str] | None = None  # (queue, entry id) to acknowledge and delete
    enqueue: str | None = None  # queue to add (task id, step) to; the new id goes to `entry`
    due_ms: int | None = None  # puts the task's timer into the delayed set, or moves it there
    undelay: bool = False  # takes the task's timer out of the delayed set
    move: tuple[str, str] | None = None  # (state left or "", state entered), for counts and sets
    live: int = 0  # change of the count of live tasks: +1, 0, -1
    retain_s: int = 0  # keys expire after this; 0: no change; -1: expiry is taken away
    durable: bool = False  # of a creation: must not go to a journal in place of Redis
    tally: tuple[str, str] | None = None  # (worker, "processed" | "failed") to count up by one
    event: Event  # appended to the history (not if touch) and published
