"""Keeps a worker in one session with some dispatcher until it has left.

A broken stream is dialled again at once, then ever more slowly, at the next address. A stream that
is old, or whose dispatcher leaves, is replaced before it is closed. Handlers notice neither.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from time import monotonic

import grpc
import msgspec
import structlog
from grpc import aio

from stepstream._channel import CHANNEL_OPTIONS, Endpoints
from stepstream._status import error_from_rpc
from stepstream.errors import StepstreamError
from stepstream.session import (
    MAX_MESSAGE_BYTES,
    SILENCE_LIMIT_S,
    STREAM_AGE_JITTER,
    STREAM_AGE_S,
)
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceStub
from stepstream.worker._frames import Identity
from stepstream.worker.attempt import Attempt
from stepstream.worker.backoff import Backoff
from stepstream.worker.desk import Desk, Handlers
from stepstream.worker.stream import End, Stream

__all__ = ["FLUSH_LIMIT_S", "Abort", "Ended", "Leave", "Link", "Moved", "News"]

_log = structlog.get_logger("stepstream.worker")

FLUSH_LIMIT_S = 2.0
"""How long after its grace a leaving worker waits for the last receipts."""

_CONNECT_LIMIT_S = 5.0  # a host that swallows packets must not keep us from the next address
_SETTLE_S = 0.02  # by then grpc has delivered what became of the calls that were cut
_STEADY_S = 1.0  # a session shorter than this does not reset the back-off
_PATIENCE = 2 / 3  # of the silence limit: then the worker looks for another dispatcher

_OPTIONS = (
    *(option for option in CHANNEL_OPTIONS if not option[0].endswith("_message_length")),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)

# Dialling again would be answered the same: somebody has to change something.
_FINAL = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


class Ended(msgspec.Struct, frozen=True):
    """A handler has returned."""

    attempt: Attempt
    settlement: pb.Settlement | None


class Moved(msgspec.Struct, frozen=True):
    """An attempt's progress has moved."""

    attempt: Attempt


class Leave(msgspec.Struct, frozen=True):
    """Drain: finish what runs within so many seconds, then go."""

    grace_s: float


class Abort(msgspec.Struct, frozen=True):
    """Stop now."""


News = Ended | Moved | Leave | Abort


