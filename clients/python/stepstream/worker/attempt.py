"""One attempt at a step, as both of the worker's loops and the handler's thread see it.

The gRPC loop makes it and sets `cancelled_because`; the handler's side reads that and sets
`progress` and `began_mono`. Each is one reference written by one side, so no lock is needed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

from stepstream.v1 import worker_service_pb2 as pb

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["Attempt", "Why"]


class Why(enum.Enum):
    """Why an attempt is to stop."""

    REQUESTED = "the task was cancelled"
    TIMEOUT = "the attempt ran beyond its limit"
    DEADLINE = "the deadline of the task has passed"
    LEASE_LOST = "somebody else owns the attempt"
    SILENCE = "no word from the dispatcher"
    LEAVING = "the worker is leaving"


class Attempt:
    """An assignment and what has happened to it here.

    Args:
        assignment: What the dispatcher sent.
        moved: Called, from any thread, when `progress` has news that nobody has read.
        received_mono: When it came, seconds of the monotonic clock.
    """

    __slots__ = (
        "_moved",
        "_unread",
        "assignment",
        "began_mono",
        "cancelled_because",
        "progress",
        "received_mono",
        "span",
        "token",
        "trace_context",
    )

    def __init__(
        self,
        assignment: pb.Assignment,
        moved: Callable[[Attempt], None],
        received_mono: float = 0.0,
    ) -> None:
        self.assignment = assignment
        self.received_mono = received_mono
        self.began_mono: float | None = None  # when its handler was given it
        self.token = assignment.lease_token
        self.cancelled_because: Why | None = None
        self.progress: tuple[float, str] = (0.0, "")  # fraction 0 to 1, note
        # Of its own span, once that began; most have none, and an empty map is slow to copy.
        self.trace_context = dict(assignment.trace_context) if assignment.trace_context else {}
        self.span: Span | None = None
        self._moved = moved
        self._unread = False

    def report_progress(self, fraction: float, note: str) -> None:
        """Sets the progress; thread safe, and tells the gRPC loop once until it has looked."""
        self.progress = (max(0.0, min(1.0, fraction)), note)
        if not self._unread:
            self._unread = True
            self._moved(self)

    def read_progress(self) -> tuple[float, str]:
        """The latest progress; from now on a further report tells again."""
        self._unread = False
        return self.progress
