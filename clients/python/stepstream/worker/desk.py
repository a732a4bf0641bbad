"""The attempts of one worker, on the gRPC loop: what frames and handlers say about each of them.

It knows no stream: `link` feeds it the parts of frames, and takes from it what is to be sent. It
outlives every session, which is how running attempts survive a broken one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Protocol

import msgspec
import structlog

from stepstream._convert import duration_to_seconds
from stepstream.session import AHEAD_WAIT_S, HEARTBEAT_INTERVAL_S
from stepstream.trace_context import trace_fields
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import _frames
from stepstream.worker.attempt import Attempt, Why
from stepstream.worker.inventory import Inventory, Item
from stepstream.worker.runner import Cancel, Command, ReleaseWaiting, Start
from stepstream.worker.step_length import StepLength
from stepstream.worker.tracing import AttemptSpans

__all__ = ["Desk", "Handlers", "Later", "Listener"]

_log = structlog.get_logger("stepstream.worker")

_CANCEL_GRACE_S = 5.0  # where no Cancel frame says it: abandoned attempts

AHEAD_MAX = 16
"""The most attempts that wait here for a slot: as many as end within the 5 ms to the dispatcher and
back, at 3,000 steps a second, which is more than a worker does."""

Later = Callable[[float, Callable[[], None]], object]

_REASONS = {
    pb.CANCEL_REASON_REQUESTED: Why.REQUESTED,
    pb.CANCEL_REASON_TIMEOUT: Why.TIMEOUT,
    pb.CANCEL_REASON_LEASE_LOST: Why.LEASE_LOST,
    pb.CANCEL_REASON_DEADLINE: Why.DEADLINE,
}


class Handlers(msgspec.Struct, frozen=True, kw_only=True):
    """The handlers' side, as the gRPC loop sees it; every function is thread safe."""

    slots: int  # the most attempts at once
    takes_ahead: bool = True  # some more, to wait for a slot, while steps are short
    send: Callable[[Command], None]  # what is to be done there
    moved: Callable[[Attempt], None]  # given to each attempt, to tell of its progress
    loop_lag_s: Callable[[], float]  # how late the handlers' loop runs
    spans: AttemptSpans = msgspec.field(default_factory=AttemptSpans)  # hears how attempts end


class Listener(Protocol):
    """What the desk tells, so that a frame is sent."""

    def changed(self) -> None:
        """Results, the capacity or the leaving have changed."""

    def progressed(self) -> None:
        """An attempt's progress has moved."""


