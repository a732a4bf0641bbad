"""Two dispatchers are restarted in turn under load, with steps that outlast the grace.

They are told to leave, or killed: either way no call of a client fails, no step is interrupted or
run twice, and every watch shows each event of its task once. Three restarts of each; with
STEPSTREAM_TEST_LONG=1 ten. The figures are printed with `pytest -s`.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from stepstream.types import Task
from tests.support.audit import audit
from tests.support.callers import Callers, Plan, running_callers
from tests.support.cluster import Cluster, running_cluster
from tests.support.journal import Run
from tests.support.load import tell
from tests.support.pace import lasts

pytestmark = [pytest.mark.parallel, pytest.mark.slow, pytest.mark.timeout(300)]

LONG = os.environ.get("STEPSTREAM_TEST_LONG") == "1"
RESTARTS = 10 if LONG else 3  # of each dispatcher
GRACE_S = 2.0
BETWEEN_S = 1.0  # load on a whole fleet, between two restarts
WORKERS, SLOTS = 3, 8

LOAD: list[Plan] = [
    ("single", {"plan": [{"sleep": 5.0}]}),
    ("single", {"plan": [{"sleep": 3.0, "progress": 0.5}]}),
    ("single", {"plan": [{"sleep": 4.0}]}),
    ("chain", {"plans": {"first": [{"sleep": 3.0}], "second": [{}], "third": [{"sleep": 4.0}]}}),
    ("threaded", {"plan": [{"sleep": 3.5}]}),
    ("single", {"plan": [{"sleep": 0.05}]}),
    ("chain", {"plan": [{"sleep": 0.2}]}),
]


class Aftermath(msgspec.Struct, frozen=True, kw_only=True):
    """What there was once every task had ended."""

    callers: Callers
    runs: list[Run]
    tasks: list[Task]
    exits: list[int]
    disagreements: list[str]
    exits_wanted: int


async def restart(cluster: Cluster, name: str, how: signal.Signals) -> int:
    """End a dispatcher, and start it again once it has left."""
    child = cluster.dispatchers[name].child
    child.tell(how)
    exit_code = await child.ended()
    await cluster.start_dispatcher(name, STEPSTREAM_GRACE=str(GRACE_S))
    return exit_code


async def roll(folder: Path, how: signal.Signals) -> Aftermath:
    settings = {"STEPSTREAM_GRACE": str(GRACE_S)}
    async with running_cluster(
        folder, dispatchers=2, workers=WORKERS, slots=SLOTS, **settings
    ) as cluster:
        addresses = [one.address for one in cluster.dispatchers.values()]
        exits: list[int] = []
        began = time.monotonic()
        async with running_callers(addresses, LOAD) as callers:
            await lasts(BETWEEN_S)
            for _ in range(RESTARTS):
                for name in ("d-0", "d-1"):
                    exits.append(await restart(cluster, name, how))
                    await lasts(BETWEEN_S)
        took_s = time.monotonic() - began
        tell(
            f"{how.name}: {len(exits)} restarts in {took_s:.0f} s: {len(callers.tasks)} tasks, "
            f"{callers.streams} watches, {sum(callers.calls.values())} calls, "
            f"{len(callers.failures)} failures; slowest {callers.slowest}"
        )
        return Aftermath(
            callers=callers,
            runs=cluster.journal.runs(),
            tasks=list(callers.tasks.values()),
            exits=exits,
            disagreements=await audit(cluster.redis_url),
            exits_wanted=0 if how is signal.SIGTERM else -how,
        )


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[signal.SIGTERM, signal.SIGKILL],
    ids=["told to leave", "killed"],
)
async def after(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Aftermath:
    return await roll(tmp_path_factory.mktemp("rolling"), request.param)


def test_no_call_fails_and_no_watch_misses_or_repeats_an_event(after: Aftermath):
    assert after.callers.failures == []
    assert after.callers.streams == 2 * len(after.tasks) > 0


def test_every_step_runs_once_and_to_its_end(after: Aftermath):
    started = Counter((run.task, run.step) for run in after.runs)

    assert {key: n for key, n in started.items() if n > 1} == {}
    assert Counter(run.how for run in after.runs) == {"completed": len(after.runs)}


def test_every_task_is_done_and_nothing_is_charged(after: Aftermath):
    assert Counter(task.state for task in after.tasks) == {"done": len(after.tasks)}
    assert [task.errors for task in after.tasks if task.errors] == []


def test_every_dispatcher_ends_as_it_was_told(after: Aftermath):
    assert after.exits == [after.exits_wanted] * 2 * RESTARTS


def test_the_indexes_agree_with_the_records(after: Aftermath):
    assert after.disagreements == []
