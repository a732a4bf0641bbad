"""The final truth of a run, read out of Redis at rest, and the audit of what lies there."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

from stepstream_dispatcher.core.record import TERMINAL_STATES, EventType
from stepstream_dispatcher.store.keys import GROUP, Keys
from tests.chaos.checker import DECISIONS, STEP_ENDED
from tests.chaos.history import Truth
from tests.support.recount import Recount, recount

__all__ = ["audit", "read_truth", "unsettled"]

LANES = ("default", "work")
AFTER_CANCEL = "cancelled after it completed"  # a step that is recorded with the end of its task
SINGLE = {"index", "count", "delayed", "ended", "dispatchers", "workers", "paused", "draining"}
SINGLE |= {"pipelines", "stream", "stream:work", "state:failed", "state:human_review"}
SINGLE |= {"sweep", "swept"}


async def unsettled(redis: Any, accepted: Iterable[str]) -> dict[str, int]:
    """What keeps a run from being at rest; empty when nothing does."""
    keys = Keys()
    found = {
        "live": int(await redis.hget(keys.count, "live") or 0),
        "delayed": int(await redis.zcard(keys.delayed)),
    }
    for queue in LANES:
        if await redis.exists(keys.stream(queue)):
            found[queue] = int(await redis.xlen(keys.stream(queue)))
    listed = {one.decode() for one in await redis.zrange(keys.index, 0, -1)}
    found["accepted and not there"] = len(set(accepted) - listed)
    return {name: count for name, count in found.items() if count}


async def read_truth(redis: Any) -> tuple[dict[str, Truth], Recount]:
    """Every task that Redis has; `redis` answers bytes."""
    counted = await recount(redis)
    truth = {
        task: Truth(
            state=record["state"],
            version=int(record["version"]),
            events=counted.histories[task],
            journaled="journal" in record,
        )
        for task, record in counted.records.items()
    }
    return truth, counted


async def audit(redis: Any, counted: Recount) -> list[str]:
    """What does not agree with the records, or belongs to nobody; empty when all is well."""
    found = []
    if counted.kept != counted.counted:
        found.append(f"counts are {counted.kept}, records say {counted.counted}")
    found += [f"lane {words}" for words in await _lanes(redis)]
    indexes = {
        "index": (await _members(redis, Keys().index), set(counted.records)),
        "delayed": (await _members(redis, Keys().delayed), _in_stage(counted, "delayed")),
        "ended": (
            {one.rpartition(" ")[2] for one in await _members(redis, Keys().ended)},
            _in_stage(counted, "ended"),
        ),
        "failed": (await _members(redis, Keys().state("failed")), _in_state(counted, "failed")),
        "human_review": (
            await _members(redis, Keys().state("human_review")),
            _in_state(counted, "human_review"),
        ),
    }
    for name, (kept, told) in indexes.items():
        found += [f"{name} has {task}, its record says otherwise" for task in kept - told]
        found += [f"{name} lacks {task}" for task in told - kept]
    found += [f"key without owner: {key}" async for key in _orphans(redis, counted)]
    processed, steps = counted.worker_totals[0], _steps(counted)
    if processed != steps:
        found.append(f"workers count {processed} steps, histories {steps}")
    live = [task for task, one in counted.records.items() if one["state"] not in TERMINAL_STATES]
    return found + [f"{task} has not ended" for task in live]


def _in_stage(counted: Recount, stage: str) -> set[str]:
    return {task for task, record in counted.records.items() if record["stage"] == stage}


def _in_state(counted: Recount, state: str) -> set[str]:
    return {task for task, record in counted.records.items() if record["state"] == state}


async def _members(redis: Any, key: str) -> set[str]:
    return {one.decode() for one in await redis.zrange(key, 0, -1)}


async def _lanes(redis: Any) -> list[str]:
    found = []
    for queue in LANES:
        lane = Keys().stream(queue)
        if not await redis.exists(lane):
            continue
        if length := await redis.xlen(lane):
            found.append(f"{queue} has {length} entries")
        found += [
            f"{queue}: {one['name'].decode()} has {one['pending']} pending"
            for one in await redis.xinfo_consumers(lane, GROUP)
            if one["pending"]
        ]
    return found


async def _orphans(redis: Any, counted: Recount) -> AsyncIterator[str]:
    workers = await _members(redis, Keys().workers)
    async for raw in redis.scan_iter(match="*", count=1000):
        key = raw.decode()
        kind, _, name = key.removeprefix("task:").partition(":")
        owned = {
            "record": name in counted.records,
            "data": name in counted.records,
            "input": name in counted.records,
            "history": name in counted.records,
            "worker": name in workers,
            "minute": True,  # expires by itself
        }
        if not owned.get(kind, key.removeprefix("task:") in SINGLE):
            yield key


def _steps(counted: Recount) -> int:
    """Results of workers by the histories."""
    kinds = Counter(
        (event.type in STEP_ENDED and event.detail not in DECISIONS)
        or (event.type is EventType.CANCELLED and event.detail == AFTER_CANCEL)
        for events in counted.histories.values()
        for event in events
    )
    return kinds[True]
