"""Deadlines of tasks in real processes: they pass in time, whatever the task waits for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from stepstream.types import Task
from tests.support.cluster import Cluster, running_cluster
from tests.support.journal import Run

pytestmark = [pytest.mark.parallel]

DEADLINE_S = 2.0
LATE_S = 1.0  # as docs/guarantees.md has it
REJECTED = {"plans": {"verify": [{"outcome": "rejected"}]}}
# Name -> pipeline, input, and further options of the submission.
TASKS = {
    "running": ("single", {"plan": [{"sleep": 30}]}, {}),
    "in a thread": ("threaded", {"plan": [{"sleep": 4}]}, {}),
    "retrying": ("single", {"plan": [{"retry_after": 60}]}, {}),
    "waiting for a person": ("translation", REJECTED, {}),
    "about to start late": ("single", {"plan": [{"sleep": 30}]}, {"delay_s": 1.5}),
    "quick": ("single", {"plan": [{}]}, {}),
}


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A task that has ended, and what its handlers really did."""

    task: Task
    runs: list[Run]
    reason: str  # why it is not running, as ExplainTask says

    @property
    def took_s(self) -> float:
        """From its acceptance to its end, by the clock of Redis."""
        assert self.task.create_time is not None
        assert self.task.update_time is not None
        return (self.task.update_time - self.task.create_time).total_seconds()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All tasks, run side by side."""
    async with running_cluster(tmp_path_factory.mktemp("deadlines"), slots=6) as cluster:
        client = cluster.client()
        ids = {
            name: (await client.submit(pipeline, plan, deadline_s=DEADLINE_S, **options)).task_id
            for name, (pipeline, plan, options) in TASKS.items()
        }
        await cluster.finished(list(ids.values()))
        await cluster.news.until(
            lambda: all(run.ended_mono for run in cluster.journal.runs()), timeout_s=10
        )
        return {
            name: Ended(
                task=await client.get(task_id),
                runs=cluster.journal.runs(task=task_id),
                reason=(await client.explain(task_id)).reason,
            )
            for name, task_id in ids.items()
        }


@pytest.mark.parametrize("name", [name for name in TASKS if name != "quick"])
def test_a_task_that_has_not_ended_fails_at_its_deadline(ended: dict[str, Ended], name: str):
    one = ended[name]

    assert (one.task.state, one.task.errors[-1].code) == ("failed", "DEADLINE_EXCEEDED")
    assert one.task.errors[-1].message == "the task had not ended 2 s after it was accepted"
    assert DEADLINE_S - 0.1 <= one.took_s <= DEADLINE_S + LATE_S


def test_a_task_that_ends_in_time_is_done_and_says_its_deadline(ended: dict[str, Ended]):
    task = ended["quick"].task

    assert task.state == "done"
    assert task.create_time is not None
    assert task.deadline_time is not None
    assert (task.deadline_time - task.create_time).total_seconds() == DEADLINE_S


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("running", ["CancelledError"]),
        ("in a thread", ["Cancelled"]),
        ("about to start late", ["CancelledError"]),
    ],
)
def test_the_worker_of_a_running_attempt_is_told(
    ended: dict[str, Ended], name: str, how: list[str]
):
    assert [run.how for run in ended[name].runs] == how


def test_a_retry_that_is_due_later_does_not_run(ended: dict[str, Ended]):
    assert [error.code for error in ended["retrying"].task.errors] == [
        "RETRY_AFTER",
        "DEADLINE_EXCEEDED",
    ]
    assert len(ended["retrying"].runs) == 1


@pytest_asyncio.fixture
async def lonely(tmp_path: Path):
    """A dispatcher without any worker."""
    async with running_cluster(tmp_path, workers=0) as cluster:
        yield cluster


async def test_a_deadline_survives_the_death_of_the_only_dispatcher(lonely: Cluster):
    submitted = await lonely.client().submit("single", {"plan": [{}]}, deadline_s=DEADLINE_S)
    await lonely.dispatchers["d-0"].child.kill()

    await lonely.start_dispatcher("d-0")
    (task,) = await lonely.finished([submitted.task_id])

    assert (task.state, task.attempt) == ("failed", 0)
    async with lonely.redis() as redis:
        assert await redis.xlen("task:stream:work") == 0
        assert await redis.zcard("task:delayed") == 0


async def test_explain_says_that_the_deadline_passed(ended: dict[str, Ended]):
    reasons = {name: one.reason for name, one in ended.items()}

    assert reasons == dict.fromkeys(TASKS, "DEADLINE_PASSED") | {"quick": "FINISHED"}