class Desk:
    """Attempts from batch to receipt.

    Args:
        handlers: Who runs the attempts.
        later: Calls a function on this loop after so many seconds.
    """

    def __init__(self, handlers: Handlers, later: Later) -> None:
        self.inventory = Inventory()
        self.leaving = False
        self.resend_delay_s = HEARTBEAT_INTERVAL_S
        self.listener: Listener | None = None
        self._slots = handlers.slots
        self._takes_ahead = handlers.takes_ahead
        self._length = StepLength()
        self._has_asked_ahead = False  # whether it ever took more than it runs
        self._looks = False  # whether something is going to look for what waits too long
        self._send = handlers.send
        self._moved = handlers.moved
        self._spans = handlers.spans
        self._later = later
        self._running: dict[str, Attempt] = {}  # by token: given to the handlers, not ended yet
        self._stuck: set[str] = set()  # tokens of those whose grace is over

    @property
    def capacity(self) -> int:
        """The most attempts that the worker runs: its slots without the stuck ones."""
        return 0 if self.leaving else max(0, self._slots - len(self._stuck))

    @property
    def ahead(self) -> int:
        """How many attempts it takes beyond those, to wait here for a slot."""
        takes = self._takes_ahead and self._length.is_short and not self._stuck
        return min(self.capacity, AHEAD_MAX) if takes else 0

    @property
    def has_left(self) -> bool:
        """Whether the worker is leaving and every result has its receipt."""
        return self.leaving and not self.inventory

    # What the handlers say.

    def ended(self, attempt: Attempt, settlement: pb.Settlement | None) -> None:
        """A handler has returned; its result counts unless the attempt was given up before."""
        self._running.pop(attempt.token, None)
        self._stuck.discard(attempt.token)
        if attempt.began_mono is not None:
            self._length.ended(monotonic() - attempt.began_mono)
            self._has_asked_ahead |= self.ahead > 0
        if settlement is not None:
            self._record(attempt, settlement)
        self._changed()

    def progressed(self, attempt: Attempt) -> None:
        """A handler has reported progress."""
        told = self.inventory.progress(attempt.token, *attempt.read_progress())
        if told and self.listener is not None:
            self.listener.progressed()

    # What the dispatcher says.

    def batch(self, assignments: Iterable[pb.Assignment]) -> None:
        """New attempts: given to the handlers, or straight back when the worker is leaving."""
        now_mono = monotonic()
        fresh: list[Attempt] = []
        for assignment in assignments:
            attempt = Attempt(assignment, self._moved, now_mono)
            named = trace_fields(attempt.trace_context)
            if not self.inventory.add(
                assignment.assignment_id, attempt.token, now_mono, log_fields=named
            ):
                continue
            if self.leaving:
                self._settle(attempt, _frames.released(attempt, Why.LEAVING.value))
            else:
                self._running[attempt.token] = attempt
                fresh.append(attempt)
        if fresh:
            self._send(Start(fresh))
            self._look_after_waiting()

    def receipts(self, receipts: Iterable[pb.Receipt]) -> None:
        """What became of results: forgotten, except those that are not durable yet."""
        for receipt in receipts:
            token = receipt.lease_token
            if receipt.status == pb.RECEIPT_STATUS_RETRY_LATER:
                self._later(self.resend_delay_s, partial(self._resend, token))
                continue
            if receipt.status == pb.RECEIPT_STATUS_INVALID:
                _log.error(
                    "result refused",
                    assignment_id=receipt.assignment_id,
                    reason=receipt.message,
                    **self.inventory.log_fields(token),
                )
            self._spans.receipted(receipt)
            self.inventory.drop(token)
        self._changed()

    def cancels(self, cancels: Iterable[pb.Cancel]) -> None:
        """Attempts to stop. A cancel that is repeated, or comes after the end, says nothing."""
        for cancel in cancels:
            why = _REASONS.get(cancel.reason, Why.REQUESTED)
            grace_s = duration_to_seconds(cancel.grace)
            for token in self.inventory.tokens_of(cancel.assignment_id):
                if why is Why.LEASE_LOST:
                    self._abandon(token, grace_s)
                else:
                    self._stop(token, why, grace_s)

    def not_owned(self, assignment_ids: Iterable[str]) -> None:
        """Attempts that somebody else owns now."""
        for assignment_id in assignment_ids:
            for token in self.inventory.tokens_of(assignment_id):
                self._abandon(token, _CANCEL_GRACE_S)

    def verdicts(self, tokens: list[str], verdicts: Iterable[pb.InventoryVerdict]) -> None:
        """What to do with the attempts that a Register named, in its order."""
        abandoned = {
            token
            for token, verdict in zip(tokens, verdicts, strict=False)
            if verdict.verdict == pb.VERDICT_ABANDON
        }
        for token in tokens:
            if token in abandoned:
                self._abandon(token, _CANCEL_GRACE_S)
            else:
                self.inventory.resend(token)
        self._changed()

    # What time says.

    def cut_off(self) -> None:
        """No dispatcher has spoken for the silence limit: stops what can be stopped.

        Each attempt is given back when its handler stops, and counts if the handler ends first.
        """
        for token in self.inventory.unsettled():
            self._cancel(token, Why.SILENCE)

    def held(self, now_mono: float) -> list[Item]:
        """Every attempt, oldest first, and since when it runs: what a Register names."""
        for token, attempt in self._running.items():
            self.inventory.runs_since(token, attempt.began_mono or now_mono)
        return self.inventory.items()

    def leave(self) -> None:
        """Takes nothing more and gives back what has not started; what runs goes on."""
        self.leaving = True
        self._send(ReleaseWaiting("the worker is leaving"))
        self._changed()

    def dismissed(self, reason: str) -> None:
        """The dispatcher sends this worker away: it leaves, and finishes what runs however long."""
        _log.info("told to leave", reason=reason, attempts=len(self.inventory))
        self.leave()

    def give_back_all(self) -> None:
        """The grace of a leave is over: what still runs is cancelled and given back."""
        for token in self.inventory.unsettled():
            attempt = self._running.get(token)
            if attempt is not None:
                self._cancel(token, Why.LEAVING)
                self._settle(attempt, _frames.released(attempt, Why.LEAVING.value))

    def _look_after_waiting(self) -> None:
        """Have what was taken ahead given back before it has waited for AHEAD_WAIT_S."""
        if self._has_asked_ahead and not self._looks and len(self._running) > self._slots:
            self._looks = True
            self._later(AHEAD_WAIT_S / 3, self._look)

    def _look(self) -> None:
        self._looks = False
        too_long_s = AHEAD_WAIT_S * 2 / 3
        before_mono = monotonic() - too_long_s
        if not self._some_stop and any(
            one.began_mono is None and one.received_mono <= before_mono
            for one in self._running.values()
        ):
            self._length.at_least(too_long_s)
            self._send(ReleaseWaiting("longer steps have all slots", before_mono))
            self._changed()
        self._look_after_waiting()

    @property
    def _some_stop(self) -> bool:
        """Whether a slot is about to be free, which the dispatcher has counted as free already."""
        return any(
            one.began_mono is not None and one.cancelled_because is not None
            for token, one in self._running.items()
            if token not in self._stuck
        )

    def _stop(self, token: str, why: Why, grace_s: float) -> None:
        if self._cancel(token, why):
            self._later(grace_s, partial(self._give_up, token))

    def _abandon(self, token: str, grace_s: float) -> None:
        self.inventory.drop(token)
        self._spans.dropped(token)
        attempt = self._running.get(token)
        if attempt is not None and attempt.cancelled_because is not None:
            attempt.cancelled_because = Why.LEASE_LOST
        self._stop(token, Why.LEASE_LOST, grace_s)
        self._changed()

    def _cancel(self, token: str, why: Why) -> bool:
        """Tells a handler to stop; False when it has ended or been told."""
        attempt = self._running.get(token)
        if attempt is None or attempt.cancelled_because is not None:
            return False
        attempt.cancelled_because = why
        self._send(Cancel(attempt))
        return True

    def _give_up(self, token: str) -> None:
        """The grace is over and the handler still runs: settled without it, its slot is taken."""
        attempt = self._running.get(token)
        if attempt is None or attempt.cancelled_because is None:
            return
        if attempt.began_mono is not None:
            self._stuck.add(token)
        _log.warning(
            "handler does not stop",
            assignment_id=attempt.assignment.assignment_id,
            **trace_fields(attempt.trace_context),
        )
        settlement = _frames.stopped(attempt, attempt.cancelled_because)
        if settlement is not None:
            self._record(attempt, settlement)
        self._changed()

    def _settle(self, attempt: Attempt, settlement: pb.Settlement) -> None:
        if self._record(attempt, settlement):
            self._changed()

    def _record(self, attempt: Attempt, settlement: pb.Settlement) -> bool:
        """Note a result; False when the attempt is not held any more, or has one."""
        counts = self.inventory.settle(attempt.token, settlement)
        if counts:
            self._spans.settled(attempt, settlement)
        return counts

    def _resend(self, token: str) -> None:
        self.inventory.resend(token)
        self._changed()

    def _changed(self) -> None:
        if self.listener is not None:
            self.listener.changed()
