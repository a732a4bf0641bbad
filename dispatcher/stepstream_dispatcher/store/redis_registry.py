"""Who is alive: dispatchers by their beats, workers by what was last saved about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from stepstream_dispatcher.store.codec import field_text
from stepstream_dispatcher.store.keys import GROUP, Keys
from stepstream_dispatcher.store.port import Intents
from stepstream_dispatcher.store.redis_link import Link, StoreClock
from stepstream_dispatcher.store.redis_scripts import FORGET, LEAVE, keep

__all__ = ["WORKER_KEPT_S", "RedisRegistry"]

WORKER_KEPT_S: Final = 600  # a worker stays listed for 10 min after it was last saved
LEFT_MAX: Final = 500  # workers a call of leave.lua; bounds how long it holds Redis
DISMISSAL_KEPT_S: Final = 25 * 3600  # the longest attempt takes 24 h


class RedisRegistry:
    """Reads and writes who is alive, by the clock of Redis.

    Args:
        link: Connections.
        keys: Names.
        clock: Learns the time at every beat.
        dispatcher_id: Who beats.
    """

    def __init__(self, link: Link, keys: Keys, clock: StoreClock, *, dispatcher_id: str) -> None:
        self._link = link
        self._keys = keys
        self._clock = clock
        self._dispatcher_id = dispatcher_id

    async def beat(self) -> None:
        """See Store.beat."""
        now_ms = await self.read_clock()
        key = self._keys.dispatchers
        await keep(self._link, [key], ("ZADD", key, now_ms, self._dispatcher_id))

    async def enlist(self, dispatcher_ids: Sequence[str]) -> None:
        """See RepairableStore.enlist."""
        now_ms = await self.read_clock()
        key = self._keys.dispatchers
        rows = [word for dispatcher_id in dispatcher_ids for word in (now_ms, dispatcher_id)]
        if rows:
            await keep(self._link, [key], ("ZADD", key, "NX", *rows))

    async def dispatchers(self) -> dict[str, int]:
        """See Store.dispatchers."""
        command = ("ZRANGE", self._keys.dispatchers, "0", "-1", "WITHSCORES")
        (seconds, microseconds), rows = await self._link.ask(("TIME",), command)
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        return {
            name.decode(): max(0, now_ms - int(float(beat_ms)))
            for name, beat_ms in zip(rows[::2], rows[1::2], strict=True)
        }

    async def forget_dispatcher(self, dispatcher_id: str, *, lanes: Sequence[str]) -> None:
        """See Store.forget_dispatcher."""
        await FORGET.run(self._link, [self._keys.dispatchers, *lanes], [GROUP, dispatcher_id])

    async def save_worker(self, name: str, fields: Mapping[str, str | int]) -> None:
        """See Store.save_worker."""
        key = self._keys.worker(name)
        flat = [part for field, value in fields.items() for part in (field, field_text(value))]
        now_ms = await self.read_clock()
        await keep(
            self._link,
            [key, self._keys.workers],
            ("HSET", key, *flat),
            ("EXPIRE", key, WORKER_KEPT_S),
            ("ZADD", self._keys.workers, now_ms, name),
        )

    async def mark_left(self, names: Sequence[str]) -> None:
        """See Store.mark_left."""
        now_ms = await self.read_clock()
        words = [self._dispatcher_id, str(now_ms), str(WORKER_KEPT_S)]
        for start in range(0, len(names), LEFT_MAX):
            part = names[start : start + LEFT_MAX]
            keys = [self._keys.workers, self._keys.draining, *map(self._keys.worker, part)]
            await LEAVE.run(self._link, keys, [*words, *part])

    async def workers(self) -> dict[str, dict[str, str]]:
        """See Store.workers. Drops the names of those that are gone."""
        oldest_ms = await self.read_clock() - WORKER_KEPT_S * 1000
        registry = self._keys.workers
        _, names = await self._link.ask(
            ("ZREMRANGEBYSCORE", registry, "-inf", str(oldest_ms)), ("ZRANGE", registry, "0", "-1")
        )
        if not names:
            return {}
        replies = await self._link.ask(
            *(("HGETALL", self._keys.worker(name.decode())) for name in names)
        )
        known = {}
        for name, reply in zip(names, replies, strict=True):
            texts = [text.decode() for text in reply]
            if texts:
                known[name.decode()] = dict(zip(texts[::2], texts[1::2], strict=True))
        return known

    async def pause(self, queue: str) -> None:
        """See Store.pause."""
        now_ms = await self.read_clock()
        key = self._keys.paused
        await keep(self._link, [key], ("ZADD", key, "NX", now_ms, queue))

    async def resume(self, queue: str) -> None:
        """See Store.resume."""
        await self._link.ask(("ZREM", self._keys.paused, queue))

    async def dismiss(self, instance_id: str) -> None:
        """See Store.dismiss. Drops those that must have left."""
        now_ms = await self.read_clock()
        oldest_ms = now_ms - DISMISSAL_KEPT_S * 1000
        key = self._keys.draining
        await keep(
            self._link,
            [key],
            ("ZADD", key, "NX", now_ms, instance_id),
            ("ZREMRANGEBYSCORE", key, "-inf", oldest_ms),
        )

    async def intents(self) -> Intents:
        """See Store.intents."""
        paused, draining = await self._link.ask(
            ("ZRANGE", self._keys.paused, "0", "-1", "WITHSCORES"),
            ("ZRANGE", self._keys.draining, "0", "-1"),
        )
        return Intents(
            paused={
                queue.decode(): int(float(since_ms))
                for queue, since_ms in zip(paused[::2], paused[1::2], strict=True)
            },
            draining=frozenset(instance_id.decode() for instance_id in draining),
        )

    async def read_clock(self) -> int:
        """Read the clock of Redis, in Unix milliseconds, and set ours by it."""
        sent_mono = self._clock.read()
        ((seconds, microseconds),) = await self._link.ask(("TIME",))
        return self._clock.observe(seconds, microseconds, sent_mono=sent_mono)
