"""Why a task is not running: the first row of a table that applies.

Theory of operation. A *scene* is all that the answer depends on: the record, the workers that are
connected anywhere, the paused queues and the time. `RULES` goes from what the task itself says to
what its queue and then its workers say; the first row whose predicate holds gives the reason, the
words for a person (what is missing, and what to do), and until when where that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from stepstream_dispatcher.core.lifecycle import runs_alone
from stepstream_dispatcher.core.record import Stage, TaskRecord

__all__ = ["RULES", "Explanation", "Rule", "Scene", "Seat", "explain"]

NAMES_MAX: Final = 5  # workers that a message names


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is connected to some dispatcher."""

    name: str
    queues: frozenset[str]
    step_types: frozenset[str]
    slots: int  # most attempts that it takes at once; 0: it pauses itself
    held: int
    draining: bool = False

    @property
    def free(self) -> int:
        """Attempts that it can run now."""
        return 0 if self.draining else self.slots - self.taken

    @property
    def taken(self) -> int:
        """Slots that have an attempt; it may hold more, which wait for one."""
        return min(self.held, self.slots)


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What an explanation depends on."""

    task_id: str
    record: TaskRecord
    seats: Sequence[Seat]
    step_types: frozenset[str]  # that a worker must serve to be fed from the record's queue
    paused: Mapping[str, int]  # queues, and since when, Unix ms
    now_ms: int

    @property
    def present(self) -> list[Seat]:
        """Workers that serve the queue, able or not."""
        return [seat for seat in self.seats if self.record.queue in seat.queues]

    @property
    def able(self) -> list[Seat]:
        """Workers that are fed from the queue."""
        return [
            seat
            for seat in self.present
            if self.step_types | {self.record.step} <= seat.step_types and not seat.draining
        ]

    @property
    def has_room(self) -> bool:
        """Whether a worker takes the step now."""
        if runs_alone(self.record):
            return any(seat.free and not seat.held for seat in self.able)
        return any(seat.free for seat in self.able)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task is not running."""

    reason: str  # a word of stepstream.v1.ExplainReason without its prefix
    message: str
    until_ms: int = 0  # when it goes on, Unix ms; 0: unknown


class Rule(NamedTuple):
    """One row: the reason and its words, where the predicate holds."""

    holds: Callable[[Scene], bool]
    reason: str
    words: Callable[[Scene], str]


def explain(scene: Scene) -> Explanation:
    """Give the first reason that applies."""
    rule = next(rule for rule in RULES if rule.holds(scene))
    until_ms = scene.record.due_ms if rule.reason == "WAITING_UNTIL" else 0
    return Explanation(reason=rule.reason, message=rule.words(scene), until_ms=until_ms)


# --- words ---------------------------------------------------------------------------------------


def _ended(scene: Scene) -> str:
    words = f"it has ended: {scene.record.state}"
    if scene.record.state != "failed":
        return words
    return f"{words}; start it anew with `stepstream redrive {scene.task_id}`"


def _ran_out(scene: Scene) -> bool:
    record = scene.record
    return record.state == "failed" and 0 < record.deadline_ms <= record.updated_ms


def _too_late(scene: Scene) -> str:
    at = _clock(scene.record.deadline_ms)
    return (
        f"its deadline passed at {at}; start it anew, without a deadline, with "
        f"`stepstream redrive {scene.task_id}`"
    )


def _runs(scene: Scene) -> str:
    record = scene.record
    since = _clock(record.leased_ms)
    words = f"worker {record.worker} runs {record.step}, attempt {record.attempt}, since {since}"
    return f"{words}; a cancel is asked for" if record.cancel else words


def _awaits_review(scene: Scene) -> str:
    since = _clock(scene.record.updated_ms)
    return (
        f"it waits for a person since {since}; decide it with `stepstream review {scene.task_id}`"
    )


def _waits(scene: Scene) -> str:
    record = scene.record
    if record.state == "scheduled":
        return f"its start was delayed until {_clock(record.due_ms)}"
    spent = f"{record.failures} failed and {record.losses} lost attempts"
    return f"{record.step} runs again at {_clock(record.due_ms)}, after {spent}"


def _paused(scene: Scene) -> str:
    queue = scene.record.queue
    since = _clock(scene.paused[queue])
    return f"queue {queue} is paused since {since}; go on with `stepstream resume {queue}`"


def _no_worker(scene: Scene) -> str:
    record, present = scene.record, scene.present
    wanted = _listed(scene.step_types | {record.step})
    if not present:
        return f"no connected worker serves queue {record.queue}; start one with step {wanted}"
    leaving = [seat.name for seat in present if seat.draining]
    if len(leaving) == len(present):
        words = f"{_listed(leaving)} serves queue {record.queue} and is leaving"
        return f"{words}; start another with step {wanted}"
    seat = next(seat for seat in present if not seat.draining)
    missing = _listed((scene.step_types | {record.step}) - seat.step_types)
    words = f"worker {seat.name} serves queue {record.queue} but not its step {missing}"
    return f"{words}; a worker is fed from a queue only if it serves every step on it: {wanted}"


def _no_slot(scene: Scene) -> str:
    able = scene.able
    held, slots = sum(seat.taken for seat in able), sum(seat.slots for seat in able)
    if runs_alone(scene.record):
        taken = scene.record.losses + scene.record.unseen
        words = f"{scene.record.step} has taken down {taken} workers and runs alone"
        return f"{words}: it waits for a worker that holds nothing"
    words = f"{held} of {slots} slots are taken at {_listed(seat.name for seat in able)}"
    return f"{words}; wait, or start more workers or slots (MAX_CONCURRENT_TASKS)"


def _queued(scene: Scene) -> str:
    return f"it is next in line in queue {scene.record.queue}"


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(set(names))
    surplus = len(ordered) - NAMES_MAX
    return ", ".join(ordered[:NAMES_MAX]) + (f" and {surplus} more" if surplus > 0 else "")


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


RULES: Final = (
    Rule(_ran_out, "DEADLINE_PASSED", _too_late),
    Rule(lambda scene: scene.record.stage is Stage.ENDED, "FINISHED", _ended),
    Rule(lambda scene: scene.record.stage is Stage.LEASED, "RUNNING", _runs),
    Rule(lambda scene: scene.record.stage is Stage.WAITING, "AWAITING_REVIEW", _awaits_review),
    Rule(lambda scene: scene.record.stage is Stage.DELAYED, "WAITING_UNTIL", _waits),
    Rule(lambda scene: scene.record.queue in scene.paused, "QUEUE_PAUSED", _paused),
    Rule(lambda scene: not scene.able, "NO_WORKER", _no_worker),
    Rule(lambda scene: not scene.has_room, "NO_FREE_SLOT", _no_slot),
    Rule(lambda _scene: True, "QUEUED", _queued),
)
"""In order: what the task says, then its queue, then its workers."""
