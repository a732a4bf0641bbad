"""kill -9 of the dispatcher at each instant where what it knows and what is stored differ."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from stepstream.types import SubmitItem, Submitted
from tests.support.cluster import Cluster, running_cluster
from tests.support.cut_dispatcher import ARGV, MARK_VARIABLE, POINT_VARIABLE, Point
from tests.support.proxy import running_proxy

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

# Tasks of three steps each. The long first steps run while the dispatcher is away.
LONG, SHORT = 2, 8
LONG_S, SHORT_S = 3.0, 0.05
DELAYS_S = {Point.DUE: 0.5}  # of the short ones' start
STEPS = ("first", "second", "third")


async def submit_long(cluster: Cluster) -> list[str]:
    """Submits tasks that surely run when this returns."""
    client = cluster.client()
    plan = {"plans": {"first": [{"sleep": LONG_S}]}}
    ids = [(await client.submit("chain", plan)).task_id for _ in range(LONG)]
    for task_id in ids:
        await cluster.begun(task_id, "first")
    return ids


async def submit_short(cluster: Cluster, delay_s: float | None = None) -> list[str]:
    """Submits tasks whose passing triggers the cut; lasts until the dispatcher is back."""
    plan = {"plan": [{"sleep": SHORT_S}]}
    item = SubmitItem(pipeline="chain", input=plan, delay_s=delay_s)
    answers = await cluster.client().submit_batch([item] * SHORT)
    return [answer.task_id for answer in answers if isinstance(answer, Submitted)]


async def check(cluster: Cluster, task_ids: list[str]) -> None:
    """Every task is done, every step recorded once, nothing charged."""
    tasks = await cluster.finished(task_ids, timeout_s=20)
    assert Counter(task.state for task in tasks) == {"done": LONG + SHORT}
    for task in tasks:
        events = await cluster.history(task.task_id)
        recorded = [event.step for event in events if event.type in {"COMPLETED", "DONE"}]
        assert recorded == list(STEPS)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert task.errors == []
    totals = (await cluster.client().stats()).totals
    assert (totals.processed, totals.failed) == (len(tasks) * len(STEPS), 0)
    async with cluster.redis() as redis:
        assert await redis.xlen("task:stream:work") == 0
        assert (await redis.xpending("task:stream:work", "task:processors"))["pending"] == 0


def twice_run(cluster: Cluster) -> set[tuple[str, str]]:
    counts = Counter((run.task, run.step) for run in cluster.journal.runs())
    return {key for key, count in counts.items() if count > 1}


@pytest.mark.parametrize("point", Point, ids=lambda point: point.name.lower())
async def test_a_dispatcher_killed_at(point: Point, tmp_path: Path):
    cut = {POINT_VARIABLE: point.name, MARK_VARIABLE: str(tmp_path / "cut")}
    async with running_cluster(tmp_path, workers=2, argv=ARGV, **cut) as cluster:
        dispatcher = cluster.dispatchers["d-0"]
        long_ids = await submit_long(cluster)

        async with asyncio.TaskGroup() as group:
            short = group.create_task(submit_short(cluster, DELAYS_S.get(point)))
            assert await dispatcher.child.ended() == -signal.SIGKILL
            held = {run.task for run in cluster.journal.runs() if run.ended_mono is None}
            await cluster.start_dispatcher(argv=ARGV, **cut)

        await check(cluster, long_ids + short.result())
        assert held >= set(long_ids)
        assert twice_run(cluster) == set()


async def test_a_commit_whose_answer_is_lost_is_recorded_once(tmp_path: Path):
    async with running_cluster(tmp_path, workers=0) as cluster:
        await cluster.dispatchers["d-0"].child.kill()
        async with running_proxy(cluster.redis_url) as proxy:
            await cluster.start_dispatcher(REDIS_URL=proxy.url)
            await cluster.start_workers(2)
            long_ids = await submit_long(cluster)
            proxy.swallow_reply_to(b"settled:first")

            short_ids = await submit_short(cluster)

            await check(cluster, long_ids + short_ids)
            assert proxy.swallowed == 1
            assert twice_run(cluster) == set()
            await cluster.dispatchers["d-0"].child.kill()
