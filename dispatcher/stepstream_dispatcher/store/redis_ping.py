"""One PING on a fresh connection: is Redis there, slow, or gone?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.store.port import StoreUnreachable
from stepstream_dispatcher.store.redis_link import open_connection

__all__ = ["ping_afresh"]

PING_TIMEOUT_S: Final = 10.0  # a server that takes 2 s for each answer of the handshake is slow

_TIMEOUTS: Final = (redis_errors.TimeoutError, TimeoutError)
# A server that speaks is there. That it still loads its data is no ResponseError of the driver.
_REFUSALS: Final = (redis_errors.ResponseError, redis_errors.AuthenticationError)


async def ping_afresh(connection: AbstractConnection) -> None:
    """Connect, PING, disconnect.

    A connection that is refused, reset, or not taken in time means that nobody listens; so does
    the answer that the data are being loaded. Silence after that is slowness: whoever took a
    connection may carry out what it was sent.

    Raises:
        StoreUnreachable: Redis is down.
        StoreUnavailable: Redis is connected and does not answer in time, or refuses us.
    """
    reached = asyncio.Event()
    _note_when_connected(connection, reached)
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await open_connection(connection)
            await connection.send_command("PING", check_health=False)
            await connection.read_response()
    except (redis_errors.RedisError, OSError) as error:
        raise _meaning(error, reached=reached.is_set()) from error
    finally:
        await connection.disconnect(nowait=True)


def _note_when_connected(connection: AbstractConnection, reached: asyncio.Event) -> None:
    """The handshake is `on_connect`; on a Unix socket the driver runs it as part of connecting."""
    shake_hands = connection.on_connect

    async def greet() -> None:
        reached.set()
        await shake_hands()

    async def greet_fresh(fresh: AbstractConnection) -> None:
        await fresh.on_connect()

    connection.on_connect = greet  # type: ignore[method-assign]
    connection.redis_connect_func = greet_fresh  # type: ignore[assignment] # wants a protocol


def _meaning(error: Exception, *, reached: bool) -> StoreUnavailable:
    causes = list(_causes(error))
    if any(isinstance(each, _TIMEOUTS) for each in causes):
        kind = StoreUnavailable if reached else StoreUnreachable
        return kind(f"redis does not answer: {error}")
    if any(isinstance(each, _REFUSALS) for each in causes):
        return StoreUnavailable(f"redis refuses us: {error}")
    return StoreUnreachable(f"redis cannot be reached: {error}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from: the driver wraps those of a handshake."""
    while error is not None:
        yield error
        error = error.__cause__
