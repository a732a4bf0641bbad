"""streaQ: coroutines, tasks enqueued in pipelines, results not kept."""

from __future__ import annotations

import asyncio

from producing import at_once, batches, serve_async
from reporting import HELD_S, REDIS_URL, SLOTS, STEP_S, begun, ended
from streaq import Worker

BATCH = 250

worker = Worker(redis_url=REDIS_URL, concurrency=SLOTS)


@worker.task(ttl=0)
async def noop(payload: str) -> None:
    """Do nothing."""
    ended(payload)


@worker.task(ttl=0)
async def sleep(payload: str) -> None:
    """Wait as for a service."""
    await asyncio.sleep(STEP_S)
    ended(payload)


@worker.task(ttl=0)
async def hold(payload: str) -> None:
    """Say when it begins, and wait."""
    begun(payload)
    await asyncio.sleep(HELD_S)
    ended(payload)


@worker.task
async def step(payload: str) -> str:
    """Wait as for a service, and hand the payload to the next step."""
    await asyncio.sleep(STEP_S)
    return payload


KINDS = {"noop": noop, "sleep": sleep, "hold": hold}


async def enqueue(kind: str, payloads: list[str]) -> None:
    """Enqueue batches, or chains one by one, as its documentation asks for."""
    if kind == "chain":
        await at_once(chain, payloads)
        return
    for batch in batches(payloads, BATCH):
        await worker.enqueue_many([KINDS[kind].enqueue(payload) for payload in batch])


async def chain(payload: str) -> None:
    """Enqueue three steps that follow each other."""
    await step.enqueue(payload).then(step).then(sleep)


async def main() -> None:
    """Enqueue what the driver asks for."""
    async with worker:
        await serve_async(enqueue)


def produce() -> None:
    """Be the enqueuing process."""
    asyncio.run(main())
