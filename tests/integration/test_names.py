"""One name for all dispatchers: workers and clients move between the addresses that it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.callers import Plan, running_callers
from tests.support.cluster import Cluster, Dispatcher, running_cluster
from tests.support.names import Names, running_names
from tests.support.pace import lasts

pytestmark = [pytest.mark.parallel, pytest.mark.slow, pytest.mark.timeout(150)]

GRACE = {"STEPSTREAM_GRACE": "2"}
BETWEEN_S = 1.0
LOAD: list[Plan] = [
    ("single", {"plan": [{"sleep": 4.0}]}),
    ("single", {"plan": [{"sleep": 0.1}]}),
    ("chain", {"plan": [{"sleep": 1.0}]}),
]


async def join(cluster: Cluster, names: Names, name: str, host: str, port: str) -> None:
    """Start one more dispatcher, and give its address to the name."""
    dispatcher = cluster.dispatchers[name] = Dispatcher(name)
    dispatcher.address = f"{host}:{port}"
    await cluster.start_dispatcher(name, **GRACE)
    names.addresses = [*names.addresses, host]


async def leave(cluster: Cluster, names: Names, name: str, host: str) -> None:
    """Tell a dispatcher to leave, and take its address from the name."""
    names.addresses = [one for one in names.addresses if one != host]
    assert await cluster.terminate(cluster.dispatchers[name].child) == 0


async def test_a_rolling_replacement_behind_a_name_fails_no_call_and_no_step(tmp_path: Path):
    """Each replica is replaced by one with another address, as in a rollout."""
    async with (
        running_names() as names,
        running_cluster(tmp_path, workers=0, **GRACE) as cluster,
    ):
        port = cluster.dispatchers["d-0"].address.rpartition(":")[2]
        names.addresses = ["127.0.0.1"]
        target = names.target("dispatchers.test", int(port))
        await join(cluster, names, "d-1", "127.0.0.2", port)
        for worker in ("w-0", "w-1"):
            await cluster.start_worker(worker, slots=8, STEPSTREAM_ADDRESS=target)

        async with running_callers([target], LOAD) as callers:
            await lasts(BETWEEN_S)
            for number in range(2, 6):
                await join(cluster, names, f"d-{number}", f"127.0.0.{number + 1}", port)
                await leave(cluster, names, f"d-{number - 2}", f"127.0.0.{number - 1}")
                await lasts(BETWEEN_S)

        runs = cluster.journal.runs()
        assert callers.failures == []
        assert {task.state for task in callers.tasks.values()} == {"done"}
        assert [task.errors for task in callers.tasks.values() if task.errors] == []
        assert max(Counter((run.task, run.step) for run in runs).values()) == 1
        assert {run.how for run in runs} == {"completed"}
