"""Ours, the enqueuing process: batches, four of them under way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

from producing import batches, serve_async

from stepstream import AsyncClient
from stepstream.types import SubmitItem

BATCH = 250
SUBMITTERS = 4


async def main() -> None:
    """Enqueue what the driver asks for."""
    async with AsyncClient(os.environ["STEPSTREAM_ADDRESS"], timeout_s=60.0) as client:
        await client.stats()

        async def enqueue(kind: str, payloads: list[str]) -> None:
            left = batches(payloads, BATCH)
            async with asyncio.TaskGroup() as submitters:
                for _ in range(SUBMITTERS):
                    submitters.create_task(submit(client, kind, left))

        await serve_async(enqueue)


async def submit(client: AsyncClient, kind: str, left: Iterator[list[str]]) -> None:
    """Submit batches until there is none left."""
    for batch in left:
        items = [SubmitItem(pipeline=kind, input=payload.encode()) for payload in batch]
        for answer in await client.submit_batch(items):
            if isinstance(answer, Exception):
                raise answer


def produce() -> None:
    """Be the enqueuing process."""
    asyncio.run(main())
