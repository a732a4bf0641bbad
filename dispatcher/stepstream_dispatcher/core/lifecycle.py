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
from typing import Any, Final, TypeAlias

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core import moves
from stepstream_dispatcher.core.changes import ERRORS_MAX
from stepstream_dispatcher.core.decision import AttemptFailure, Circumstances, Decision, Refusal
from stepstream_dispatcher.core.moves import LOSSES_MAX
from stepstream_dispatcher.core.record import Stage, TaskRecord

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

LOSSES_BEFORE_ALONE: Final = 2  # from then on a step runs alone, so that the innocent are spared

Move: TypeAlias = Callable[[TaskRecord, Any, Circumstances], Decision]


def decide(record: TaskRecord, fact: f.Fact, at: Circumstances) -> Decision:
    """Turn a fact into the one transition that it causes, or say why it causes none."""
    move = MOVES.get((record.stage, type(fact)))
    if move is None:
        return REFUSALS.get((record.stage, type(fact)), REFUSALS_BY_FACT[type(fact)])
    return move(record, fact, at)


def runs_alone(record: TaskRecord) -> bool:
    """Whether the next attempt must have an idle worker for itself."""
    return record.losses + record.unseen >= LOSSES_BEFORE_ALONE


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


MOVES: Final[dict[tuple[Stage, type[f.Fact]], Move]] = {
    (Stage.QUEUED, f.Leased): moves.lease,
    (Stage.QUEUED, f.Requeued): moves.requeue,
    (Stage.QUEUED, f.CancelAsked): moves.cancel_now,
    (Stage.QUEUED, f.DeadlinePassed): moves.miss_deadline,
    (Stage.LEASED, f.Adopted): moves.adopt,
    (Stage.LEASED, f.Completed): moves.complete,
    (Stage.LEASED, f.Failed): moves.fail,
    (Stage.LEASED, f.Lost): moves.lose,
    (Stage.LEASED, f.Released): moves.release,
    (Stage.LEASED, f.CancelAsked): moves.cancel_later,
    (Stage.LEASED, f.DeadlinePassed): moves.overrun_deadline,
    (Stage.LEASED, f.Progressed): moves.progress,
    (Stage.DELAYED, f.Due): moves.due,
    (Stage.DELAYED, f.CancelAsked): moves.cancel_now,
    (Stage.DELAYED, f.DeadlinePassed): moves.miss_deadline,
    (Stage.WAITING, f.Reviewed): moves.review,
    (Stage.WAITING, f.CancelAsked): moves.cancel_now,
    (Stage.WAITING, f.DeadlinePassed): moves.miss_deadline,
    (Stage.ENDED, f.CancelAsked): moves.cancel_ended,
    (Stage.ENDED, f.Redriven): moves.redrive,
    (Stage.ENDED, f.InputUpdated): moves.update_input,
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
    f.DeadlinePassed: Refusal.OBSOLETE,
    f.Reviewed: Refusal.NOT_WAITING,
    f.Redriven: Refusal.NOT_FAILED,
    f.InputUpdated: Refusal.NOT_FAILED,
}
"""The word for a fact that no move takes up."""
