"""Steps that take down their workers, among others that do not.

Workers run as under `stepstream start`, whose supervisor starts again what dies, after 0.2 s and
ever later up to 5 s: the slots that are missing meanwhile count against the throughput.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest
import pytest_asyncio

from stepstream import AsyncClient
from stepstream.cli.supervisor import ChildSpec, Supervisor
from stepstream.types import Task
from tests.support.audit import audit
from tests.support.cluster import WORKER, Cluster, running_cluster
from tests.support.journal import JOURNAL_VARIABLE, Run
from tests.support.load import tell
from tests.support.tree import ROOT

pytestmark = [pytest.mark.parallel, pytest.mark.slow, pytest.mark.timeout(500)]

WORKERS, SLOTS = 4, 4
INNOCENTS = 300  # at least, and as many more as the poison lives
BACKLOG = 2 * WORKERS * SLOTS  # of them under way, so that no slot is idle for want of work
INNOCENT = {"plan": [{"sleep": 2.0}]}
POISON = [
    {"plan": [{"dies": "exits"}]},
    {"plan": [{"dies": "is killed"}]},
    {"plan": [{"progress": 0.4, "sleep": 0.8, "dies": "exits"}]},
    {"plan": [{"progress": 0.7, "sleep": 2.0, "dies": "is killed"}]},
    {"plan": [{"sleep": 0.3, "dies": "exits"}]},
]
KEPT = 0.8  # of the throughput, promised
LIMIT_S = 360.0


class Aftermath(msgspec.Struct, frozen=True, kw_only=True):
    """What there was once all poison was out."""

    poison: list[Task]
    dead_letters: list[Task]
    innocent: list[Task]
    runs: list[Run]
    alone: float  # innocents a second, without poison
    beside: float  # the same while the poison was tried
    took_s: float
    disagreements: list[str]


@asynccontextmanager
async def supervised_workers(cluster: Cluster) -> AsyncGenerator[None, None]:
    """Workers that are started again when they die, as `stepstream start` does it."""
    address = cluster.dispatchers["d-0"].address
    specs = [
        ChildSpec(
            name=f"w-{number}",
            argv=WORKER,
            env={
                "STEPSTREAM_ADDRESS": address,
                "STEPSTREAM_WORKER_NAME": f"w-{number}",
                "MAX_CONCURRENT_TASKS": str(SLOTS),
                "PYTHONPATH": str(ROOT),
                JOURNAL_VARIABLE: str(cluster.journal.path),
            },
        )
        for number in range(WORKERS)
    ]
    with (cluster.folder / "workers.log").open("w") as log:
        supervisor = Supervisor(specs, emit=lambda name, line: print(name, line, file=log))
        async with asyncio.TaskGroup() as group:
            group.create_task(supervisor.serve())
            try:
                yield
            finally:
                supervisor.request_stop()


async def innocents(client: AsyncClient, until: asyncio.Event) -> list[Task]:
    """Tasks that harm nobody, a fixed number under way, until told, and at least so many."""
    done: list[Task] = []
    begun = 0

    async def lane() -> None:
        nonlocal begun
        while begun < INNOCENTS or not until.is_set():
            begun += 1
            submitted = await client.submit("single", INNOCENT)
            done.append(await client.wait(submitted.task_id, timeout_s=LIMIT_S))

    async with asyncio.TaskGroup() as group:
        for _ in range(BACKLOG):
            group.create_task(lane())
    return done


async def rate(client: AsyncClient, until: asyncio.Event) -> tuple[float, list[Task]]:
    began = time.monotonic()
    done = await innocents(client, until)
    return len(done) / (time.monotonic() - began), done


async def poisoned(client: AsyncClient, out: asyncio.Event) -> list[Task]:
    ids = [(await client.submit("single", plan)).task_id for plan in POISON]
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(client.wait(one, timeout_s=LIMIT_S)) for one in ids]
    out.set()
    return [wait.result() for wait in waits]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def after(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    folder = tmp_path_factory.mktemp("poison")
    async with running_cluster(folder, workers=0) as cluster, supervised_workers(cluster):
        client, at_once = cluster.client(), asyncio.Event()
        at_once.set()
        alone, _ = await rate(client, at_once)
        began, out = time.monotonic(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            trying = group.create_task(poisoned(client, out))
            beside, innocent = await rate(client, out)
        took_s = time.monotonic() - began
        aftermath = Aftermath(
            poison=trying.result(),
            dead_letters=(await client.operator.list_dead_letters()).tasks,
            innocent=innocent,
            runs=cluster.journal.runs(),
            alone=alone,
            beside=beside,
            took_s=took_s,
            disagreements=await audit(cluster.redis_url),
        )
    show(aftermath)
    return aftermath


def show(after: Aftermath) -> None:
    """Print the figures."""
    charged = Counter(len(task.errors) for task in after.innocent)
    tries = [len([run for run in after.runs if run.task == one.task_id]) for one in after.poison]
    tell(
        f"{after.alone:.1f} innocents/s alone, {after.beside:.1f} beside poison "
        f"({after.beside / after.alone:.0%}) for {after.took_s:.0f} s; "
        f"innocents by losses {dict(charged)}; poison started {tries} times"
    )


def test_poison_ends_as_a_dead_letter_with_five_losses(after: Aftermath):
    assert [task.state for task in after.poison] == ["failed"] * len(POISON)
    assert [[error.code for error in task.errors] for task in after.poison] == [
        ["WORKER_LOST"] * 5
    ] * len(POISON)


def test_a_dead_letter_names_the_last_worker_and_where_it_was(after: Aftermath):
    listed = {task.task_id: task.errors[-1] for task in after.dead_letters}
    assert listed.keys() == {task.task_id for task in after.poison}
    for task, plan in zip(after.poison, POISON, strict=True):
        last = listed[task.task_id]
        assert last.worker in {f"w-{number}" for number in range(WORKERS)}
        assert last.worker in last.message
        assert (last.step, last.progress) == ("work", plan["plan"][0].get("progress", 0.0))
        assert last.note == ("as planned" if last.progress else "")


def test_no_innocent_fails(after: Aftermath):
    assert Counter(task.state for task in after.innocent) == {"done": len(after.innocent)}
    assert max(len(task.errors) for task in after.innocent) <= 2, "charged although it ran alone"


def test_the_innocent_keep_their_throughput(after: Aftermath):
    assert after.beside >= KEPT * after.alone


def test_the_indexes_agree_with_the_records(after: Aftermath):
    assert after.disagreements == []
