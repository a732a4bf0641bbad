"""How much of callers' requests one dispatcher holds: bytes, calls, and open streams of a peer.

Theory of operation. gRPC reads a whole request before it calls a unary handler, so a burst of large
ones would be in memory before anybody could refuse it. So each handler is served in its streaming
form, which is the same on the wire, and the request is read here: by a few callers at a time, and
only while less than the limit is in hand. Who waits holds no more than the window of its stream.
A caller that waits too long is refused with RESOURCE_EXHAUSTED, before its request is read.

A request that comes slowly frees its place for the others, and counts as a share of the bytes in
hand until it has come. No host has all of the places, nor more than a few slow requests: what goes
beyond is refused, so that a host that sends nothing holds up its own callers and nobody else's.

A submit that runs its task at once is answered when the task has ended. All other calls have a lane
of their own, so that a room that is full of submits keeps nobody from asking, cancelling or
deciding. Their requests are short, but for those with a payload.

Watches and waits last, and hold nothing but a place: they are counted by the host that they come
from, and their requests are short.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

import grpc
import msgspec
from google.protobuf.message import DecodeError, Message

from stepstream.errors import InvalidTask, PayloadTooLarge, RateLimited

__all__ = ["CallIntake", "CallLimits", "host_of"]

# Of a lane, and of any size up to the limit of a message, 8 MiB: what may be in memory beyond
# `bytes_in_hand`.
READERS_MAX: Final = 32
READERS_OF_HOST_MAX: Final = 24  # so that no host has all of the places
SLOW_OF_HOST_MAX: Final = 8
SLOW_SHARES: Final = 32  # a request that comes slowly counts as this part of the room
SHORT_REQUEST_BYTES_MAX: Final = 131_072  # ids or a filter
ANSWERED_PART: Final = 4  # the room of calls that submit nothing is this part of `bytes_in_hand`
RETRY_S: Final = 1.0
_PACKAGE: Final = "/stepstream.v1."
_LONG: Final = frozenset({"WaitTask", "WatchTask", "WatchTasks"})
_SUBMITS: Final = frozenset({"Submit", "SubmitBatch"})  # unanswered for as long as the task runs
METHODS_WITH_PAYLOAD: Final = _SUBMITS | {"DecideReview", "UpdateInput"}

_Behavior = Callable[[Any, Any], Awaitable[Any]]


class CallLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one dispatcher takes in by gRPC."""

    bytes_in_hand: int = 64 * 1024 * 1024  # of submits that were read and are not answered
    streams_of_peer: int = 2_000  # watches and waits from one host
    # About 20 KB each for gRPC's and our own state, so 200 MB at most.
    calls: int = 10_000  # that wait or are answered
    wait_s: float = 2.0  # for others' requests; then a call is refused
    slow_s: float = 1.0  # a request that takes longer comes slowly
    read_s: float = 30.0  # for the whole request to arrive


