"""What Redis keeps of a task, by what it says of each key.

The difference of used_memory before and after some thousand tasks would say the same, were it not
for tables that double: it was between 1,310 and 2,090 bytes from one 5,000 tasks to the next.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
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
    in_lane = await _usage(redis, lane) / int(await redis.xlen(lane))
    return own + in_lane + await _in_set(redis, KEYS.index) + await _in_tables(redis)


async def finished_bytes(redis: Any) -> float:
    """Bytes for each ended task: its keys, and its share of index, ended set and tables."""
    members = await redis.zrevrange(KEYS.ended, 0, TASKS - 1)
    own = await _own_bytes(redis, [member.decode().split()[1] for member in members])
    in_sets = await _in_set(redis, KEYS.index) + await _in_set(redis, KEYS.ended)
    return own + in_sets + await _in_tables(redis)


async def _own_bytes(redis: Any, task_ids: Sequence[str]) -> float:
    return statistics.fmean(
        [sum([await _usage(redis, name) for name in _names(one)]) for one in task_ids]
    )


def _names(task_id: str) -> Iterable[str]:
    return KEYS.record(task_id), KEYS.data(task_id), KEYS.history(task_id)


async def _in_set(redis: Any, name: str) -> float:
    return await _usage(redis, name) / int(await redis.zcard(name))


async def _in_tables(redis: Any) -> float:
    """What the server's own tables of keys and expiries take for the three keys of a task."""
    overhead: dict[str, int] = (await redis.memory_stats())["db.0"]
    return 3 * sum(overhead.values()) / int(await redis.dbsize())


async def _usage(redis: Any, name: str) -> float:
    return float(await redis.memory_usage(name, samples=0))
