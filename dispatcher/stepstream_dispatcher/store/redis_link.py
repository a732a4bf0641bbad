"""Connections to Redis: one round trip at a time, every wait bounded, no repeats by the driver.

Theory of operation. redis-py repeats a command whose reply was lost, which for a command that is
not idempotent means twice; so its own retry is off and `ask` here decides. Replies are taken raw
(RESP2, pinned): what a command answers is then the same whatever the driver's version makes of it.
A connection on which anything but a complete reply was read is closed, never reused, so that no
caller can be given another's answer. The driver's timeout is for the handshake alone: it makes a
task of each write, under `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that
comes just as the write ends; `heeding_cancels` brings such a one back. A caller that finds no free
connection in time is told that the store is busy, which must never be taken for a store that is
away: unless the calls that do have one fail, and then it is told what they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from hiredis import pack_command
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stepstream.errors import StoreBusy, StoreUnavailable
from stepstream_dispatcher.store.port import StoreUnreachable
from stepstream_dispatcher.store.redis_errors import Remedy, remedy_of, word_of
from stepstream_dispatcher.store.redis_receive import receive_in_place

__all__ = ["LOST", "Command", "Link", "StoreClock", "heeding_cancels", "open_connection"]

Command: TypeAlias = Sequence[str | bytes | int | float]

CONNECT_TIMEOUT_S: Final = 1.0
REPLY_TIMEOUT_S: Final = 2.5  # AOF everysec may hold a write back for 2 s while fsync is stuck
REPLY_HEARD_S: Final = 0.1  # how often the limit is moved while replies keep coming
TRIES: Final = 3
TRIES_WITHIN_S: Final = 5.0
BACKOFF_S: Final = 0.05  # before the second try; doubles
SLOT_WAIT_S: Final = (
    3.0  # for a free connection; longer than a reply takes, which tells busy from away
)
BUSY_RETRY_S: Final = 1.0  # when a caller that found none should try again
IDLE_MAX_S: Final = 10.0  # a connection idle for longer is opened anew: it may be half-open

# What the driver raises when the fate of a call is unknown. OSError covers TimeoutError too.
LOST: Final = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)


class StoreClock:
    """The clock of Redis, extrapolated by this host's monotonic clock.

    Args:
        monotonic: Seconds that only grow.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_ms = time.time() * 1000 - monotonic() * 1000
        self._round_trip_s = float("inf")
        self._observed_mono = 0.0

    def now_ms(self) -> int:
        """Unix milliseconds by the clock of Redis."""
        return int(self._monotonic() * 1000 + self._offset_ms)

    def read(self) -> float:
        """The monotonic clock, in seconds."""
        return self._monotonic()

    def observe(self, seconds: bytes, microseconds: bytes, *, sent_mono: float) -> int:
        """Take in a reply of TIME; one with a short round trip counts, or any after a second.

        Returns:
            The reply in Unix milliseconds.
        """
        redis_ms = int(seconds) * 1000 + int(microseconds) / 1000
        received_mono = self._monotonic()
        round_trip_s = received_mono - sent_mono
        if round_trip_s <= self._round_trip_s or received_mono - self._observed_mono > 1:
            self._round_trip_s = round_trip_s
            self._observed_mono = received_mono
            self._offset_ms = redis_ms - (sent_mono + received_mono) / 2 * 1000
        return int(redis_ms)


