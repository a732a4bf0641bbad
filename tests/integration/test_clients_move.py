"""Clients that know two dispatchers go on at the other when one is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stepstream import AsyncClient, Client
from stepstream.types import Task, TaskEvent
from tests.support.cluster import Cluster, running_cluster

pytestmark = pytest.mark.parallel

PASSED_OVER_S = 2.0  # promised about 1 s; the machine may be busy
LANES = 8  # submits under way at once
SUBMITS = 160
LIMIT_S = 30.0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two dispatchers; the worker is connected to d-1, which nobody kills."""
    async with running_cluster(tmp_path, dispatchers=2, workers=0) as cluster:
        await cluster.start_worker("w-0", at=["d-1"], slots=8)
        yield cluster


def addresses(cluster: Cluster) -> list[str]:
    return [dispatcher.address for dispatcher in cluster.dispatchers.values()]


async def test_a_dead_address_is_passed_over(cluster: Cluster):
    await cluster.dispatchers["d-0"].child.kill()
    began_mono = time.monotonic()

    async with AsyncClient(",".join(addresses(cluster))) as client:
        await client.stats()

    assert time.monotonic() - began_mono < PASSED_OVER_S


async def test_submits_over_a_kill_are_accepted_once(cluster: Cluster):
    async with asyncio.timeout(LIMIT_S), AsyncClient(addresses(cluster)) as client:
        ids: list[str] = []

        async def submit(lane: int) -> None:
            for number in range(SUBMITS // LANES):
                plan = {"plan": [{}]}
                answer = await client.submit("single", plan, request_id=f"r-{lane}-{number}")
                ids.append(answer.task_id)
                if len(ids) == SUBMITS // 2:
                    await cluster.dispatchers["d-0"].child.kill()

        async with asyncio.TaskGroup() as group:
            for lane in range(LANES):
                group.create_task(submit(lane))
        page = await client.list(pipeline="single", page_size=1000)

    assert len(set(ids)) == SUBMITS
    assert {task.task_id for task in page.tasks} == set(ids)


async def test_a_watch_goes_on_without_a_gap_or_a_repetition(cluster: Cluster):
    async with asyncio.timeout(LIMIT_S), AsyncClient(addresses(cluster)) as client:
        plan = {"plan": [{"error": "x"}, {"error": "y"}, {"sleep": 0.5}]}
        submitted = await client.submit("chain", plan, initial_delay_s=0.1)
        seen: list[TaskEvent] = []
        async for item in client.watch(submitted.task_id, after=0):
            if isinstance(item, TaskEvent):
                seen.append(item)
                if item.type == "LEASED" and item.attempt == 2:
                    await cluster.dispatchers["d-0"].child.kill()

    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].type == "DONE"
    assert seen == await cluster.history(submitted.task_id, "d-1")


async def test_a_wait_goes_on(cluster: Cluster):
    async with asyncio.timeout(LIMIT_S), AsyncClient(addresses(cluster)) as client:
        submitted = await client.submit("single", {"plan": [{"sleep": 2.0}]})
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.wait(submitted.task_id, timeout_s=LIMIT_S))
            await cluster.begun(submitted.task_id, "work")
            await cluster.dispatchers["d-0"].child.kill()

    assert waiting.result().state == "done"


async def test_the_synchronous_client_goes_on_too(cluster: Cluster):
    with Client(addresses(cluster)) as client:
        submitted = await asyncio.to_thread(client.submit, "single", {"plan": [{"sleep": 2.0}]})
        async with asyncio.TaskGroup() as group:
            watch = asyncio.to_thread(list, client.watch(submitted.task_id, after=0))
            watching = group.create_task(watch)
            await cluster.begun(submitted.task_id, "work")
            await cluster.dispatchers["d-0"].child.kill()

    task, *events = watching.result()
    assert isinstance(task, Task)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "DONE"
