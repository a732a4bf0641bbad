"""How long a destroyed lane takes to heal, and what the sweep takes of Redis.

Run it with `python -m bench.repair [TASKS]`: 99,000 unless it is said otherwise.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable
from typing import Any, Final

from bench.system import System
from stepstream import AsyncClient, SubmitItem
from stepstream_dispatcher.store.keys import Keys

TASKS: Final = 99_000  # the default of STEPSTREAM_QUEUE_MAX is 100,000
BATCH: Final = 200  # tasks of one SubmitBatch
CALLERS: Final = 8
LOOK_S: Final = 0.2
LIMIT_S: Final = 600.0
QUEUE: Final = "bench"


async def main() -> None:
    """Fill a queue that nobody serves, sweep it whole, then destroy its lane."""
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else TASKS
    with System() as system:
        redis = system.redis()
        async with AsyncClient(system.address) as client:
            await _fill(client, tasks)
            lane = Keys().stream(QUEUE)
            print(f"{tasks} live tasks, {await redis.xlen(lane)} entries in {lane}")
            await _measure(redis, "nothing to repair", client.operator.repair())
            lost = await redis.xtrim(lane, maxlen=0, approximate=False)
            await _measure(redis, f"{lost} entries trimmed away", _healed(redis, lane, tasks))
        await redis.aclose()


async def _fill(client: AsyncClient, tasks: int) -> None:
    parts = iter([range(at, min(at + BATCH, tasks)) for at in range(0, tasks, BATCH)])

    async def submit() -> None:
        for part in parts:
            await client.submit_batch([SubmitItem(pipeline="noop", input={"n": n}) for n in part])

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(submit())


async def _measure(redis: Any, what: str, work: Awaitable[object]) -> None:
    before, began = await _spent(redis), time.monotonic()
    await work
    took_s, spent_s = time.monotonic() - began, await _spent(redis) - before
    print(f"{what}: {took_s:.1f} s, Redis was busy for {spent_s / took_s:.1%} of that")


async def _healed(redis: Any, lane: str, entries: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await redis.xlen(lane) < entries:  # noqa: ASYNC110 - Redis does not announce it
            await asyncio.sleep(LOOK_S)


async def _spent(redis: Any) -> float:
    """Seconds of processor time of the server's main thread, which carries out all commands."""
    stats = await redis.info("cpu")
    return float(stats["used_cpu_user_main_thread"] + stats["used_cpu_sys_main_thread"])


if __name__ == "__main__":
    asyncio.run(main())
