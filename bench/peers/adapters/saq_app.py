"""SAQ: coroutines, a blocking move from list to list for each job."""

from __future__ import annotations

import asyncio
from typing import Any

from producing import at_once, serve_async
from reporting import HELD_S, REDIS_URL, SLOTS, STEP_S, begun, ended
from saq import Queue


async def noop(_ctx: dict[str, Any], *, payload: str) -> None:
    """Do nothing."""
    ended(payload)


async def sleep(_ctx: dict[str, Any], *, payload: str) -> None:
    """Wait as for a service."""
    await asyncio.sleep(STEP_S)
    ended(payload)


async def hold(_ctx: dict[str, Any], *, payload: str) -> None:
    """Say when it begins, and wait."""
    begun(payload)
    await asyncio.sleep(HELD_S)
    ended(payload)


queue = Queue.from_url(REDIS_URL)
settings = {"queue": queue, "functions": [noop, sleep, hold], "concurrency": SLOTS}


async def main() -> None:
    """Enqueue what the driver asks for."""
    await queue.connect()

    async def enqueue(kind: str, payloads: list[str]) -> None:
        await at_once(lambda payload: queue.enqueue(kind, payload=payload), payloads)

    await serve_async(enqueue)


def produce() -> None:
    """Be the enqueuing process."""
    asyncio.run(main())
