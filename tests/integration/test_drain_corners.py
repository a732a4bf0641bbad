"""SIGTERM of a dispatcher at bad moments: without Redis, with the other one, as the only one."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from stepstream.types import SubmitItem, Submitted
from tests.support.audit import audit
from tests.support.cluster import Cluster, running_cluster

pytestmark = [pytest.mark.parallel, pytest.mark.slow, pytest.mark.timeout(120)]

GRACE = {"STEPSTREAM_GRACE": "1"}
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
EXIT_S = 15.0  # the grace and 2 s are promised; the machine may be busy
STEPS = 4


async def begin(cluster: Cluster, seconds: float) -> list[str]:
    """Tasks that run."""
    items = [SubmitItem(pipeline="single", input={"plan": [{"sleep": seconds}]})] * STEPS
    answers = await cluster.client().submit_batch(items)
    ids = [answer.task_id for answer in answers if isinstance(answer, Submitted)]
    for task_id in ids:
        await cluster.begun(task_id, "work")
    return ids


async def check(cluster: Cluster, ids: list[str]) -> None:
    """Each ran once, to its end, and nothing was charged."""
    tasks = await cluster.finished(ids)
    assert [(task.state, task.errors) for task in tasks] == [("done", [])] * STEPS
    assert Counter(run.how for run in cluster.journal.runs()) == {"completed": STEPS}
    assert await audit(cluster.redis_url) == []


async def test_a_dispatcher_leaves_in_time_while_redis_is_away(tmp_path: Path):
    async with running_cluster(tmp_path, slots=STEPS, redis_options=DURABLE, **GRACE) as cluster:
        ids = await begin(cluster, 6.0)
        assert cluster.redis_process is not None
        await cluster.redis_process.kill()
        child = cluster.dispatchers["d-0"].child
        await child.line("redis is down")

        exit_code = await asyncio.wait_for(cluster.terminate(child), EXIT_S)

        assert exit_code == 0
        await cluster.start_redis()
        await cluster.start_dispatcher(**GRACE)
        await check(cluster, ids)


async def test_both_dispatchers_leave_at_once_and_running_steps_wait_for_them(tmp_path: Path):
    async with running_cluster(tmp_path, dispatchers=2, workers=2, slots=2, **GRACE) as cluster:
        ids = await begin(cluster, 6.0)

        async with asyncio.TaskGroup() as group:
            ends = [
                group.create_task(cluster.terminate(one.child))
                for one in cluster.dispatchers.values()
            ]
        async with asyncio.TaskGroup() as group:
            for name in cluster.dispatchers:
                group.create_task(cluster.start_dispatcher(name, **GRACE))

        assert [end.result() for end in ends] == [0, 0]
        await check(cluster, ids)


async def test_a_worker_that_knows_only_the_one_that_leaves_waits_for_it(tmp_path: Path):
    async with running_cluster(tmp_path, dispatchers=2, workers=0, **GRACE) as cluster:
        await cluster.start_worker("w-0", at=["d-0"], slots=STEPS)
        ids = await begin(cluster, 6.0)

        exit_code = await cluster.terminate(cluster.dispatchers["d-0"].child)
        await cluster.start_dispatcher("d-0", **GRACE)

        assert exit_code == 0
        await check(cluster, ids)
