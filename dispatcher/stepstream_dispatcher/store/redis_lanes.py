"""The lanes: streams read through one consumer group, and the one connection that may block."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.store.keys import GROUP, Keys
from stepstream_dispatcher.store.port import Entry
from stepstream_dispatcher.store.redis_errors import Remedy, remedy_of
from stepstream_dispatcher.store.redis_link import (
    LOST,
    REPLY_TIMEOUT_S,
    Link,
    open_connection,
)
from stepstream_dispatcher.store.redis_scripts import DISCARD, keep

__all__ = ["RedisLanes"]

DISCARD_MAX: Final = 500  # entries of a call; bounds how long it holds Redis
WAKE_TRIES: Final = 100  # a wait that was just sent is not blocked yet
WAKE_INTERVAL_S: Final = 0.002


class RedisLanes:
    """Takes entries from lanes for one consumer.

    Args:
        link: Connections for all but the blocking wait.
        keys: Names.
        consumer: The dispatcher's id.
    """

    def __init__(self, link: Link, keys: Keys, *, consumer: str) -> None:
        self._link = link
        self._keys = keys
        self._consumer = consumer
        self._queues: dict[str, None] = {}  # every queue ever ensured, in order
        self._waiter = _Waiter(link)
        self.made = 0  # groups that were missing, since the process began

    @property
    def lanes(self) -> list[str]:
        """Keys of every lane that was ever ensured."""
        return [self._keys.stream(queue) for queue in self._queues]

    async def close(self) -> None:
        """Close the blocking connection. Idempotent."""
        await self._waiter.close()

    async def ensure(self, queues: Sequence[str]) -> None:
        """See Store.ensure_lanes."""
        self._queues |= dict.fromkeys(queues)
        for queue in queues:
            try:
                lane = self._keys.stream(queue)
                await keep(self._link, [lane], ("XGROUP", "CREATE", lane, GROUP, "0", "MKSTREAM"))
                self.made += 1
            except redis_errors.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read(self, queue: str, count: int) -> list[Entry]:
        """See Store.read. Not repeated: a lost reply leaves the entries pending for us."""
        command = self._reading([queue], "COUNT", str(count))
        try:
            (reply,) = await self._once(command)
        except redis_errors.ResponseError as error:
            await self._restore([queue], error)
            (reply,) = await self._once(command)
        return self._entries(reply, [queue])

    async def wait(self, queues: Sequence[str], *, count: int, timeout_s: float) -> list[Entry]:
        """See Store.wait."""
        block_ms = max(1, int(timeout_s * 1000))  # 0 would wait for ever
        command = self._reading(queues, "COUNT", str(count), "BLOCK", str(block_ms))
        limit_s = timeout_s + REPLY_TIMEOUT_S
        try:
            reply = await self._waiter.wait(command, limit_s=limit_s)
        except redis_errors.ResponseError as error:
            await self._restore(queues, error)
            reply = await self._waiter.wait(command, limit_s=limit_s)
        return self._entries(reply, queues)

    async def wake(self) -> None:
        """See Store.wake."""
        await self._waiter.wake()

    async def pending(self, queue: str, *, consumer: str, after: str, count: int) -> list[Entry]:
        """See Store.pending."""
        lane = self._keys.stream(queue)
        start = f"({after}" if after else "-"
        command = ("XPENDING", lane, GROUP, start, "+", str(count), consumer)
        try:
            (rows,) = await self._link.ask(command)
        except redis_errors.ResponseError as error:
            await self._restore([queue], error)
            return []
        if not rows:
            return []
        ids = [row[0] for row in rows]
        bodies = await self._link.ask(*(("XRANGE", lane, each, each) for each in ids))
        return [
            _entry(queue, each, body[0][1] if body else [])
            for each, body in zip(ids, bodies, strict=True)
        ]

    async def page(self, queue: str, *, after: str, count: int, delivered: bool) -> list[Entry]:
        """See RepairableStore.lane_page."""
        lane = self._keys.stream(queue)
        last = await self._last_delivered(lane) if delivered else "+"
        if last is None:
            return []
        start = f"({after}" if after else "-"
        (rows,) = await self._link.ask(("XRANGE", lane, start, last, "COUNT", str(count)))
        return [_entry(queue, entry_id, body) for entry_id, body in rows]

    async def _last_delivered(self, lane: str) -> str | None:
        """The last entry that was delivered to anybody; None: there is no group."""
        try:
            (groups,) = await self._link.ask(("XINFO", "GROUPS", lane))
        except redis_errors.ResponseError as error:
            if "no such key" in str(error):
                return None
            raise
        last = {about[1]: about[7] for about in groups}.get(GROUP.encode())
        return last.decode() if last else None

    async def discard(self, queue: str, entry_ids: Sequence[str]) -> None:
        """See Store.discard."""
        names = [self._keys.count, self._keys.stream(queue)]
        for start in range(0, len(entry_ids), DISCARD_MAX):
            part = entry_ids[start : start + DISCARD_MAX]
            await DISCARD.run(self._link, names, [GROUP, *part])

    def _reading(self, queues: Sequence[str], *options: str) -> tuple[str, ...]:
        lanes = [self._keys.stream(queue) for queue in queues]
        command = ("XREADGROUP", "GROUP", GROUP, self._consumer, *options, "STREAMS", *lanes)
        return (*command, *(">" for _ in lanes))

    async def _once(self, command: Sequence[str]) -> list[Any]:
        try:
            return await self._link.ask_once(command)
        except LOST as error:
            raise StoreUnavailable(f"redis does not answer: {error}") from error

    async def _restore(self, queues: Sequence[str], error: redis_errors.ResponseError) -> None:
        """Create lanes that are gone, so that the caller may try again; raise any other error."""
        if remedy_of(error) is Remedy.CREATE_GROUP:
            await self.ensure(queues)
        elif remedy_of(error) in {Remedy.RESEND, Remedy.GIVE_UP}:
            raise StoreUnavailable(f"redis refuses: {error}") from error
        else:
            raise error

    def _entries(self, reply: Any, queues: Sequence[str]) -> list[Entry]:
        queue_by_lane = {self._keys.stream(queue).encode(): queue for queue in queues}
        return [
            _entry(queue_by_lane[lane], entry_id, body or [])
            for lane, rows in reply or []
            for entry_id, body in rows
        ]


def _entry(queue: str, entry_id: bytes, body: list[bytes]) -> Entry:
    fields = dict(zip(body[::2], body[1::2], strict=True))
    return Entry(
        queue,
        entry_id.decode(),
        fields.get(b"task", b"").decode(),
        fields.get(b"step", b"").decode(),
    )


class _Waiter:
    """Blocks on a connection of its own; `wake` unblocks it from another one.

    A wake is never lost: it is noted first, and a wait looks at the note before it sends. Between
    sending and blocking in the server CLIENT UNBLOCK finds nobody, so it is repeated until it does
    or the wait is over.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._connection: AbstractConnection | None = None
        self._client_id = 0
        self._waiting = False
        self._wake_asked = False

    async def wait(self, command: Sequence[str], *, limit_s: float) -> Any:
        """Send a blocking command and return its reply; None when woken or timed out."""
        try:
            connection = self._connection or await self._connect()
            if self._wake_asked:
                return None
            self._waiting = True
            async with asyncio.timeout(limit_s):
                await connection.send_command(*command, check_health=False)
                return await connection.read_response(timeout=math.inf)
        except redis_errors.ResponseError as error:
            if str(error).startswith("UNBLOCKED"):
                return None
            raise
        except LOST as error:
            await self.close()
            raise StoreUnavailable(f"redis does not answer: {error}") from error
        except BaseException:
            await self.close()
            raise
        finally:
            self._waiting = self._wake_asked = False

    async def wake(self) -> None:
        """End the wait that is under way, or the next one at once."""
        self._wake_asked = True
        for _ in range(WAKE_TRIES):
            if not (self._waiting and self._wake_asked):
                return
            (unblocked,) = await self._link.ask(("CLIENT", "UNBLOCK", str(self._client_id)))
            if unblocked:
                return
            await asyncio.sleep(WAKE_INTERVAL_S)

    async def close(self) -> None:
        """Close the connection; the next wait opens another. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _connect(self) -> AbstractConnection:
        connection = self._link.make_connection()
        try:
            await open_connection(connection)
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await connection.send_command("CLIENT", "ID", check_health=False)
                self._client_id = await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection
        return connection
