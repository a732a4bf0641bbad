"""What can happen to a task: the facts that `decide` turns into transitions."""

from __future__ import annotations

import msgspec

__all__ = [
    "Adopted",
    "CancelAsked",
    "Completed",
    "DeadlinePassed",
    "Due",
    "Fact",
    "Failed",
    "InputUpdated",
    "Leased",
    "Lost",
    "Progressed",
    "Redriven",
    "Released",
    "Requeued",
    "Reviewed",
]


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all facts; carries nothing."""


class Leased(Fact, frozen=True, kw_only=True):
    """An entry of a lane was matched with a worker."""

    entry: str  # id of the entry
    token: str  # the new lease
    owner: str  # dispatcher
    worker: str


class Adopted(Fact, frozen=True, kw_only=True):
    """A worker brought a running attempt to another dispatcher."""

    token: str
    owner: str  # the new dispatcher
    worker: str


class Completed(Fact, frozen=True, kw_only=True):
    """A worker reported that an attempt ended well."""

    token: str
    outcome: str
    output: bytes  # serialized Payload


class Failed(Fact, frozen=True, kw_only=True):
    """An attempt ended badly: reported by its worker, or beyond its limit."""

    token: str
    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None  # replaces the policy's delay
    reported: bool = True  # by the worker itself, so that a resend is a duplicate


class Released(Fact, frozen=True, kw_only=True):
    """An attempt is given back uncharged."""

    token: str
    reason: str
    owner: str = ""  # only if this dispatcher still answers for it; empty: whoever does
    reported: bool = False  # by the worker itself
    needless: bool = False  # by a worker that stays and could have gone on
    unseen: bool = False  # it was sent to a worker that never came back, and had not named it yet


class Lost(Fact, frozen=True, kw_only=True):
    """The worker that ran an attempt never came back."""

    token: str
    reason: str
    owner: str  # only if this dispatcher still answers for it
    waited_ms: int  # since the worker was last heard
    progress: float = 0.0  # as its worker last said, 0 to 1
    note: str = ""  # words beside the progress


class Due(Fact, frozen=True, kw_only=True):
    """The due time of a delayed task has come."""


class DeadlinePassed(Fact, frozen=True, kw_only=True):
    """The deadline of the task itself has passed."""

    token: str = ""  # of the attempt that ran until then; empty: the task's timer went off


class Requeued(Fact, frozen=True, kw_only=True):
    """An entry was taken from its lane by a dispatcher that did not lease it."""

    entry: str
    reason: str
    needless: bool = False  # nothing is wrong with the dispatcher: it may come to the same again


class CancelAsked(Fact, frozen=True, kw_only=True):
    """Somebody wants the task to end."""

    reason: str


class Reviewed(Fact, frozen=True, kw_only=True):
    """A person decided a review."""

    decision: str  # approved, edited, rejected
    reviewer: str
    output: bytes = b""  # serialized Payload of an edit
    feedback: str = ""
    seen_version: int = 0  # 0: whatever it is


class Redriven(Fact, frozen=True, kw_only=True):
    """An operator puts a dead letter back."""


class InputUpdated(Fact, frozen=True, kw_only=True):
    """An operator replaces the input of a dead letter."""

    input: bytes  # serialized Payload
    input_hash: str
    seen_version: int = 0


class Progressed(Fact, frozen=True, kw_only=True):
    """A running attempt said how far it is."""

    token: str
    progress: float
    note: str
