"""Pub/sub under our own supervision: whoever listens learns when messages may have been missed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from stepstream_dispatcher.store.codec import decode_published, published_by
from stepstream_dispatcher.store.keys import Keys
from stepstream_dispatcher.store.port import Signal
from stepstream_dispatcher.store.redis_link import LOST, Link, open_connection

__all__ = ["RedisSignals"]

PING_INTERVAL_S: Final = 5.0  # a silent connection is pinged; silent for another interval: dropped
SUBSCRIBE_TIMEOUT_S: Final = 2.5
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0


class RedisSignals:
    """Listens on the channels of one dispatcher.

    Args:
        link: Makes the connections; each listener has its own.
        keys: Names.
        dispatcher_id: Whose intents are heard, and whose own events are not.
    """

    def __init__(self, link: Link, keys: Keys, *, dispatcher_id: str) -> None:
        self._link = link
        self._intents = keys.dispatcher(dispatcher_id)
        self._events = keys.events
        self._own = published_by(dispatcher_id)

    async def listen(self, *, events: bool, own: bool = False) -> AsyncGenerator[Signal, None]:
        """See Store.signals. Every (re)connection begins with a resync; ends only by closing.

        Args:
            own: Hear this dispatcher's own events too.
        """
        channels = [self._intents, self._events] if events else [self._intents]
        backoff_s = BACKOFF_FIRST_S
        while True:
            connection = self._link.make_connection()
            try:
                await _subscribe(connection, channels)
                backoff_s = BACKOFF_FIRST_S
                yield Signal("resync")
                async with aclosing(_messages(connection)) as messages:
                    async for message in messages:
                        if (signal := self._signal(message, own=own)) is not None:
                            yield signal
            except (*LOST, redis_errors.RedisError):
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            finally:
                await connection.disconnect(nowait=True)

    def _signal(self, message: list[Any], *, own: bool) -> Signal | None:
        channel, payload = message[1], message[2]
        if channel == self._intents.encode():
            return Signal("intent", payload=payload)
        if payload.startswith(self._own) and not own:
            return None
        try:
            task_id, event = decode_published(payload)
        except (msgspec.DecodeError, KeyError):  # not ours, or of a newer release
            return None
        return Signal("event", task_id=task_id, event=event)


async def _subscribe(connection: AbstractConnection, channels: list[str]) -> None:
    async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
        await open_connection(connection)
        await connection.send_command("SUBSCRIBE", *channels, check_health=False)
        for _ in channels:
            await connection.read_response()


async def _messages(connection: AbstractConnection) -> AsyncGenerator[list[Any], None]:
    """Yield published messages until the connection is lost or does not answer a ping."""
    pinged = False
    while True:
        try:
            async with asyncio.timeout(PING_INTERVAL_S):
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
        except TimeoutError:
            if pinged:
                raise
            async with asyncio.timeout(PING_INTERVAL_S):
                await connection.send_command("PING", check_health=False)
            pinged = True
            continue
        pinged = False
        if reply[0] == b"message":
            yield reply
