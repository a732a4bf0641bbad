"""A handler in a thread that runs beyond its limit keeps its slot until it returns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import running_cluster

pytestmark = [pytest.mark.parallel]


async def test_the_slot_of_an_expired_thread_is_free_only_once_it_returns(tmp_path: Path):
    async with running_cluster(tmp_path, slots=1) as cluster:
        client = cluster.client()
        late = await client.submit(
            "threaded", {"plan": [{"sleep": 2}]}, timeout_s=0.3, max_retries=0
        )
        await cluster.begun(late.task_id, "block")
        queued = await client.submit("single", {})

        await cluster.finished([late.task_id, queued.task_id])

        (expired,), (after,) = (cluster.journal.runs(task=one.task_id) for one in (late, queued))
        assert expired.ended_mono is not None
        assert after.started_mono >= expired.ended_mono
        (error,) = (await client.get(late.task_id)).errors
        assert error.code == "DEADLINE_EXCEEDED"
