"""Retries in real processes: when a failed step runs again, and what its history keeps."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
import pytest_asyncio

from stepstream.types import Task
from tests.support.cluster import running_cluster
from tests.support.journal import Run

pytestmark = [pytest.mark.parallel]

# Beside the jitter of 20 %: two hops through three processes on a busy machine with two cores.
SLACK_S = 0.5
LIMIT_S = 1.0  # of the attempts that take too long; counted from the hand-out

TASKS = {
    "raises": ("single", {"plan": [{"error": f"broken {n}"} for n in (1, 2, 3, 4)]}, None),
    "not retryable": ("single", {"plan": [{"not_retryable": "never"}, {}]}, None),
    "retry after": ("single", {"plan": [{"retry_after": 3}, {}]}, None),
    "async too long": ("single", {"plan": [{"sleep": 30}, {}]}, LIMIT_S),
    "thread too long": ("threaded", {"plan": [{"sleep": 4}, {}]}, LIMIT_S),
}


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A task that has ended, and what its handlers really did."""

    task: Task
    runs: list[Run]

    def pauses(self) -> list[float]:
        """Seconds from each end of a handler to the next start."""
        return [two.started_mono - (one.ended_mono or 0) for one, two in pairwise(self.runs)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All tasks, run side by side."""
    async with running_cluster(tmp_path_factory.mktemp("retries"), workers=2) as cluster:
        client = cluster.client()
        ids = {
            name: (await client.submit(pipeline, plan, timeout_s=timeout_s)).task_id
            for name, (pipeline, plan, timeout_s) in TASKS.items()
        }
        await cluster.finished(list(ids.values()))
        await cluster.news.until(
            lambda: all(run.ended_mono for run in cluster.journal.runs()), timeout_s=10
        )
        return {
            name: Ended(task=await client.get(task_id), runs=cluster.journal.runs(task=task_id))
            for name, task_id in ids.items()
        }


def test_a_step_that_raises_runs_again_after_1_2_and_4_s(ended: dict[str, Ended]):
    pauses = ended["raises"].pauses()

    assert len(pauses) == 3
    for pause, delay_s in zip(pauses, (1.0, 2.0, 4.0), strict=True):
        assert 0.8 * delay_s <= pause <= 1.2 * delay_s + SLACK_S


def test_a_step_that_always_raises_fails_with_all_four_errors(ended: dict[str, Ended]):
    task = ended["raises"].task

    assert task.state == "failed"
    assert [(one.attempt, one.step, one.code) for one in task.errors] == [
        (attempt, "work", "HANDLER_ERROR") for attempt in (1, 2, 3, 4)
    ]
    assert all(f"broken {one.attempt}" in one.message for one in task.errors)
    assert all(one.worker in {"w-0", "w-1"} and one.retryable for one in task.errors)


def test_what_is_not_retryable_runs_once(ended: dict[str, Ended]):
    task, runs = ended["not retryable"].task, ended["not retryable"].runs

    assert (task.state, len(runs)) == ("failed", 1)
    assert [(one.code, one.retryable) for one in task.errors] == [("NOT_RETRYABLE", False)]


def test_retry_after_replaces_the_delay(ended: dict[str, Ended]):
    one = ended["retry after"]

    assert one.task.state == "done"
    assert [round(error.attempt) for error in one.task.errors] == [1]
    (pause,) = one.pauses()
    assert 3.0 <= pause <= 3.0 + SLACK_S


def test_an_async_handler_beyond_its_limit_is_cancelled_and_retried(ended: dict[str, Ended]):
    one = ended["async too long"]

    assert [run.how for run in one.runs] == ["CancelledError", "completed"]
    assert [(error.code, error.attempt) for error in one.task.errors] == [("DEADLINE_EXCEEDED", 1)]
    assert one.task.state == "done"
    ran_s = (one.runs[0].ended_mono or 0) - one.runs[0].started_mono
    assert LIMIT_S - SLACK_S <= ran_s <= LIMIT_S + SLACK_S


def test_a_thread_beyond_its_limit_is_flagged_and_the_step_retried(ended: dict[str, Ended]):
    one = ended["thread too long"]

    assert [run.how for run in one.runs] == ["Cancelled", "completed"]
    assert [(error.code, error.attempt) for error in one.task.errors] == [("DEADLINE_EXCEEDED", 1)]
    assert one.task.state == "done"
    late, again = one.runs
    assert again.started_mono < (late.ended_mono or 0)
