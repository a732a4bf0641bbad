"""A worker whose dispatcher is gone moves to another with all that it runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from stepstream import AsyncClient
from stepstream_dispatcher.engine.spread import LOOK_EVERY_S
from tests.support.cluster import Cluster, running_cluster
from tests.support.pace import before_the_next_look

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

RUNNING = 3
LONG = {"plan": [{"sleep": 3.0}]}
AGES = {"plan": [{"sleep": 15.0}]}


async def begin(cluster: Cluster) -> list[str]:
    """Tasks that run at d-0."""
    ids = [(await cluster.client("d-0").submit("single", LONG)).task_id for _ in range(RUNNING)]
    for task_id in ids:
        await cluster.begun(task_id, "work")
    return ids


async def check_adopted(cluster: Cluster, task_ids: list[str]) -> None:
    """Each ran once and was handed over once; nobody was charged."""
    for task in await cluster.finished(task_ids, "d-1"):
        types = [event.type for event in await cluster.history(task.task_id, "d-1")]
        assert types == ["SUBMITTED", "LEASED", "ADOPTED", "DONE"]
        assert task.errors == []
        assert [run.how for run in cluster.journal.runs(task=task.task_id)] == ["completed"]


async def test_after_a_kill_the_running_attempts_are_adopted_elsewhere(tmp_path: Path):
    async with running_cluster(tmp_path, dispatchers=2) as cluster:
        ids = await begin(cluster)

        await cluster.dispatchers["d-0"].child.kill()

        await check_adopted(cluster, ids)


async def test_a_dispatcher_told_to_leave_hands_its_workers_over_and_exits_with_0(tmp_path: Path):
    async with running_cluster(tmp_path, dispatchers=2) as cluster:
        ids = await begin(cluster)

        exit_code = await cluster.terminate(cluster.dispatchers["d-0"].child)

        unfinished = cluster.journal.unfinished(cluster.workers["w-0"].pid)
        assert exit_code == 0
        assert len(unfinished) == RUNNING, "it waited for the steps instead of handing them over"
        await check_adopted(cluster, ids)


async def test_a_dispatcher_that_has_come_back_gets_its_share_of_the_workers(tmp_path: Path):
    """One of two workers moves, with what it runs."""
    async with running_cluster(tmp_path, dispatchers=2, workers=2) as cluster:
        await cluster.dispatchers["d-0"].child.kill()
        await cluster.start_dispatcher("d-0")
        client = cluster.client("d-0")
        ids = [(await client.submit("single", AGES)).task_id for _ in range(4)]
        for task_id in ids:
            await cluster.begun(task_id, "work")
        async with asyncio.timeout(2 * LOOK_EVERY_S):
            while await shares(client) != {"d-0": 1, "d-1": 1}:
                await before_the_next_look()

        for task in await cluster.finished(ids):
            assert task.errors == []
            assert [run.how for run in cluster.journal.runs(task=task.task_id)] == ["completed"]


async def shares(client: AsyncClient) -> Counter[str]:
    return Counter(worker.dispatcher_id for worker in await client.operator.list_workers())
