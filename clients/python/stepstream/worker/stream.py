"""One stream to one dispatcher: exactly one reader and one writer, from Register to half-close.

Nothing is queued as a frame. What is to be said stays where it is known (results at the desk, the
rest in flags here) until the writer is free, and then goes out together in one frame: that is the
outbox, and the desk's capacity bounds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc
import msgspec
from grpc import aio

from stepstream._convert import duration_to_seconds
from stepstream.errors import RemoteProtocolError
from stepstream.session import (
    BATCH_BYTES_MAX,
    HALF_CLOSE,
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_SPACING_S,
    SILENCE_LIMIT_S,
    Role,
    Session,
    idle_beat_interval_s,
)
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import _frames
from stepstream.worker.desk import Desk

__all__ = ["Call", "End", "Stream"]

_CLOSE_LIMIT_S = 2.0  # how long a dispatcher may take to end a stream that was half-closed
_NAMING_S = 1.0  # between two heartbeats that name new attempts
_DRAIN_REASON = "the worker is leaving"

Call = aio.StreamStreamCall[pb.WorkRequest, pb.WorkResponse]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream ended."""

    reason: str  # for the log
    error: grpc.RpcError | None = None  # the status, when it was not OK


class Stream:
    """One session.

    Args:
        desk: Where attempts are kept.
        identity: Who registers.
        loop_lag_s: Reads how late the handlers' loop runs, in seconds.
        heard: Called for every frame that arrives.
    """

    def __init__(
        self,
        desk: Desk,
        identity: _frames.Identity,
        *,
        loop_lag_s: Callable[[], float],
        heard: Callable[[], None],
    ) -> None:
        self.end: End | None = None
        self.registered: pb.Registered | None = None
        self.silence_limit_s = SILENCE_LIMIT_S
        self.answered = asyncio.Event()  # registered, or ended before that
        self.turned = asyncio.Event()  # ended, or the worker should move
        self._desk = desk
        self._identity = identity
        self._loop_lag_s = loop_lag_s
        self._heard = heard
        self._session = Session(Role.WORKER)
        self._call: Call | None = None
        self._wake = asyncio.Event()
        self._registering: list[str] | None = None  # tokens of the inventory that was sent
        self._credit_told = (-1, 0)  # attempts that it runs, and takes beyond those
        self._drain_told = False
        self._closing = False
        self._held_back: list[pb.Batch] | None = None  # while the worker moves elsewhere
        self._batch_received = 0
        self._beat_interval_s = HEARTBEAT_INTERVAL_S
        self._beat_due = False
        self._beat_mono = 0.0
        self._beat_timer: asyncio.TimerHandle | None = None

    # What the link does with it.

    async def run(self, open_call: Callable[[], Call]) -> None:
        """Speaks with the dispatcher until the stream ends; `end` then says how."""
        self._call = open_call()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(self._call))
                group.create_task(self._write(self._call))
        finally:
            self._finish(End(reason="given up"))

    def changed(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def progressed(self) -> None:
        """Progress has moved: the next heartbeat comes sooner, at most four a second."""
        self._beat_at(self._beat_mono + HEARTBEAT_SPACING_S)

    def hold_back(self) -> None:
        """The worker has begun to register elsewhere: results wait, new attempts are put aside.

        An attempt that arrives now is not in the inventory that the other stream brings along. If
        the move succeeds, no frame has ever named it, so that it is offered again uncharged.
        """
        if self._held_back is None:
            self._held_back = []

    def resume(self) -> None:
        """The move has failed: this stream is still the one."""
        held, self._held_back = self._held_back, None
        for batch in held or ():
            self._take(batch)
        self._wake.set()

    def close(self) -> None:
        """Half-closes once what is due has been written, and gives up if no end comes."""
        self._closing = True
        self._wake.set()
        asyncio.get_running_loop().call_later(_CLOSE_LIMIT_S, self.abort, "no end after half-close")

    def abort(self, reason: str) -> None:
        """Cuts the stream."""
        if self.end is None and self._call is not None:
            self._finish(End(reason=reason))
            self._call.cancel()

    # The two tasks.

    async def _read(self, call: Call) -> None:
        try:
            while isinstance(frame := await call.read(), pb.WorkResponse):
                self._heard()
                self._session.receive(_frames.parts(frame))
                self._arrived(frame)
            self._session.receive([HALF_CLOSE])
            self._finish(End(reason="ended by the dispatcher"))
        except aio.AioRpcError as error:
            self._finish(End(reason=f"{error.code().name}: {error.details()}", error=error))
        except RemoteProtocolError as error:
            self.abort(str(error))
        except asyncio.CancelledError:
            if self.end is None:  # it is this task that was cancelled, not the call
                raise

    async def _write(self, call: Call) -> None:
        try:
            while self.end is None:
                frame = self._compose()
                if said := _frames.parts(frame):
                    self._session.send(said)
                    await call.write(frame)
                elif self._closing:
                    self._session.send([HALF_CLOSE])
                    await call.done_writing()
                    return
                else:
                    await self._wake.wait()
                    self._wake.clear()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader learns how the stream ended
        except asyncio.CancelledError:
            if self.end is None:
                raise

    # What is said.

    def _compose(self) -> pb.WorkRequest:
        """Everything that is to be said now, in one frame; an empty one when that is nothing."""
        frame = pb.WorkRequest()
        if self.registered is None:
            if self._registering is None and not self._closing:
                self._compose_register(frame)
            return frame
        credit = (self._desk.capacity, self._desk.ahead)
        if self._credit_told != credit:
            self._credit_told = credit
            frame.pull.max_in_flight, frame.pull.ahead = credit
            frame.pull.SetInParent()
        if self._held_back is None:
            if settlements := self._desk.inventory.take(BATCH_BYTES_MAX):
                frame.report.settlements.extend(settlements)
            if self._desk.leaving and not self._drain_told:
                self._drain_told = True
                frame.drain.reason = _DRAIN_REASON
        if self._beat_due and not self._closing:
            self._compose_heartbeat(frame)
        return frame

    def _compose_register(self, frame: pb.WorkRequest) -> None:
        now_mono = monotonic()
        held = self._desk.held(now_mono)
        self._registering = [item.token for item in held]
        for item in held:
            item.moved = True  # another dispatcher has not heard of the progress
        self._credit_told = (self._desk.capacity, 0)
        frame.register.CopyFrom(
            _frames.register(self._identity, self._desk.capacity, held, now_mono)
        )

    def _compose_heartbeat(self, frame: pb.WorkRequest) -> None:
        frame.heartbeat.CopyFrom(
            _frames.heartbeat(
                self._desk.inventory.items(), self._batch_received, self._loop_lag_s()
            )
        )
        self._beat_due = False
        self._beat_mono = monotonic()
        self._beat_at(self._beat_mono + self._next_beat_s())

    def _next_beat_s(self) -> float:
        if self._desk.inventory:
            return self._beat_interval_s
        return idle_beat_interval_s(self._beat_interval_s, self.silence_limit_s)

    # What is heard.

    def _arrived(self, frame: pb.WorkResponse) -> None:
        if frame.HasField("registered"):
            self._open(frame.registered)
        if frame.HasField("receipts"):
            self._desk.receipts(frame.receipts.receipts)
        if frame.HasField("batch"):
            self._batch(frame.batch)
        # Once the worker has moved, the attempts that it took along are not this dispatcher's.
        moving = self._held_back is not None
        if frame.HasField("heartbeat_ack") and frame.heartbeat_ack.not_owned and not moving:
            self._desk.not_owned(frame.heartbeat_ack.not_owned)
        if frame.cancels:
            self._desk.cancels(frame.cancels)
        if frame.HasField("drain"):
            if frame.drain.leave:
                self._desk.dismissed(frame.drain.reason)
            else:
                self.turned.set()

    def _open(self, registered: pb.Registered) -> None:
        self.registered = registered
        self._beat_interval_s = _seconds(registered, "heartbeat_interval", HEARTBEAT_INTERVAL_S)
        self.silence_limit_s = _seconds(registered, "silence_limit", SILENCE_LIMIT_S)
        self._desk.resend_delay_s = self._beat_interval_s
        self._desk.verdicts(self._registering or [], registered.verdicts)
        self._beat_at(monotonic() + self._beat_interval_s)
        self.answered.set()
        self._wake.set()

    def _batch(self, batch: pb.Batch) -> None:
        if self._held_back is not None:
            self._held_back.append(batch)
        elif not self._closing:
            self._take(batch)

    def _take(self, batch: pb.Batch) -> None:
        self._batch_received = max(self._batch_received, batch.number)
        self._desk.batch(batch.assignments)
        self._beat_at(self._beat_mono + _NAMING_S)

    def _finish(self, end: End) -> None:
        if self.end is None:
            self.end = end
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        self.answered.set()
        self.turned.set()
        self._wake.set()

    def _beat_at(self, due_mono: float) -> None:
        """Plans the next heartbeat, unless an earlier one is planned."""
        timer, loop = self._beat_timer, asyncio.get_running_loop()
        delay_s = max(0.0, due_mono - monotonic())
        if timer is not None and not timer.cancelled():
            if loop.time() < timer.when() <= loop.time() + delay_s:
                return
            timer.cancel()
        self._beat_timer = loop.call_later(delay_s, self._beat)

    def _beat(self) -> None:
        self._beat_due = True
        self._wake.set()


def _seconds(message: Any, field: str, default_s: float) -> float:
    """A duration field in seconds; the default when it is absent or not positive."""
    seconds = duration_to_seconds(getattr(message, field)) if message.HasField(field) else 0.0
    return seconds if seconds > 0 else default_s
