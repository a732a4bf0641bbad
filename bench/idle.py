"""Connected workers and watchers that only stay connected, all of them in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import grpc

from bench.load import BATCH
from bench.system import PIPELINES
from stepstream import AsyncClient, SubmitItem
from stepstream._channel import CHANNEL_OPTIONS
from stepstream._convert import duration_to_seconds
from stepstream.session import PROTOCOL_VERSION, idle_beat_interval_s
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceStub
from stepstream_dispatcher.core.pipeline import Catalog
from stepstream_dispatcher.pipelines import read_pipelines

__all__ = ["idle_workers", "put_off", "watching"]

QUEUE: Final = "parked"  # served by them alone, and empty
SLOTS: Final = 3
CONNECT_LIMIT_S: Final = 60.0
AT_ONCE: Final = 100  # that connect at the same time
PUT_OFF_S: Final = 86_400.0


def idle_workers(address: str, amount: int) -> AbstractAsyncContextManager[None]:
    """Keep workers connected for the length of the block.

    Each has a connection and a stream of its own, free slots and nothing to do, and beats as the
    SDK does; the beats of all are spread over the interval.
    """
    steps = sorted(Catalog(read_pipelines([PIPELINES])).step_types(QUEUE))
    gate = asyncio.Semaphore(AT_ONCE)

    async def stay(number: int, ready: asyncio.Event) -> None:
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            async with gate:
                call, interval_s = await _register(channel, f"idle-{number}", steps)
            ready.set()
            await asyncio.sleep(interval_s * number / amount)
            while True:
                await call.write(pb.WorkRequest(heartbeat=pb.Heartbeat()))
                await call.read()
                await asyncio.sleep(interval_s)

    return _all_of([(stay, number) for number in range(amount)])


async def _register(
    channel: grpc.aio.Channel, name: str, steps: Sequence[str]
) -> tuple[Any, float]:
    """Open a session; returns its stream and the seconds between two heartbeats."""
    stub: Any = WorkerServiceStub(channel)
    call = stub.Work()
    register = pb.Register(
        worker_name=name,
        instance_id=name,
        sdk="bench",
        protocol_version=PROTOCOL_VERSION,
        queues=[QUEUE],
        step_types=steps,
        max_in_flight=SLOTS,
    )
    await call.write(pb.WorkRequest(register=register))
    frame = await call.read()
    interval_s = duration_to_seconds(frame.registered.heartbeat_interval)
    limit_s = duration_to_seconds(frame.registered.silence_limit)
    return call, idle_beat_interval_s(interval_s, limit_s)


async def put_off(client: AsyncClient, amount: int) -> list[str]:
    """Submit tasks that begin tomorrow; returns their ids."""
    ids: list[str] = []
    for start in range(0, amount, BATCH):
        size = min(BATCH, amount - start)
        items = [SubmitItem(pipeline="noop", input=b"", delay_s=PUT_OFF_S) for _ in range(size)]
        for answer in await client.submit_batch(items):
            if isinstance(answer, Exception):
                raise answer
            ids.append(answer.task_id)
    return ids


def watching(client: AsyncClient, task_ids: Sequence[str]) -> AbstractAsyncContextManager[None]:
    """Watch each of the tasks for the length of the block; all have shown where they stand."""

    async def watch(number: int, ready: asyncio.Event) -> None:
        async for _ in client.watch(task_ids[number]):
            ready.set()

    return _all_of([(watch, number) for number in range(len(task_ids))])


@asynccontextmanager
async def _all_of(stays: Sequence[tuple[Any, int]]) -> AsyncIterator[None]:
    """Run coroutines for the length of the block; each has said that it is ready by then."""
    ready = [asyncio.Event() for _ in stays]
    async with asyncio.TaskGroup() as group:
        running: list[asyncio.Task[None]] = []
        for (stay, number), event in zip(stays, ready, strict=True):
            coroutine: Coroutine[Any, Any, None] = stay(number, event)
            running.append(group.create_task(coroutine))
        async with asyncio.timeout(CONNECT_LIMIT_S):
            for event in ready:
                await event.wait()
        try:
            yield
        finally:
            for task in running:
                task.cancel()
