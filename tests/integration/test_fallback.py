"""Redis is down: Submit runs the task in the call, over the workers that are connected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import pytest_asyncio

from stepstream import AsyncClient
from stepstream.errors import QueueFull, StoreUnavailable, TaskConflict, Unavailable
from stepstream.types import Submitted, Task, TaskEvent
from tests.support.cluster import Cluster, running_cluster

pytestmark = [pytest.mark.parallel, pytest.mark.asyncio(loop_scope="module")]

RUNNING_MAX = 6
LIMIT_S = 20.0
REJECTED = {"plans": {"translate": [{}], "verify": [{"outcome": "rejected"}]}}
LONG = {"plan": [{"sleep": 60}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def away(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A dispatcher whose Redis is down: it knew two tasks, one of which runs."""
    settings = {"STEPSTREAM_FALLBACK_MAX": str(RUNNING_MAX)}
    folder = tmp_path_factory.mktemp("away")
    async with running_cluster(folder, slots=2 * RUNNING_MAX, **settings) as cluster:
        client = cluster.client()
        await client.submit("single", {}, request_id="ended")
        running = await client.submit("single", LONG, request_id="running")
        await cluster.begun(running.task_id, "work")
        assert cluster.redis_process is not None
        await cluster.redis_process.kill()
        await cluster.dispatchers["d-0"].child.line("redis is down")
        yield cluster


def impatient(cluster: Cluster, timeout_s: float = LIMIT_S) -> AsyncClient:
    """A client that takes the first answer."""
    return AsyncClient(cluster.dispatchers["d-0"].address, timeout_s=timeout_s, retry_s=0)


async def begun(cluster: Cluster, submit: asyncio.Task[Submitted]) -> str:
    """Wait until a handler runs a task that is submitted for the first time; returns its id."""
    known = {run.task for run in cluster.journal.runs()}

    def new() -> str | None:
        assert not submit.done(), "it was answered before it began"
        return next((one.task for one in cluster.journal.runs() if one.task not in known), None)

    return await cluster.news.until(new, timeout_s=LIMIT_S)


async def test_a_task_is_finished_when_submit_answers(away: Cluster):
    accepted = await away.client().submit("chain", {"plan": [{}]})
    task = await away.client().get(accepted.task_id)

    assert (accepted.execution_mode, accepted.durability) == ("SYNCHRONOUS_FALLBACK", "LOCAL")
    assert (accepted.state, accepted.duplicate) == ("done", False)
    assert task.outputs.keys() == {"first", "second", "third"}


async def test_readiness_and_stats_say_so(away: Cluster):
    address = away.dispatchers["d-0"].http_address
    async with httpx.AsyncClient(base_url=f"http://{address}") as http:
        ready = await http.get("/readyz")
        stats = (await http.get("/api/stats")).json()

    assert (ready.status_code, ready.json()["mode"]) == (200, "SYNCHRONOUS_FALLBACK")
    assert (stats["parallelProcessing"], stats["isRunning"]) == (False, True)
    assert stats["workers"]["w-0"]["isRunning"]
    assert (await away.client().stats()).execution_mode == "SYNCHRONOUS_FALLBACK"


async def test_durability_that_is_required_is_refused(away: Cluster):
    async with impatient(away) as client:
        with pytest.raises(StoreUnavailable):
            await client.submit("single", {}, require_durable=True)


async def test_a_step_is_tried_again(away: Cluster):
    plan = {"plan": [{"error": "broken"}, {}]}

    accepted = await away.client().submit("single", plan, initial_delay_s=0.2)

    task = await away.client().get(accepted.task_id)
    assert accepted.state == "done"
    assert [(one.attempt, one.code) for one in task.errors] == [(1, "HANDLER_ERROR")]


async def test_a_task_that_runs_is_cancelled(away: Cluster):
    async with asyncio.TaskGroup() as group:
        submit = group.create_task(away.client().submit("single", LONG))
        task_id = await begun(away, submit)

        await away.client().cancel(task_id, reason="enough")

    assert submit.result().state == "cancelled"


