"""The worker stream's protocol as one table, for both of its ends, without any I/O.

A frame has optional parts. Either end feeds the names of the parts of each frame, in field order,
to its `Session`: `send` before it writes a frame, `receive` after it has read one. Half-closing the
stream (the worker) and ending it (the dispatcher) are the pseudo-part `half_close`. The table below
is the whole contract: docs/protocol.md is made from it (tools/gen_protocol.py).

Frames of the two directions cross on the wire, so an end may receive what its peer sent before it
knew of a change. Such a row is marked `crossing`: it may be received, and never sent.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from stepstream.errors import RemoteProtocolError

__all__ = [
    "AHEAD_WAIT_S",
    "BATCH_BYTES_MAX",
    "HALF_CLOSE",
    "HEARTBEAT_INTERVAL_S",
    "HEARTBEAT_SPACING_S",
    "IDLE_BEAT_FACTOR",
    "IDLE_BEAT_PART",
    "MAX_MESSAGE_BYTES",
    "PARTS",
    "PROTOCOL_VERSION",
    "RECONNECT_GRACE_S",
    "SILENCE_LIMIT_S",
    "STREAM_AGE_JITTER",
    "STREAM_AGE_S",
    "TABLE",
    "LocalProtocolError",
    "Role",
    "Row",
    "Session",
    "State",
    "idle_beat_interval_s",
]

PROTOCOL_VERSION = 1
"""What `Register.protocol_version` says; raised when an old peer could no longer take part."""

HEARTBEAT_INTERVAL_S = 5.0
"""Longest time between two heartbeats of a worker that holds attempts. A third of the silence
limit, so that two may be lost."""

IDLE_BEAT_FACTOR = 1.3
"""How much longer a worker that holds no attempt waits between two heartbeats: it has no lease to
renew, and says only that it lives."""

IDLE_BEAT_PART = 0.43
"""The part of the silence limit that an idle worker does not go beyond: two heartbeats within the
limit, and the answer well before the worker looks for another dispatcher."""

HEARTBEAT_SPACING_S = 0.25
"""Shortest time between two heartbeats that carry progress: four a second look smooth."""

AHEAD_WAIT_S = 0.75
"""How long an attempt waits at its worker for a slot at most, before it is given back; one that is
handed out to wait has so much longer. Rarely reached, since only short steps are taken ahead."""

SILENCE_LIMIT_S = 15.0
"""An end that hears nothing for this long gives the other up; also the length of a lease."""

RECONNECT_GRACE_S = 1.5
"""How long a worker may stay away after a broken stream before its attempts count as lost: takeover
is promised within 2 s, and a worker dials at once and then every 50 to 500 ms."""

STREAM_AGE_S = 1800.0
"""When a worker moves to a new stream, so that new dispatchers get their share of long streams."""

STREAM_AGE_JITTER = 0.2
"""The part of STREAM_AGE_S by which it is spread, so that workers do not move together."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Longest frame that either end accepts: gRPC's own default, set explicitly on both ends."""

BATCH_BYTES_MAX = 1024 * 1024
"""Bytes of reports or assignments after which a frame is closed. A single item may exceed it (a
payload has at most 1 MiB), which still leaves a frame far below MAX_MESSAGE_BYTES."""

HALF_CLOSE = "half_close"
"""Pseudo-part: the worker half-closes its direction, or the dispatcher ends the stream."""


def idle_beat_interval_s(interval_s: float, silence_limit_s: float) -> float:
    """Seconds between two heartbeats of a worker that holds no attempt.

    Args:
        interval_s: Of one that does.
        silence_limit_s: After which it would be given up.
    """
    longest_s = min(interval_s * IDLE_BEAT_FACTOR, silence_limit_s * IDLE_BEAT_PART)
    return max(interval_s, longest_s)


class LocalProtocolError(AssertionError):
    """Our own end was about to break the protocol: a programmer error, never the peer's fault."""


class Role(enum.Enum):
    """The two ends of the stream."""

    WORKER = "worker"
    DISPATCHER = "dispatcher"


