"""Statistics and monitoring: every door counts alike."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from stepstream.types import SubmitItem, Submitted
from tests.support.cluster import running_cluster
from tests.support.pace import before_the_next_look

pytestmark = [pytest.mark.parallel]


async def test_http_and_grpc_count_alike(tmp_path: Path):
    async with running_cluster(tmp_path, workers=2) as cluster:
        client = cluster.client()
        items = [SubmitItem(pipeline="single", input={"plan": [{}]})] * 7
        items += [SubmitItem(pipeline="single", input={"plan": [{"not_retryable": "no"}]})] * 3
        answers = await client.submit_batch(items)
        await cluster.finished([one.task_id for one in answers if isinstance(one, Submitted)])

        async with asyncio.timeout(5):  # what workers hold is written every quarter of a second
            while (stats := await client.stats()).totals.current_tasks:
                await before_the_next_look()
        dispatcher = cluster.dispatchers["d-0"]
        async with httpx.AsyncClient(base_url=f"http://{dispatcher.http_address}") as http:
            shown = (await http.get("/api/stats")).json()
            ready = (await http.get("/readyz")).json()
            alive = (await http.get("/healthz")).json()

        assert (stats.totals.processed, stats.totals.failed) == (7, 3)
        assert stats.failure_percentage == pytest.approx(30)
        assert stats.states["failed"].depth == 3
        assert shown["totals"] == {"processed": 7, "failed": 3, "currentTasks": 0}
        assert set(shown["workers"]) == {"w-0", "w-1"}
        assert sum(one["processed"] for one in shown["workers"].values()) == 7
        assert (shown["parallelProcessing"], shown["isRunning"]) == (True, True)
        assert (ready, alive) == ({"status": "ready", "mode": "PARALLEL"}, {"status": "ok"})
