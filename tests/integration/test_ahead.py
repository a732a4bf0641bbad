"""Attempts that a worker with short steps takes ahead of its slots."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest

from stepstream.types import SubmitItem, Submitted, TaskEvent
from tests.support.cluster import Cluster, running_cluster

pytestmark = [pytest.mark.parallel]

SHORT_S, LONG_S, LIMIT_S = 0.05, 5.0, 15.0


async def submitted(cluster: Cluster, *sleeps_s: float) -> list[str]:
    """Tasks of one step that take so long, in this order."""
    items = [SubmitItem(pipeline="single", input={"plan": [{"sleep": one}]}) for one in sleeps_s]
    answers = await cluster.client().submit_batch(items)
    return [answer.task_id for answer in answers if isinstance(answer, Submitted)]


async def event_of(cluster: Cluster, task_id: str, kind: str) -> TaskEvent:
    """The first event of that type, once it has happened."""
    async with asyncio.timeout(LIMIT_S), aclosing(cluster.client().watch(task_id, after=0)) as seen:
        async for item in seen:
            if isinstance(item, TaskEvent) and item.type == kind:
                return item
    raise AssertionError(f"task {task_id} ended without {kind}")


async def test_the_next_attempt_is_leased_while_the_one_before_runs(tmp_path: Path):
    async with running_cluster(tmp_path, workers=1, slots=1) as cluster:
        ids = await submitted(cluster, *[SHORT_S] * 12)
        await cluster.finished(ids)

        runs = {run.task: run for run in cluster.journal.runs()}
        ordered = sorted(runs.values(), key=lambda run: run.started_mono)
        at_once = [
            later.started_mono < (earlier.ended_mono or 0.0) for earlier, later in pairwise(ordered)
        ]
        histories = [await cluster.history(run.task) for run in ordered]
        leased = [event.time for events in histories for event in events if event.type == "LEASED"]
        ended = [events[-1].time for events in histories]

        assert not any(at_once), "one slot runs one step"
        assert len(leased) == 12, "none was given back"
        ahead = [
            lease is not None and end is not None and lease < end
            for lease, end in zip(leased[2:], ended[1:], strict=False)
        ]
        assert sum(ahead) >= 9


async def test_what_waits_behind_a_long_step_runs_elsewhere_and_is_charged_nothing(tmp_path: Path):
    async with running_cluster(tmp_path, workers=1, slots=1) as cluster:
        await cluster.finished(await submitted(cluster, SHORT_S))
        long, short = await submitted(cluster, LONG_S, SHORT_S)
        released = await event_of(cluster, short, "RELEASED")
        await cluster.start_worker("w-1", slots=1)
        await cluster.finished([short])
        task = await cluster.client().get(short)

        assert "longer steps have all slots" in released.message
        assert [run.task for run in cluster.journal.runs() if run.ended_mono is None] == [long]
        assert (task.state, task.errors) == ("done", [])