class State(enum.Enum):
    """Where a session is, as one end sees it."""

    OPENING = "opening"  # the worker has said nothing yet
    REGISTERING = "registering"  # it has registered, and waits for the answer
    ACTIVE = "active"  # attempts and results flow
    DRAINING = "draining"  # one end leaves: no new attempts, results go on
    CLOSED = "closed"  # a direction is closed; what was under way may still arrive
    FAILED = "failed"  # the peer broke the protocol; the stream ends with PROTOCOL_ERROR


class Row(NamedTuple):
    """One legal move."""

    sender: Role
    state: State  # of the end that sends or receives it
    part: str  # field of WorkRequest or WorkResponse, or HALF_CLOSE
    next: State
    sentence: str
    crossing: bool = False  # may be received because it was under way; must not be sent


_W, _D = Role.WORKER, Role.DISPATCHER
_OPENING, _REGISTERING, _ACTIVE = State.OPENING, State.REGISTERING, State.ACTIVE
_DRAINING, _CLOSED, _FAILED = State.DRAINING, State.CLOSED, State.FAILED

TABLE: tuple[Row, ...] = (
    Row(_W, _OPENING, "register", _REGISTERING, "The first part of the first frame: who it is."),
    Row(_W, _OPENING, HALF_CLOSE, _CLOSED, "A worker may give up before it has registered."),
    Row(_D, _OPENING, HALF_CLOSE, _CLOSED, "A dispatcher may refuse the stream at once."),
    Row(_W, _REGISTERING, "pull", _REGISTERING, "Capacity may change before the answer."),
    Row(_W, _REGISTERING, HALF_CLOSE, _CLOSED, "A worker may give up before the answer."),
    Row(_D, _REGISTERING, "registered", _ACTIVE, "The dispatcher's first part, once, opens it."),
    Row(_D, _REGISTERING, HALF_CLOSE, _CLOSED, "A dispatcher may refuse the worker."),
    Row(_W, _ACTIVE, "pull", _ACTIVE, "Capacity is absolute and sent when it changes."),
    Row(_W, _ACTIVE, "report", _ACTIVE, "Results are sent as attempts end."),
    Row(_W, _ACTIVE, "heartbeat", _ACTIVE, "A heartbeat names every attempt without a receipt."),
    Row(_W, _ACTIVE, "drain", _DRAINING, "The worker leaves: no batch may follow."),
    Row(_W, _ACTIVE, HALF_CLOSE, _CLOSED, "The worker has moved to another stream."),
    Row(_D, _ACTIVE, "batch", _ACTIVE, "Attempts are sent as credit allows."),
    Row(_D, _ACTIVE, "receipts", _ACTIVE, "Each result gets one receipt."),
    Row(_D, _ACTIVE, "heartbeat_ack", _ACTIVE, "Each heartbeat is answered."),
    Row(_D, _ACTIVE, "cancels", _ACTIVE, "A cancel is repeated until its attempt is settled."),
    Row(_D, _ACTIVE, "drain", _DRAINING, "The dispatcher leaves: the worker moves elsewhere."),
    Row(_D, _ACTIVE, HALF_CLOSE, _CLOSED, "The dispatcher ends the stream; its status says why."),
    Row(_W, _DRAINING, "pull", _DRAINING, "Capacity may change, though nothing follows."),
    Row(_W, _DRAINING, "report", _DRAINING, "Results are sent until the half-close."),
    Row(_W, _DRAINING, "heartbeat", _DRAINING, "Leases are renewed until the half-close."),
    Row(_W, _DRAINING, "drain", _DRAINING, "A worker may leave a dispatcher that leaves."),
    Row(_W, _DRAINING, HALF_CLOSE, _CLOSED, "The worker has every receipt, or has moved."),
    Row(_D, _DRAINING, "batch", _DRAINING, "A batch crossed the drain: released.", crossing=True),
    Row(_D, _DRAINING, "receipts", _DRAINING, "Results are receipted to the end."),
    Row(_D, _DRAINING, "heartbeat_ack", _DRAINING, "Heartbeats are answered to the end."),
    Row(_D, _DRAINING, "cancels", _DRAINING, "Attempts may be cancelled to the end."),
    Row(_D, _DRAINING, "drain", _DRAINING, "A dispatcher may leave a worker that leaves."),
    Row(_D, _DRAINING, HALF_CLOSE, _CLOSED, "The dispatcher ends the stream."),
    Row(_W, _CLOSED, "pull", _CLOSED, "Crossed the end; ignored.", crossing=True),
    Row(_W, _CLOSED, "report", _CLOSED, "Crossed the end; ignored.", crossing=True),
    Row(_W, _CLOSED, "heartbeat", _CLOSED, "Crossed the end; ignored.", crossing=True),
    Row(_W, _CLOSED, "drain", _CLOSED, "Crossed the end; ignored.", crossing=True),
    Row(_W, _CLOSED, HALF_CLOSE, _CLOSED, "The other direction closes too."),
    Row(_D, _CLOSED, "registered", _CLOSED, "Crossed the half-close; ignored.", crossing=True),
    Row(_D, _CLOSED, "batch", _CLOSED, "Crossed the half-close; never received.", crossing=True),
    Row(_D, _CLOSED, "receipts", _CLOSED, "Results that came before the half-close are receipted."),
    Row(_D, _CLOSED, "heartbeat_ack", _CLOSED, "Crossed the half-close; ignored.", crossing=True),
    Row(_D, _CLOSED, "cancels", _CLOSED, "Crossed the half-close; ignored.", crossing=True),
    Row(_D, _CLOSED, "drain", _CLOSED, "Crossed the half-close; ignored.", crossing=True),
    Row(_D, _CLOSED, HALF_CLOSE, _CLOSED, "The other direction closes too."),
    Row(_W, _FAILED, HALF_CLOSE, _CLOSED, "A worker leaves a dispatcher that broke the protocol."),
    Row(_D, _FAILED, HALF_CLOSE, _CLOSED, "A dispatcher ends the stream with PROTOCOL_ERROR."),
)

