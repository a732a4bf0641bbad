"""How much of callers' requests one dispatcher holds: bytes, calls, and open streams of a peer.

Theory of operation. gRPC reads a whole request before it calls a unary handler, so a burst of large
ones would be in memory before anybody could refuse it. So each handler is served in its streaming
form, which is the same on the wire, and the request is read here: by a few callers at a time, and
only while less than the limit is in hand. Who waits holds no more than the window of its stream.
A caller that waits too long is refused with RESOURCE_EXHAUSTED, before its request is read.

Watches and waits last, and hold nothing but a place: they are counted by the host that they come
from, and their requests are short.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
import msgspec
from google.protobuf.message import DecodeError, Message

from stepstream.errors import InvalidTask, PayloadTooLarge, RateLimited

__all__ = ["CallIntake", "CallLimits", "host_of"]

# Of any size up to the limit of a message, 8 MiB: what may be in memory beyond `bytes_in_hand`.
READERS_MAX: Final = 32
SLOW_S: Final = 1.0  # a request that takes longer comes slowly, and frees its place for the others
LONG_REQUEST_BYTES_MAX: Final = 131_072  # an id or a filter
RETRY_S: Final = 1.0
_PACKAGE: Final = "/stepstream.v1."
_LONG: Final = frozenset({"WaitTask", "WatchTask", "WatchTasks"})

_Behavior = Callable[[Any, Any], Awaitable[Any]]


class CallLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one dispatcher takes in by gRPC."""

    bytes_in_hand: int = 64 * 1024 * 1024  # of requests that were read and are not answered
    streams_of_peer: int = 2_000  # watches and waits from one host
    # About 20 KB each for gRPC's and our own state, so 200 MB at most.
    calls: int = 10_000  # that wait or are answered
    wait_s: float = 2.0  # for others' requests; then a call is refused
    read_s: float = 30.0  # for the whole request to arrive


class CallIntake(grpc.aio.ServerInterceptor):
    """Reads the requests of all calls but workers' streams, within the limits.

    Its errors are translated by the interceptor around it.
    """

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        self._bytes = 0
        self._calls = 0
        self._streams: Counter[str] = Counter()
        self._readers = asyncio.Semaphore(READERS_MAX)
        self._room = asyncio.Event()
        self._room.set()

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
        is_long = method.rpartition("/")[2] in _LONG
        serve = self._lasting(behavior) if is_long else self._short(behavior)
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        made: grpc.RpcMethodHandler[Any, Any] = make(
            serve, handler.request_deserializer, handler.response_serializer
        )
        return made

    def _short(self, behavior: _Behavior) -> _Behavior:
        async def call(_requests: Any, context: Any) -> Any:
            with self._counted():
                async with self._read(context) as request:
                    return await behavior(request, context)

        return call

    def _lasting(self, behavior: _Behavior) -> _Behavior:
        async def call(_requests: Any, context: Any) -> Any:
            with self._opened(host_of(context.peer())):
                async with self._read(context) as request:
                    size = request.ByteSize()
                    if size > LONG_REQUEST_BYTES_MAX:
                        words = f"the request has {size} bytes, limit {LONG_REQUEST_BYTES_MAX}"
                        raise PayloadTooLarge(words)
                return await behavior(request, context)

        return call

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._calls >= self.limits.calls:
            raise RateLimited(f"{self._calls} calls are in hand", retry_after_s=RETRY_S)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

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

    @asynccontextmanager
    async def _read(self, context: Any) -> AsyncGenerator[Message, None]:
        """The request of a call; it counts for as long as the block lasts.

        Raises:
            RateLimited: There was no room for it, or it did not arrive.
            InvalidTask: There is none, or its bytes are no message.
        """
        place = await self._place()
        slow = asyncio.get_running_loop().call_later(SLOW_S, place.leave)
        try:
            async with asyncio.timeout(self.limits.read_s):
                request = await context.read()
        except TimeoutError:
            words = f"the request did not arrive within {self.limits.read_s:g} s"
            raise RateLimited(words, retry_after_s=RETRY_S) from None
        except DecodeError as error:
            raise InvalidTask(str(error)) from None
        finally:
            slow.cancel()
            place.leave()
        if request is grpc.aio.EOF:
            raise InvalidTask("the call has no request")
        size = request.ByteSize()
        self._hold(size)
        try:
            yield request
        finally:
            self._hold(-size)

    def _hold(self, size: int) -> None:
        self._bytes += size
        if self._bytes < self.limits.bytes_in_hand:
            self._room.set()
        else:
            self._room.clear()

    async def _place(self) -> _Place:
        """Wait for one's turn to read, and for room."""
        place: _Place | None = None
        try:
            async with asyncio.timeout(self.limits.wait_s):
                await self._readers.acquire()
                place = _Place(self._readers)
                await self._room.wait()
        except BaseException as error:
            if place is not None:
                place.leave()
            if isinstance(error, TimeoutError):
                words = f"{self._bytes} bytes of requests are in hand"
                raise RateLimited(words, retry_after_s=RETRY_S) from None
            raise
        return place


class _Place:
    """One of the places of those that read."""

    def __init__(self, readers: asyncio.Semaphore) -> None:
        self._readers: asyncio.Semaphore | None = readers

    def leave(self) -> None:
        """Give the place to the next. Idempotent."""
        if self._readers is not None:
            self._readers.release()
            self._readers = None


def host_of(peer: str) -> str:
    """The part of a peer's address that all of its connections share."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