class CallIntake(grpc.aio.ServerInterceptor):
    """Reads the requests of all calls but workers' streams, within the limits.

    Its errors are translated by the interceptor around it.
    """

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        self._calls = 0
        self._streams: Counter[str] = Counter()
        self._submits = _Lane(limits, limits.bytes_in_hand)
        self._others = _Lane(limits, limits.bytes_in_hand // ANSWERED_PART)

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler in its streaming form."""
        found = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if found is None or found.request_streaming or not method.startswith(_PACKAGE):
            return found
        handler: Any = found
        behavior = handler.unary_stream if handler.response_streaming else handler.unary_unary
        name = method.rpartition("/")[2]
        serve = self._lasting(behavior) if name in _LONG else self._answered(behavior, name)
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        made: grpc.RpcMethodHandler[Any, Any] = make(
            serve, handler.request_deserializer, handler.response_serializer
        )
        return made

    def _answered(self, behavior: _Behavior, name: str) -> _Behavior:
        lane = self._submits if name in _SUBMITS else self._others
        is_short = name not in METHODS_WITH_PAYLOAD

        async def call(_requests: Any, context: Any) -> Any:
            if self._calls >= self.limits.calls:
                raise RateLimited(f"{self._calls} calls are in hand", retry_after_s=RETRY_S)
            self._calls += 1
            size = 0
            try:
                request = await lane.read(context)
                size = request.ByteSize()
                lane.hold(size)
                if is_short:
                    _check_short(size)
                return await behavior(request, context)
            finally:
                lane.hold(-size)
                self._calls -= 1

        return call

    def _lasting(self, behavior: _Behavior) -> _Behavior:
        async def call(_requests: Any, context: Any) -> Any:
            with self._opened(host_of(context.peer())):
                request = await self._others.read(context)
                _check_short(request.ByteSize())
                return await behavior(request, context)

        return call

    @contextmanager
    def _opened(self, host: str) -> Iterator[None]:
        if self._streams[host] >= self.limits.streams_of_peer:
            words = f"{self._streams[host]} watches and waits of {host} are open"
            raise RateLimited(words, retry_after_s=RETRY_S)
        self._streams[host] += 1
        try:
            yield
        finally:
            self._streams[host] -= 1
            if not self._streams[host]:
                del self._streams[host]


class _Lane:
    """Where callers wait for their turn to read; what they have read counts until it is let go."""

    def __init__(self, limits: CallLimits, bytes_max: int) -> None:
        self._limits = limits
        self._bytes_max = bytes_max
        self._slow_bytes = bytes_max // SLOW_SHARES
        self._bytes = 0
        self._places = asyncio.Semaphore(READERS_MAX)
        self._room = asyncio.Event()
        self._room.set()
        self._hosts: WeakValueDictionary[str, _Host] = WeakValueDictionary()
        self._quick: dict[_Reader, None] = {}  # in the order in which they began
        self._look: asyncio.TimerHandle | None = None

    async def read(self, context: Any) -> Message:
        """Return the request of a call, in its turn.

        Raises:
            RateLimited: There was no room for it, or it did not arrive.
            InvalidTask: There is none, or its bytes are no message.
        """
        host = self._host(host_of(context.peer()))
        await self._take_place(host)
        reader = self._begin(host)
        try:
            async with reader.limit:
                request = await context.read()
        except TimeoutError:
            raise RateLimited(reader.why_late, retry_after_s=RETRY_S) from None
        except DecodeError as error:
            raise InvalidTask(str(error)) from None
        finally:
            self._end(reader)
        if request is grpc.aio.EOF:
            raise InvalidTask("the call has no request")
        read: Message = request
        return read

    def hold(self, size: int) -> None:
        """Count the bytes of a request that was read; negative when it is let go."""
        self._bytes += size
        if self._bytes < self._bytes_max:
            self._room.set()
        else:
            self._room.clear()

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name)
        return host

    async def _take_place(self, host: _Host) -> None:
        """Wait for one's turn to read, and for room."""
        if self._room.is_set() and not host.places.locked() and not self._places.locked():
            await host.places.acquire()  # neither waits
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(self._limits.wait_s), AsyncExitStack() as taken:
                await taken.enter_async_context(host.places)
                await taken.enter_async_context(self._places)
                await self._room.wait()
                taken.pop_all()
        except TimeoutError:
            words = f"{self._bytes} bytes of requests are in hand"
            raise RateLimited(words, retry_after_s=RETRY_S) from None

    def _leave_place(self, host: _Host) -> None:
        host.places.release()
        self._places.release()

    def _begin(self, host: _Host) -> _Reader:
        loop = asyncio.get_running_loop()
        reader = _Reader(host, loop.time())
        self._quick[reader] = None
        if self._look is None:
            self._look = loop.call_later(self._limits.slow_s, self._look_for_slow)
        return reader

    def _end(self, reader: _Reader) -> None:
        if reader in self._quick:
            del self._quick[reader]
            self._leave_place(reader.host)
        elif reader.is_slow:
            reader.host.slow -= 1
            self.hold(-self._slow_bytes)

    def _look_for_slow(self) -> None:
        """One timer for all readers, since hardly any reads for as long as it runs."""
        loop = asyncio.get_running_loop()
        self._look = None
        for reader in list(self._quick):
            slow_at = reader.began_mono + self._limits.slow_s
            if slow_at > loop.time():
                self._look = loop.call_at(slow_at, self._look_for_slow)
                return
            self._slow_down(reader)

    def _slow_down(self, reader: _Reader) -> None:
        """Give the place to the next, and count what may have come; or give the request up."""
        host = reader.host
        del self._quick[reader]
        self._leave_place(host)
        if host.slow >= SLOW_OF_HOST_MAX:
            reader.why_late = f"{host.slow} requests of {host.name} already come slowly"
            # Not at once: when the loop was held up, the request may have come already.
            last_s = self._limits.slow_s / 4
            reader.limit.reschedule(asyncio.get_running_loop().time() + last_s)
            return
        reader.is_slow = True
        host.slow += 1
        self.hold(self._slow_bytes)
        reader.why_late = f"the request did not arrive within {self._limits.read_s:g} s"
        reader.limit.reschedule(reader.began_mono + self._limits.read_s)


class _Host:
    """What the callers from one host have of a lane; forgotten with the last of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places = asyncio.Semaphore(READERS_OF_HOST_MAX)
        self.slow = 0


class _Reader:
    """One request that is being read."""

    def __init__(self, host: _Host, began_mono: float) -> None:
        self.host = host
        self.began_mono = began_mono
        self.limit = asyncio.timeout(None)  # without a timer, until the request comes slowly
        self.is_slow = False
        self.why_late = ""


def _check_short(size: int) -> None:
    if size > SHORT_REQUEST_BYTES_MAX:
        words = f"the request has {size} bytes, limit {SHORT_REQUEST_BYTES_MAX}"
        raise PayloadTooLarge(words)


def host_of(peer: str) -> str:
    """The part of a peer's address that all of its connections share."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