PARTS: dict[Role, frozenset[str]] = {
    role: frozenset(row.part for row in TABLE if row.sender is role) for role in Role
}
"""What each role may send at all; any other name is of a newer protocol and ignored on receipt."""


def _moves(sender: Role, *, crossing: bool) -> dict[State, dict[str, State]]:
    """The sender's rows by state and part; with crossing, also what may only be received."""
    moves: dict[State, dict[str, State]] = {state: {} for state in State}
    for row in TABLE:
        if row.sender is sender and (crossing or not row.crossing):
            moves[row.state][row.part] = row.next
    return moves


_SENDABLE = {role: _moves(role, crossing=False) for role in Role}
_RECEIVABLE = {role: _moves(role, crossing=True) for role in Role}


class Session:
    """One end of one worker stream.

    Args:
        role: Which end this is.
    """

    __slots__ = ("_peer", "_receivable", "_sendable", "role", "state")

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.OPENING
        self._peer = Role.DISPATCHER if role is Role.WORKER else Role.WORKER
        self._sendable = _SENDABLE[role]
        self._receivable = _RECEIVABLE[self._peer]

    def send(self, parts: Iterable[str]) -> None:
        """Takes note of a frame that is about to be sent; on an error nothing has changed.

        Args:
            parts: Names of the frame's parts in field order, or HALF_CLOSE alone.

        Raises:
            LocalProtocolError: The table has no such move.
        """
        state = self.state
        for part in parts:
            following = self._sendable[state].get(part)
            if following is None:
                raise LocalProtocolError(
                    f"{self.role.value} may not send {part} when {state.value}"
                )
            state = following
        self.state = state

    def receive(self, parts: Iterable[str]) -> None:
        """Takes note of a frame that has arrived; empty frames and unknown parts are ignored.

        Args:
            parts: Names of the frame's parts in field order, or HALF_CLOSE alone.

        Raises:
            RemoteProtocolError: The table has no such move; the session has failed.
        """
        state = self.state
        for part in parts:
            following = self._receivable[state].get(part)
            if following is not None:
                state = following
            elif part in PARTS[self._peer]:
                self.state = State.FAILED
                raise RemoteProtocolError(
                    f"{self._peer.value} sent {part} when the session was {state.value}"
                )
        self.state = state
