"""Two dispatchers on one Redis: whichever is asked, the answer is the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from stepstream import AsyncClient
from stepstream.types import TaskEvent
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.parallel, pytest.mark.asyncio(loop_scope="session")]

AGES_APART_S = 5.0  # ages count on between the two calls
WATCH_LIMIT_S = 10.0
AT_ONCE_S = 0.5

REJECTED = {"plans": {"translate": [{}], "verify": [{"outcome": "rejected"}]}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stubs(shared: Cluster) -> AsyncIterator[list[DispatcherServiceStub]]:
    channels = [grpc.aio.insecure_channel(one.address) for one in shared.dispatchers.values()]
    yield [DispatcherServiceStub(channel) for channel in channels]
    for channel in channels:
        await channel.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tasks(shared: Cluster) -> dict[str, str]:
    """Ids of tasks at rest, one in each state, by that state."""
    client = shared.client("d-0")
    plans = {
        "done": ("chain", {"plan": [{}]}, 0),
        "failed": ("single", {"plan": [{"not_retryable": "never"}]}, 0),
        "human_review": ("translation", REJECTED, 0),
        "scheduled": ("single", {}, 3600),
        "cancelled": ("single", {}, 3600),
    }
    ids = {
        state: (await client.submit(pipeline, plan, delay_s=delay_s, labels={"s": state})).task_id
        for state, (pipeline, plan, delay_s) in plans.items()
    }
    await client.cancel(ids["cancelled"], reason="for the test")
    for state in ("done", "failed", "human_review"):
        assert (await client.wait(ids[state], timeout_s=15)).state == state
    return ids


async def both(stubs: list[DispatcherServiceStub], method: str, request: Message) -> list[Message]:
    return [await getattr(stub, method)(request, timeout=10) for stub in stubs]


@pytest.mark.parametrize("state", ["done", "failed", "human_review", "scheduled", "cancelled"])
async def test_get_task_answers_the_same(stubs, tasks: dict[str, str], state: str):
    request = api.GetTaskRequest(task_id=tasks[state], include_payloads=True)

    one, two = await both(stubs, "GetTask", request)

    assert one == two
    assert one.task.state == state


@pytest.mark.parametrize(
    "request_",
    [
        api.ListTasksRequest(include_payloads=True),
        api.ListTasksRequest(page_size=2),
        api.ListTasksRequest(state="human_review"),
        api.ListTasksRequest(pipeline="single"),
        api.ListTasksRequest(labels={"s": "failed"}),
    ],
    ids=["all", "page", "state", "pipeline", "label"],
)
async def test_list_tasks_answers_the_same(stubs, tasks: dict[str, str], request_):
    one, two = await both(stubs, "ListTasks", request_)

    assert one == two
    assert len(one.tasks) > 0


@pytest.mark.parametrize("state", ["done", "failed", "human_review", "cancelled"])
async def test_wait_task_answers_the_same(stubs, tasks: dict[str, str], state: str):
    request = api.WaitTaskRequest(task_id=tasks[state], timeout=Duration(seconds=5))

    one, two = await both(stubs, "WaitTask", request)

    assert one == two
    assert (one.task.state, one.timed_out) == (state, False)


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_watch_task_from_the_beginning_answers_the_same(
    stubs, tasks: dict[str, str], state: str
):
    request = api.WatchTaskRequest(task_id=tasks[state], after_sequence=0)

    one, two = [[frame async for frame in stub.WatchTask(request, timeout=10)] for stub in stubs]

    assert one == two
    assert one[-1].event.sequence == len(one) - 1


async def test_get_stats_answers_the_same(stubs, tasks: dict[str, str]):
    one, two = await both(stubs, "GetStats", api.GetStatsRequest())

    assert set(one.states) == set(two.states)
    for name in one.states:
        ages = [stats.states[name].oldest_age.ToTimedelta() for stats in (one, two)]
        assert abs((ages[1] - ages[0]).total_seconds()) < AGES_APART_S
    for stats in (one, two):
        stats.ClearField("time")
        for name in stats.states:
            stats.states[name].ClearField("oldest_age")
    assert one == two
    assert one.totals.processed > 0


async def collect(client: AsyncClient, task_id: str) -> list[TaskEvent]:
    async with asyncio.timeout(WATCH_LIMIT_S):
        return [
            item async for item in client.watch(task_id, after=0) if isinstance(item, TaskEvent)
        ]


async def test_a_watcher_sees_every_event_of_a_task_that_runs_at_the_other(shared: Cluster):
    here, there = shared.client("d-0"), shared.client("d-1")
    task_id = (
        await here.submit("chain", {"plan": [{"error": "x"}, {"sleep": 0.3}]}, initial_delay_s=0.1)
    ).task_id

    async with asyncio.TaskGroup() as group:
        watches = [group.create_task(collect(client, task_id)) for client in (here, there)]

    events = watches[1].result()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events].count("RETRYING") == 3
    assert events[-1].type == "DONE"
    assert events == watches[0].result()


async def test_an_event_reaches_the_other_dispatcher_at_once(shared: Cluster):
    """By pub/sub, and not only when a watch looks again by itself, which it does every 2 s."""
    task_id = (await shared.client("d-0").submit("single", {"plan": [{"sleep": 1.0}]})).task_id
    await shared.begun(task_id, "work")

    task = await shared.client("d-1").wait(task_id, timeout_s=10)

    (run,) = shared.journal.runs(task=task_id)
    assert task.state == "done"
    assert run.ended_mono is not None
    assert time.monotonic() - run.ended_mono < AT_ONCE_S


async def test_a_cancel_at_one_reaches_the_worker_at_the_other(shared: Cluster):
    """By a message, and not only when the owner reads intents again, which it does every 2 s."""
    client = shared.client("d-1")
    task_id = (await shared.client("d-0").submit("single", {"plan": [{"sleep": 30}]})).task_id
    await shared.begun(task_id, "work")

    asked_mono = time.monotonic()
    answer = await client.cancel(task_id, reason="for the test")

    assert answer.cancel_requested
    (task,) = await shared.finished([task_id], "d-1", timeout_s=5)
    assert task.state == "cancelled"
    (run,) = shared.journal.runs(task=task_id)
    assert run.how == "CancelledError"
    assert run.ended_mono is not None
    assert run.ended_mono - asked_mono < AT_ONCE_S
