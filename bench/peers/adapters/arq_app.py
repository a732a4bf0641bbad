"""arq: coroutines, results not kept, a short pause between two looks at the queue."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings
from producing import at_once, serve_async
from reporting import HELD_S, REDIS_URL, SLOTS, STEP_S, begun, ended


async def noop(_ctx: dict[str, Any], payload: str) -> None:
    """Do nothing."""
    ended(payload)


async def sleep(_ctx: dict[str, Any], payload: str) -> None:
    """Wait as for a service."""
    await asyncio.sleep(STEP_S)
    ended(payload)


async def hold(_ctx: dict[str, Any], payload: str) -> None:
    """Say when it begins, and wait."""
    begun(payload)
    await asyncio.sleep(HELD_S)
    ended(payload)


class WorkerSettings:
    """What `arq arq_app.WorkerSettings` runs."""

    functions: ClassVar = [noop, sleep, hold]
    redis_settings = RedisSettings.from_dsn(REDIS_URL)
    max_jobs = SLOTS
    keep_result = 0
    poll_delay = 0.01
    log_results = False


async def main() -> None:
    """Enqueue what the driver asks for."""
    pool = await create_pool(WorkerSettings.redis_settings)

    async def enqueue(kind: str, payloads: list[str]) -> None:
        await at_once(lambda payload: pool.enqueue_job(kind, payload), payloads)

    await serve_async(enqueue)


def produce() -> None:
    """Be the enqueuing process."""
    asyncio.run(main())
