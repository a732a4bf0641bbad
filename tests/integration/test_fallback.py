"""Redis is down: Submit runs the task in the call, and Redis gets it when it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster, running_cluster

pytestmark = [pytest.mark.parallel]

QUICK = {"plan": [{}]}


async def down(cluster: Cluster) -> None:
    """Kill Redis, and wait until the dispatcher has turned."""
    assert cluster.redis_process is not None
    await cluster.redis_process.kill()
    await cluster.dispatchers["d-0"].child.line("redis is down")


async def test_a_task_runs_in_the_call_and_redis_gets_it(tmp_path: Path):
    async with running_cluster(tmp_path) as cluster:
        client = cluster.client()
        usual = await client.submit("chain", QUICK)
        (before,) = await cluster.finished([usual.task_id])
        await down(cluster)

        accepted = await client.submit("chain", QUICK)
        stats = await client.stats()
        while_down = await client.get(accepted.task_id)
        await cluster.start_redis()
        await cluster.dispatchers["d-0"].child.line("task imported")
        after = await client.get(accepted.task_id)

        assert (usual.execution_mode, usual.durability) == ("PARALLEL", "AOF_1S")
        mode = (accepted.execution_mode, accepted.durability, accepted.state)
        assert mode == ("SYNCHRONOUS_FALLBACK", "LOCAL", "done")
        assert stats.execution_mode == "SYNCHRONOUS_FALLBACK"
        assert after == while_down
        assert (after.outputs, after.result) == (before.outputs, before.result)