async def test_a_task_that_waits_for_a_person_is_reviewed(away: Cluster):
    accepted = await away.client().submit("translation", REJECTED)
    task = await away.client().review(accepted.task_id, "approved", reviewer="ada")

    assert accepted.state == "human_review"
    assert (task.state, task.reviewer) == ("done", "ada")


async def test_a_delayed_start_is_answered_at_once_and_happens(away: Cluster):
    accepted = await away.client().submit("single", {}, delay_s=0.5)
    (task,) = await away.finished([accepted.task_id])

    assert (accepted.state, task.state) == ("scheduled", "done")


async def test_a_caller_that_leaves_cancels_nothing(away: Cluster):
    async with asyncio.TaskGroup() as group:
        submit = group.create_task(away.client().submit("chain", {"plan": [{"sleep": 0.3}]}))
        task_id = await begun(away, submit)
        submit.cancel()

    (task,) = await away.finished([task_id])
    assert task.state == "done"
    assert len(away.journal.runs(task=task_id)) == 3


async def test_a_deadline_shorter_than_the_task_and_the_same_request_again(away: Cluster):
    plan = {"plan": [{"sleep": 1.0}]}
    with pytest.raises(TimeoutError):  # the SDK's word for DEADLINE_EXCEEDED
        await away.client().submit("single", plan, request_id="deadline", call_timeout_s=0.4)

    again = await away.client().submit("single", plan, request_id="deadline")

    assert (again.duplicate, again.state) == (True, "done")
    assert len(away.journal.runs(task=again.task_id)) == 1


async def test_the_same_request_with_another_input_is_a_conflict(away: Cluster):
    await away.client().submit("single", {}, request_id="twice")

    with pytest.raises(TaskConflict):
        await away.client().submit("single", {"plan": [{}]}, request_id="twice")


async def test_more_than_the_cap_are_refused_with_a_delay(away: Cluster):
    plan = {"plan": [{"sleep": 1.0}]}
    async with impatient(away) as client, asyncio.TaskGroup() as group:
        calls = [
            group.create_task(outcome(client, plan, f"cap-{number}"))
            for number in range(RUNNING_MAX + 2)
        ]
    outcomes = [call.result() for call in calls]

    refused = [one for one in outcomes if isinstance(one, QueueFull)]
    assert len(refused) == 2
    assert all(one.retry_after_s == pytest.approx(1.0) for one in refused)
    accepted = [one.state for one in outcomes if isinstance(one, Submitted)]
    assert accepted == ["done"] * RUNNING_MAX


async def outcome(
    client: AsyncClient, plan: dict[str, object], request_id: str
) -> Submitted | QueueFull:
    try:
        return await client.submit("single", plan, request_id=request_id)
    except QueueFull as error:
        return error


async def watched(client: AsyncClient, task_id: str) -> None:
    _ = [item async for item in client.watch(task_id)]


ASKED: dict[str, Callable[[AsyncClient, str], Awaitable[object]]] = {
    "get": lambda client, task_id: client.get(task_id),
    "cancel": lambda client, task_id: client.cancel(task_id),
    "list": lambda client, _task_id: client.list(),
    "watch": watched,
}


@pytest.mark.parametrize("verb", ASKED)
async def test_what_redis_knows_is_out_of_reach(away: Cluster, verb: str):
    task_id = away.journal.runs()[0].task  # the first ones ran before
    async with impatient(away, timeout_s=1.0) as client:
        with pytest.raises(Unavailable):
            await ASKED[verb](client, task_id)


async def test_a_watcher_sees_every_event(away: Cluster):
    async with asyncio.TaskGroup() as group:
        submit = group.create_task(away.client().submit("chain", {"plan": [{"sleep": 0.2}]}))
        task_id = await begun(away, submit)
        seen = [item async for item in away.client().watch(task_id, after=0)]

    events = [item for item in seen if isinstance(item, TaskEvent)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert (events[0].type, events[-1].type) == ("SUBMITTED", "DONE")
    assert isinstance(seen[0], Task)


async def test_answers_do_not_wait_for_redis(away: Cluster):
    """What asks Redis is answered at once while it is known to be down."""
    began = time.monotonic()
    for _ in range(10):
        await away.client().submit("single", {})
        await away.client().stats()

    assert time.monotonic() - began < 5.0
