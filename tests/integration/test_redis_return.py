"""Redis is away for longer than the silence limit: nobody takes over anybody when it returns.

While it was away nobody could beat, so every dispatcher looks dead to the first that asks.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from stepstream.types import SubmitItem, Submitted
from tests.support.audit import audit
from tests.support.cluster import Cluster, running_cluster
from tests.support.pace import lasts

pytestmark = [pytest.mark.parallel, pytest.mark.slow, pytest.mark.timeout(150)]

SILENCE_S = 2.0
SHORT = {"STEPSTREAM_HEARTBEAT_INTERVAL": "0.5", "STEPSTREAM_SILENCE_LIMIT": str(SILENCE_S)}
AWAY_S = 4 * SILENCE_S
STEPS_S = AWAY_S + 4 * SILENCE_S  # they run on while every limit passes, on both sides


async def stopped(cluster: Cluster) -> None:
    """The server is killed, and started again on its data."""
    assert cluster.redis_process is not None
    await cluster.redis_process.kill()
    await lasts(AWAY_S)
    await cluster.start_redis()


async def frozen(cluster: Cluster) -> None:
    """The server stands still, with all connections open."""
    assert cluster.redis_process is not None
    cluster.redis_process.tell(signal.SIGSTOP)
    try:
        await lasts(AWAY_S)
    finally:
        cluster.redis_process.tell(signal.SIGCONT)


def taken_over(cluster: Cluster) -> list[str]:
    """What a dispatcher says when it takes over work of another one."""
    return [
        line
        for name, dispatcher in cluster.dispatchers.items()
        for line in dispatcher.child.lines
        if "work taken over" in line and f'"dispatcher": "{name}"' not in line
    ]


@pytest.mark.parametrize("outage", [stopped, frozen])
async def test_nobody_is_taken_over_for_an_outage_of_redis(tmp_path: Path, outage):
    options = ("--appendonly", "yes", "--appendfsync", "always")
    async with running_cluster(
        tmp_path, dispatchers=2, workers=0, redis_options=options, **SHORT
    ) as cluster:
        for name in ("d-0", "d-1"):
            await cluster.start_worker(f"w-{name}", at=[name])
        items = [SubmitItem(pipeline="single", input={"plan": [{"sleep": STEPS_S}]})] * 6
        answers = await cluster.client().submit_batch(items)
        ids = [answer.task_id for answer in answers if isinstance(answer, Submitted)]
        for task_id in ids:
            await cluster.begun(task_id, "work")

        await outage(cluster)
        tasks = await cluster.finished(ids)

        assert taken_over(cluster) == []
        assert [(task.state, task.errors) for task in tasks] == [("done", [])] * len(ids)
        assert Counter(run.how for run in cluster.journal.runs()) == {"completed": len(ids)}
        for task_id in ids:
            types = [event.type for event in await cluster.history(task_id)]
            assert types == ["SUBMITTED", "LEASED", "DONE"]
        assert await audit(cluster.redis_url) == []