class Link:
    """A bounded pool of connections of one purpose.

    Args:
        url: redis://, rediss:// or unix://.
        connections_max: How many at once; a caller beyond that waits for 3 s.
        name: Shown by CLIENT LIST.
    """

    def __init__(self, url: str, *, connections_max: int, name: str) -> None:
        self._driver = ConnectionPool.from_url(  # it makes connections, and keeps none
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=REPLY_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            client_name=name,
        )
        self._idle: list[tuple[AbstractConnection, float]] = []  # since when (monotonic)
        self._lent: set[AbstractConnection] = set()
        self._slots = asyncio.Semaphore(connections_max)
        self._trouble: StoreUnavailable | None = None  # of the latest try; None: it went well

    def make_connection(self) -> AbstractConnection:
        """A connection outside the pool, not yet open, for whoever needs one alone."""
        connection: AbstractConnection = self._driver.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        lent, self._lent = self._lent, set()
        await self._close_idle()
        for connection in lent:
            await connection.disconnect(nowait=True)

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            await connection.disconnect(nowait=True)

    async def ask(self, *commands: Command) -> list[Any]:
        """Send commands in one round trip, repeating all of them while the outcome is unknown.

        Idempotence: only for commands that may be carried out twice.

        Raises:
            StoreUnreachable: No try got as far as sending anything.
            StoreBusy: Redis answers, and nothing was sent: all connections are taken.
            StoreUnavailable: Redis does not answer, or says that it cannot.
            redis.exceptions.ResponseError: A command is at fault.
        """
        if not commands:  # an empty write would keep a connection from closing on Python 3.12
            return []
        maybe_done = False
        clock = asyncio.get_running_loop().time
        deadline = clock() + TRIES_WITHIN_S
        for attempt in range(TRIES):
            connected = False
            try:
                async with asyncio.timeout_at(deadline), self._borrowed() as connection:
                    connected = True
                    return await _exchange(connection, commands)
            except StoreUnreachable as error:
                failure: Exception = error
            except (*LOST, redis_errors.ResponseError) as error:
                _raise_unless_resent(error)
                # An answer that refuses says that nothing was done; no answer says nothing.
                maybe_done = maybe_done or (connected and not word_of(error))
                failure = error
            if attempt + 1 == TRIES or clock() >= deadline:
                break
            await asyncio.sleep(BACKOFF_S * 2**attempt)
            await self._close_idle()
        kind = StoreUnavailable if maybe_done else StoreUnreachable
        raise kind(f"redis does not answer: {failure}") from failure

    async def ask_once(self, *commands: Command) -> list[Any]:
        """Send commands in one round trip, once.

        Raises:
            StoreUnreachable, StoreBusy: Nothing was sent.
            redis.exceptions.RedisError, OSError: See LOST; or the error that Redis answered.
        """
        async with self._borrowed() as connection:
            return await _exchange(connection, commands)

    @contextlib.asynccontextmanager
    async def _borrowed(self) -> AsyncGenerator[AbstractConnection, None]:
        """A connection of the pool, open."""
        await self._enter()
        try:
            connection = await self._connected()
            try:
                yield connection
            finally:
                self._give_back(connection)
        except StoreUnreachable as error:
            self._trouble = error
            raise
        except LOST as error:
            self._trouble = StoreUnavailable(f"redis does not answer: {error}")
            raise
        else:
            self._trouble = None
        finally:
            self._slots.release()

    async def _enter(self) -> None:
        """Wait for one's turn, if all connections are taken.

        Raises:
            StoreBusy: It did not come, though Redis answers.
            StoreUnavailable: It did not come, since Redis does not answer those before.
        """
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(SLOT_WAIT_S):
                await self._slots.acquire()
        except TimeoutError:
            if self._trouble is not None:
                raise type(self._trouble)(self._trouble.message) from self._trouble
            words = f"no connection to redis became free in {SLOT_WAIT_S:g} s"
            raise StoreBusy(words, retry_after_s=BUSY_RETRY_S) from None

    async def _connected(self) -> AbstractConnection:
        connection = await self._take_idle()
        if connection is None:
            connection = self.make_connection()
            try:
                await open_connection(connection)
            except BaseException as error:
                await connection.disconnect(nowait=True)
                if isinstance(error, (redis_errors.ResponseError, *LOST)):
                    raise StoreUnreachable(f"redis cannot be reached: {error}") from error
                raise
        self._lent.add(connection)
        return connection

    async def _take_idle(self) -> AbstractConnection | None:
        """The connection that was used last, unless it may be half-open by now."""
        while self._idle:
            connection, since = self._idle.pop()
            idle_s = asyncio.get_running_loop().time() - since
            if idle_s < IDLE_MAX_S and not await connection.can_read():
                return connection
            await connection.disconnect(nowait=True)
        return None

    def _give_back(self, connection: AbstractConnection) -> None:
        """Keep a connection for the next call, unless it was closed meanwhile."""
        if connection in self._lent and connection.is_connected:
            self._idle.append((connection, asyncio.get_running_loop().time()))
        self._lent.discard(connection)


def _raise_unless_resent(error: Exception) -> None:
    remedy = remedy_of(error)
    if remedy is Remedy.GIVE_UP:
        raise StoreUnavailable(f"redis refuses: {error}") from error
    if remedy is not Remedy.RESEND:
        raise error


@contextlib.contextmanager
def heeding_cancels() -> Iterator[None]:
    """Raise the cancellation that came during the block and did not come out of it.

    The driver sends within `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that
    comes when the sending is done and its waiter has not run yet: a loop would go on for ever.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    except Exception as error:
        if task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError


async def _exchange(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """Send commands and read their replies; a connection that is out of step is closed."""
    try:
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(began + REPLY_TIMEOUT_S) as limit:
            packed = b"".join(map(_pack, commands))
            await connection.send_packed_command(packed, check_health=False)
            return await _replies(connection, len(commands), limit, began)
    except redis_errors.ResponseError as error:
        if remedy_of(error) is Remedy.RESEND:
            await connection.disconnect(nowait=True)
        raise
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


def _pack(command: Command) -> bytes:
    packed: bytes = pack_command(tuple(command))  # type: ignore[arg-type] # the stub has 1-tuples
    return packed


async def open_connection(connection: AbstractConnection) -> None:
    """Connect; LOST where that fails. Whoever uses it looks at the time from then on."""
    with heeding_cancels():
        await connection.connect()  # type: ignore[no-untyped-call]
        receive_in_place(connection)
    connection.socket_timeout = None


async def _replies(
    connection: AbstractConnection, count: int, limit: asyncio.Timeout, began: float
) -> list[Any]:
    """Read all replies, so that the connection stays usable, then raise the first error.

    Args:
        limit: Of one reply; many come at once, and a timer for each would cost more than the reply.
        began: When the limit began, by the clock of the loop.
    """
    clock = asyncio.get_running_loop().time
    heard = began
    replies: list[Any] = []
    failure: redis_errors.ResponseError | None = None
    for _ in range(count):
        if clock() - heard > REPLY_HEARD_S:
            heard = clock()
            limit.reschedule(heard + REPLY_TIMEOUT_S)
        try:
            replies.append(await connection.read_response())
        except redis_errors.ResponseError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return replies
