"""One PING on a fresh connection: is Redis there, slow, or gone?"""

from __future__ import annotations

import asyncio
from typing import Final

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.store.port import StoreUnreachable
from stepstream_dispatcher.store.redis_link import open_connection

__all__ = ["ping_afresh"]

PING_TIMEOUT_S: Final = 10.0  # a server that takes 2 s for each answer of the handshake is slow


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
    except (redis_errors.TimeoutError, TimeoutError) as error:
        kind = StoreUnavailable if reached.is_set() else StoreUnreachable
        raise kind(f"redis does not answer: {error}") from error
    except redis_errors.AuthenticationError as error:
        raise StoreUnavailable(f"redis refuses us: {error}") from error
    except (redis_errors.ConnectionError, OSError) as error:
        raise StoreUnreachable(f"redis cannot be reached: {error}") from error
    except redis_errors.RedisError as error:
        raise StoreUnavailable(f"redis refuses a PING: {error}") from error
    finally:
        await connection.disconnect(nowait=True)


def _note_when_connected(connection: AbstractConnection, reached: asyncio.Event) -> None:
    async def greet(fresh: AbstractConnection) -> None:
        reached.set()
        await fresh.on_connect()

    connection.redis_connect_func = greet  # type: ignore[assignment] # the stub wants a protocol
