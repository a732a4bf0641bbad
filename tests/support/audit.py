"""Compares the indexes of a Redis at rest with what its records say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import redis.asyncio

from stepstream_dispatcher.core.record import TERMINAL_STATES, Event, EventType
from stepstream_dispatcher.store.keys import GROUP, Keys

__all__ = ["audit"]

STEP_ENDED = {EventType.COMPLETED, EventType.WAITING, EventType.DONE}
NEW_RUN = {EventType.REVIEWED, EventType.REDRIVEN}
QUEUES = ("default", "work")

_decoder = msgspec.msgpack.Decoder(Event)


class Told(msgspec.Struct):
    """What is kept of one task."""

    record: dict[str, str]
    events: list[Event]


async def audit(url: str) -> list[str]:
    """Lists what does not agree; empty when all does.

    Nothing may be running. Of each task: a history without a hole up to the record's version, and
    no step completed twice in one run. Over all: the index, the counts, the lanes, the delayed set
    and the counters of workers agree with the records.
    """
    connection: Any = redis.asyncio.Redis.from_url(url)
    try:
        tasks = await _tasks(connection)
        delayed = await connection.zrange(Keys().delayed, 0, -1)
        found = [words for task_id, told in tasks.items() for words in _of_task(task_id, told)]
        found += _of_delayed(tasks, {one.decode() for one in delayed})
        found += _of_counts(tasks, await _hash(connection, Keys().count))
        found += await _of_lanes(connection)
        found += await _of_workers(connection, tasks)
    finally:
        await connection.aclose()
    return found


async def _tasks(connection: Any) -> dict[str, Told]:
    keys = Keys()
    tasks: dict[str, Told] = {}
    for one in await connection.zrange(keys.index, 0, -1):
        task_id = one.decode()
        packed = await connection.lrange(keys.history(task_id), 0, -1)
        record = await _hash(connection, keys.record(task_id))
        tasks[task_id] = Told(record, [_decoder.decode(event) for event in packed])
    return tasks


async def _hash(connection: Any, key: str) -> dict[str, str]:
    fields = await connection.hgetall(key)
    return {name.decode(): value.decode() for name, value in fields.items()}


def _of_task(task_id: str, told: Told) -> Iterator[str]:
    version = int(told.record.get("version", 0))
    sequences = [event.sequence for event in told.events]
    expected = range(1, version + 1) if sequences or version != 1 else ()  # its record tells it
    if sequences != list(expected):
        yield f"{task_id}: version {version}, history {sequences}"
    run, steps, ends = 0, Counter[tuple[int, str]](), Counter[int]()
    for event in told.events:
        run += event.type in NEW_RUN
        steps[run, event.step] += event.type in STEP_ENDED
        ends[run] += event.state in TERMINAL_STATES
    yield from (f"{task_id}: {key} completed {n} times" for key, n in steps.items() if n > 1)
    yield from (f"{task_id}: ended {n} times" for n in ends.values() if n > 1)


def _of_delayed(tasks: dict[str, Told], delayed: set[str]) -> Iterator[str]:
    waiting = {one for one, told in tasks.items() if told.record.get("stage") == "delayed"}
    if waiting != delayed:
        yield f"delayed are {sorted(delayed)}, records say {sorted(waiting)}"


def _of_counts(tasks: dict[str, Told], counts: dict[str, str]) -> Iterator[str]:
    states = Counter(told.record.get("state", "") for told in tasks.values())
    counted = {name: int(n) for name, n in counts.items() if n != "0"}
    live = counted.pop("live", 0)
    counted.pop("retries", None)
    for name in ("entries", "timers", "listed"):
        counted.pop(name, None)
    if counted != states:
        yield f"counts are {counted}, records say {dict(states)}"
    if live != sum(n for state, n in states.items() if state not in TERMINAL_STATES):
        yield f"live is {live}, records say {dict(states)}"


async def _of_lanes(connection: Any) -> list[str]:
    found: list[str] = []
    for queue in QUEUES:
        lane = Keys().stream(queue)
        if await connection.exists(lane):
            length = await connection.xlen(lane)
            pending = (await connection.xpending(lane, GROUP))["pending"]
            if length or pending:
                found.append(f"lane {queue} has {length} entries, {pending} pending")
    return found


async def _of_workers(connection: Any, tasks: dict[str, Told]) -> Iterator[str]:
    keys, processed = Keys(), 0
    for name in await connection.zrange(keys.workers, 0, -1):
        fields = await _hash(connection, keys.worker(name.decode()))
        processed += int(fields.get("processed", 0))
    completed = sum(
        event.type in STEP_ENDED and event.detail not in {"approved", "edited"}
        for told in tasks.values()
        for event in told.events
    )
    return iter(
        [f"workers count {processed} steps, histories {completed}"] * (processed != completed)
    )
