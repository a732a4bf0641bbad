"""Somebody sets the clock of a dispatcher's host by an hour: no lease and no limit notices.

Tasks are watched to their end, not waited for: gRPC itself tells the time that is left for a call
by the wall clock, which here is set for a part of the process only.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import running_cluster
from tests.support.set_clock_dispatcher import ARGV, BACK, FORWARD, SET

pytestmark = [pytest.mark.parallel, pytest.mark.slow]


async def test_a_clock_that_is_set_forward_takes_no_running_step_away(tmp_path: Path):
    async with running_cluster(tmp_path, argv=ARGV) as cluster:
        dispatcher = cluster.dispatchers["d-0"].child
        plan = {"plan": [{"sleep": 2.0}]}
        task_id = (await cluster.client().submit("single", plan)).task_id
        await cluster.begun(task_id, "work")

        dispatcher.tell(FORWARD)
        await dispatcher.line(SET)

        await cluster.news.until(lambda: cluster.journal.runs()[0].ended_mono, timeout_s=15)
        assert [line for line in dispatcher.lines if "worker lost" in line] == []
        types = [event.type for event in await cluster.history(task_id)]
        assert types == ["SUBMITTED", "LEASED", "DONE"]
        assert [run.how for run in cluster.journal.runs()] == ["completed"]


async def test_a_clock_that_is_set_back_prolongs_no_limit(tmp_path: Path):
    async with running_cluster(tmp_path, argv=ARGV) as cluster:
        dispatcher = cluster.dispatchers["d-0"].child
        plan = {"plan": [{"sleep": 30}, {}]}
        submitted = await cluster.client().submit("single", plan, timeout_s=2.0)
        await cluster.begun(submitted.task_id, "work")

        dispatcher.tell(BACK)
        await dispatcher.line(SET)

        events = await cluster.history(submitted.task_id)
        assert [(event.type, event.detail) for event in events[2:]] == [
            ("RETRYING", "DEADLINE_EXCEEDED"),
            ("QUEUED", ""),
            ("LEASED", ""),
            ("DONE", "completed"),
        ]