class Link:
    """The gRPC side of a worker; everything but the constructor runs on the gRPC loop.

    Args:
        identity: Who registers.
        addresses: Dispatchers, tried in turn.
        handlers: Who runs the attempts.
        stream_age_s: Seconds after which the worker moves to a new stream, ±20 %.
    """

    def __init__(
        self,
        identity: Identity,
        addresses: Sequence[str],
        handlers: Handlers,
        *,
        stream_age_s: float = STREAM_AGE_S,
    ) -> None:
        self._identity = identity
        self._endpoints = Endpoints(addresses)
        self._loop_lag_s = handlers.loop_lag_s
        self._stream_age_s = stream_age_s
        self._rng = random.Random()
        self._backoff = Backoff(self._rng)
        self._desk = Desk(handlers, self._later)
        self._desk.listener = self
        self._current: Stream | None = None
        self._heard_mono = monotonic()
        self._silence_limit_s = SILENCE_LIMIT_S
        self._silence_timer: asyncio.TimerHandle | None = None
        self._fatal: StepstreamError | TimeoutError | None = None
        self._limit: asyncio.Timeout | None = None
        self._early: list[News] = []  # what was said before the link ran

    def handle(self, news: list[News]) -> None:
        """Takes what the handlers and the process have to say."""
        if self._limit is None:
            self._early.extend(news)
            return
        for item in news:
            match item:
                case Ended(attempt, settlement):
                    self._desk.ended(attempt, settlement)
                case Moved(attempt):
                    self._desk.progressed(attempt)
                case Leave(grace_s):
                    self._leave(grace_s)
                case Abort():
                    self._stop_now()

    async def run(self) -> None:
        """Stays in touch until the worker has left.

        Raises:
            StepstreamError: A dispatcher refuses this worker for good.
        """
        try:
            async with asyncio.timeout(None) as self._limit:
                self.handle(self._early)
                self._watch_silence()
                async with asyncio.TaskGroup() as group:
                    await self._stay(group)
        except TimeoutError:
            if not self._desk.has_left:
                _log.warning("left without receipts", attempts=len(self._desk.inventory))
        finally:
            self._limit = None
        # A completion for a closed loop is an error in every other loop that uses grpc.
        await asyncio.sleep(_SETTLE_S)
        if self._fatal is not None:
            raise self._fatal

    def changed(self) -> None:
        """The desk has something to send, or nothing is left to wait for."""
        if self._current is not None:
            self._current.changed()
        if self._desk.has_left:
            self._close()

    def progressed(self) -> None:
        """The desk has news of progress."""
        if self._current is not None:
            self._current.progressed()

    async def _stay(self, group: asyncio.TaskGroup) -> None:
        while self._fatal is None and not self._is_gone():
            delay_s = self._backoff.next_delay_s(monotonic())
            await asyncio.sleep(delay_s)
            stream = await self._dial(group)
            if stream is None:
                continue
            opened_mono = monotonic()
            await stream.turned.wait()
            if stream.end is not None:
                self._note_end(stream.end)
            if monotonic() - opened_mono >= _STEADY_S:
                self._backoff.reset()

    def _is_gone(self) -> bool:
        """Whether the worker has left and its last stream has ended."""
        ended = self._current is None or self._current.end is not None
        return self._desk.has_left and ended

    async def _dial(self, group: asyncio.TaskGroup) -> Stream | None:
        """Opens a session at the next address and makes it the current one; None when it fails."""
        address = self._endpoints.current
        self._endpoints.move_on()
        channel = aio.insecure_channel(address, options=_OPTIONS)
        if not await _connected(channel):
            await channel.close()
            self._note_end(End(reason=f"nobody answers at {address}"))
            return None
        stream = Stream(self._desk, self._identity, loop_lag_s=self._loop_lag_s, heard=self._heard)
        former = self._current
        if former is not None:
            former.hold_back()
        group.create_task(_run(stream, channel))
        self._later(self._silence_limit_s, lambda: _abort_unanswered(stream))
        await stream.answered.wait()
        return self._replace(former, stream, address)

    def _replace(self, former: Stream | None, stream: Stream, address: str) -> Stream | None:
        """The dial is over: moves to the new stream, or stays with the former one."""
        if stream.registered is None:
            self._note_end(stream.end, address)
            if former is not None:
                former.resume()
            return None
        if former is not None:
            former.close()
        self._current = stream
        self._silence_limit_s = stream.silence_limit_s
        self._watch_silence()
        age_s = self._stream_age_s * self._rng.uniform(1 - STREAM_AGE_JITTER, 1 + STREAM_AGE_JITTER)
        self._later(age_s, stream.turned.set)
        _log.info("connected", address=address, session=stream.registered.session_id)
        for warning in stream.registered.warnings:
            _log.warning("dispatcher warns", warning=warning)
        self.changed()
        return stream

    def _note_end(self, end: End | None, address: str = "") -> None:
        """Says why there is no session; a refusal for good ends the worker."""
        if self._current is not None and self._current.end is not None:
            self._current = None
        if end is None or self._desk.has_left:
            return
        error = end.error
        if address and isinstance(error, aio.AioRpcError) and error.code() in _FINAL:
            self._fatal = error_from_rpc(error, address)
        elif self._current is None:
            _log.warning("reconnecting", reason=end.reason)

    def _leave(self, grace_s: float) -> None:
        if self._limit is None or self._limit.when() is not None:
            return
        _log.info("draining", attempts=len(self._desk.inventory), grace_s=grace_s)
        self._later(grace_s, self._desk.give_back_all)
        self._limit.reschedule(asyncio.get_running_loop().time() + grace_s + FLUSH_LIMIT_S)
        self._desk.leave()

    def _close(self) -> None:
        """Nothing is left to wait for: half-closes, or stops when there is no session."""
        if self._current is not None and self._current.end is None:
            self._current.close()
        else:
            self._stop_now()

    def _stop_now(self) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    def _heard(self) -> None:
        self._heard_mono = monotonic()

    def _watch_silence(self) -> None:
        """Moves while the leases still hold; cuts off what runs at their end, once per silence."""
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        silent_s, limit_s = monotonic() - self._heard_mono, self._silence_limit_s
        if silent_s < limit_s * _PATIENCE:
            left_s = limit_s * _PATIENCE - silent_s
        elif silent_s < limit_s:
            self._look_elsewhere(silent_s)
            left_s = limit_s - silent_s
        else:
            if self._current is not None:
                self._current.abort(f"no word from the dispatcher for {limit_s} s")
            self._desk.cut_off()
            left_s = limit_s
        self._silence_timer = self._later(left_s, self._watch_silence)

    def _look_elsewhere(self, silent_s: float) -> None:
        """Dials the next address beside the stream that is silent, which stays until that works."""
        if self._current is not None and not self._current.turned.is_set():
            _log.warning("no word from the dispatcher", silent_s=round(silent_s, 1))
            self._current.turned.set()

    def _later(self, delay_s: float, do: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, do)


async def _run(stream: Stream, channel: aio.Channel) -> None:
    try:
        await stream.run(WorkerServiceStub(channel).Work)
    finally:
        await channel.close()


def _abort_unanswered(stream: Stream) -> None:
    if stream.registered is None:
        stream.abort("no answer to Register")


async def _connected(channel: aio.Channel) -> bool:
    """Waits for a connection; False as soon as it is refused, or when it takes too long.

    A stream opened on a channel that cannot connect leaks in grpc (grpc#38499).
    """
    try:
        async with asyncio.timeout(_CONNECT_LIMIT_S):
            while (state := channel.get_state(try_to_connect=True)) not in _SETTLED:
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return state is grpc.ChannelConnectivity.READY


_SETTLED = frozenset(
    {
        grpc.ChannelConnectivity.READY,
        grpc.ChannelConnectivity.TRANSIENT_FAILURE,
        grpc.ChannelConnectivity.SHUTDOWN,
    }
)
