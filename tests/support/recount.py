"""What Redis says of all tasks, counted again from their records and histories."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec

from stepstream_dispatcher.core.record import Event, EventType
from stepstream_dispatcher.store.codec import decode_event

__all__ = ["Recount", "recount"]

SETTLED: Final = {EventType.COMPLETED, EventType.DONE}  # of a worker's step, in these pipelines
SIZES: Final = {"entries", "timers", "listed"}  # counted for repairs alone
FAILED: Final = {EventType.RETRYING, EventType.LOST, EventType.FAILED}


class Recount(msgspec.Struct, frozen=True, kw_only=True):
    """Two views of the same: as kept, and as counted."""

    records: dict[str, dict[str, str]]
    histories: dict[str, list[Event]]
    kept: dict[str, int]  # task:count, without zeros
    worker_totals: tuple[int, int]  # processed, failed: sums over the workers' counters
    entries: int  # in all lanes
    pending: int  # in all groups

    @property
    def counted(self) -> dict[str, int]:
        """What task:count should be by the records and histories."""
        counts = Counter(record["state"] for record in self.records.values())
        counts["live"] = sum(record["stage"] != "ended" for record in self.records.values())
        counts["retries"] = sum(event.type is EventType.RETRYING for event in self._events())
        return {name: count for name, count in counts.items() if count}

    @property
    def steps_recorded(self) -> tuple[int, int]:
        """Attempts that ended well and badly, by the histories."""
        types = Counter(event.type for event in self._events())
        return sum(types[one] for one in SETTLED), sum(types[one] for one in FAILED)

    @property
    def twice(self) -> list[str]:
        """Tasks of which a step was completed more than once, or events are out of order."""
        return [task_id for task_id, events in self.histories.items() if _is_odd(events)]

    def _events(self) -> list[Event]:
        return [event for events in self.histories.values() for event in events]


def _is_odd(events: list[Event]) -> bool:
    steps = Counter(event.step for event in events if event.type in SETTLED)
    numbers = [event.sequence for event in events]
    return max(steps.values(), default=0) > 1 or numbers != list(range(1, len(events) + 1))


async def recount(redis: Any) -> Recount:
    """Read everything; `redis` answers bytes."""
    records, histories = {}, {}
    async for key in redis.scan_iter(match="task:record:*", count=1000):
        task_id = key.decode().rpartition(":")[2]
        fields = await redis.hgetall(key)
        records[task_id] = {name.decode(): value.decode() for name, value in fields.items()}
        packed = await redis.lrange(f"task:history:{task_id}", 0, -1)
        histories[task_id] = [decode_event(one) for one in packed]
    counts = await redis.hgetall("task:count")
    workers = [
        await redis.hmget(key, "processed", "failed")
        async for key in redis.scan_iter(match="task:worker:*")
    ]
    lanes = [key async for key in redis.scan_iter(match="task:stream*", _type="stream", count=1000)]
    groups = [group for lane in lanes for group in await redis.xinfo_groups(lane)]
    return Recount(
        records=records,
        histories=histories,
        kept={
            name.decode(): int(n)
            for name, n in counts.items()
            if int(n) and name.decode() not in SIZES
        },
        worker_totals=(
            sum(int(processed or 0) for processed, _ in workers),
            sum(int(failed or 0) for _, failed in workers),
        ),
        entries=sum([await redis.xlen(lane) for lane in lanes]),
        pending=sum(group["pending"] for group in groups),
    )
