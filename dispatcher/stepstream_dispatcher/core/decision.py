"""What goes into a decision besides record and fact, and what comes out: a change or a refusal."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import msgspec

from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.core.record import Transition

__all__ = ["AttemptFailure", "Circumstances", "Decision", "Refusal"]


class Refusal(Enum):
    """Why a fact changes nothing."""

    OBSOLETE = "obsolete"  # it is true no more, or done already
    STALE_LEASE = "stale lease"  # the speaker does not hold the attempt
    FINISHED = "finished"  # the task has ended
    NOT_WAITING = "not waiting"  # no review is open, or not at the version seen
    NO_REVISION_LEFT = "no revision left"
    UNKNOWN_OUTCOME = "unknown outcome"
    NOT_FAILED = "not failed"  # only a dead letter can be redriven or edited
    UNKNOWN_PIPELINE = "unknown pipeline"  # defined nowhere, or without the record's step
    BROKEN = "broken"  # the store cannot carry it out, perhaps did half of it; left to recovery


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
    progress: float = 0.0  # as the worker that was lost last said, 0 to 1
    note: str = ""  # words beside the progress


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision may know besides the record and the fact."""

    task_id: str
    pipeline: Pipeline  # at the version that the task began with
    now_ms: int  # the store's clock
    rand: float  # in [0, 1), for jitter
    op_id: str  # 8 characters; the same when the fact is decided again
    retain_s: int  # how long an ended task is kept


Decision: TypeAlias = Transition | Refusal
