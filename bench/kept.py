"""What Redis keeps of a task, by what it says of each key.

The difference of used_memory before and after some thousand tasks would say the same, were it not
for tables that double: it was between 1,310 and 2,090 bytes from one 5,000 tasks to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from stepstream_dispatcher.store.keys import Keys

__all__ = ["finished_bytes", "queued_bytes"]

TASKS: Final = 100  # that are looked at
KEYS: Final = Keys()


async def queued_bytes(redis: Any, queue: str) -> float:
    """Bytes for each queued task: its keys, and its share of lane, index and tables."""
    lane = KEYS.stream(queue)
    entries = await redis.xrevrange(lane, count=TASKS)
    own = await _own_bytes(redis, [fields[b"task"].decode() for _, fields in entries])
    in_lane = float(await redis.memory_usage(lane, samples=0)) / int(await redis.xlen(lane))
    return own + in_lane + await _in_set(redis, KEYS.index)


async def finished_bytes(redis: Any) -> float:
    """Bytes for each ended task: its keys, and its share of index, ended set and tables."""
    members = await redis.zrevrange(KEYS.ended, 0, TASKS - 1)
    own = await _own_bytes(redis, [member.decode().split()[1] for member in members])
    return own + await _in_set(redis, KEYS.index) + await _in_set(redis, KEYS.ended)


async def _own_bytes(redis: Any, task_ids: Sequence[str]) -> float:
    """What the keys of a task take that there are, with what the server's tables take for them."""
    names = [name for one in task_ids for name in KEYS.of_task(one)]
    sizes = [await redis.memory_usage(name, samples=0) for name in names]
    there = [size for size in sizes if size is not None]
    return float(sum(there) + len(there) * await _in_tables(redis)) / len(task_ids)


async def _in_set(redis: Any, name: str) -> float:
    return float(await redis.memory_usage(name, samples=0)) / int(await redis.zcard(name))


async def _in_tables(redis: Any) -> float:
    """What the server's own tables of keys and expiries take for a key."""
    overhead: dict[str, int] = (await redis.memory_stats())["db.0"]
    return sum(overhead.values()) / int(await redis.dbsize())
