"""taskiq with taskiq-redis: coroutines, the broker on streams, which acknowledges; no results.

A worker takes as many entries at once as it is told, busy or not: many of short tasks, of long ones
one, so that the other workers have some too.
"""

from __future__ import annotations

import asyncio

from producing import at_once, serve_async
from reporting import HELD_S, REDIS_URL, SHORT_TASKS, STEP_S, begun, ended
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(REDIS_URL, xread_count=100 if SHORT_TASKS else 1)


@broker.task
async def noop(payload: str) -> None:
    """Do nothing."""
    ended(payload)


@broker.task
async def sleep(payload: str) -> None:
    """Wait as for a service."""
    await asyncio.sleep(STEP_S)
    ended(payload)


@broker.task
async def hold(payload: str) -> None:
    """Say when it begins, and wait."""
    begun(payload)
    await asyncio.sleep(HELD_S)
    ended(payload)


KINDS = {"noop": noop, "sleep": sleep, "hold": hold}


async def enqueue(kind: str, payloads: list[str]) -> None:
    """Enqueue many at a time."""
    await at_once(KINDS[kind].kiq, payloads)


async def main() -> None:
    """Enqueue what the driver asks for."""
    await broker.startup()
    await serve_async(enqueue)


def produce() -> None:
    """Be the enqueuing process."""
    asyncio.run(main())
