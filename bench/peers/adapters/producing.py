"""The enqueuing process of a Python peer: a line from the driver, `kind first amount`, a call.

It says `ready` when it is connected, and `sent` when everything of a line is in the queue.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator

PAYLOAD_BYTES = 100
CALLERS = 50  # where a peer has no call for many tasks, so many of one run at a time


def serve(enqueue: Callable[[str, list[str]], None]) -> None:
    """Enqueue what the driver asks for until it hangs up."""
    print("ready", flush=True)
    for line in sys.stdin:
        enqueue(*_asked(line))
        print("sent", flush=True)


async def serve_async(enqueue: Callable[[str, list[str]], Awaitable[None]]) -> None:
    """Do the same for a peer with coroutines."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await enqueue(*_asked(line))
        print("sent", flush=True)


async def at_once(enqueue: Callable[[str], Awaitable[object]], payloads: Iterable[str]) -> None:
    """Call `enqueue` for each of the payloads, `CALLERS` at a time."""
    left = iter(payloads)
    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(_each(enqueue, left))


def batches(payloads: list[str], size: int) -> Iterator[list[str]]:
    """Cut the payloads into batches, so that workers begin while others are sent."""
    for start in range(0, len(payloads), size):
        yield payloads[start : start + size]


async def _each(enqueue: Callable[[str], Awaitable[object]], left: Iterator[str]) -> None:
    for payload in left:
        await enqueue(payload)


def _asked(line: str) -> tuple[str, list[str]]:
    kind, first, amount = line.split()
    numbers = range(int(first), int(first) + int(amount))
    return kind, [str(number).zfill(PAYLOAD_BYTES) for number in numbers]
