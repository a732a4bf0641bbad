"""What operators call, and the watch over many tasks, on both clients."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf import duration_pb2

from stepstream import AsyncClient, Client, errors
from stepstream.types import Explanation, Pipeline, PipelineStep, RedriveResult, Repairs, WorkerInfo
from stepstream.v1 import operator_service_pb2 as pb2
from stepstream.v1 import task_pb2
from tests.unit.client.dispatcher_stub import BareStatus, make_task
from tests.unit.client.operator_stub import StubOperator, make_worker, serving_both

_BROKEN = BareStatus(code=grpc.StatusCode.UNAVAILABLE)


@pytest.fixture
def stub() -> StubOperator:
    return StubOperator()


@pytest.fixture
def address(stub: StubOperator) -> Iterator[str]:
    with serving_both(stub) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout_s=5.0) as client:
        yield client


def test_workers_are_read_whole(client, stub):
    stub.workers[0] = [make_worker(in_flight=2, processed=5, failed=1, draining=True)]
    stub.workers[0][0].last_seen_time.FromSeconds(60)

    (worker,) = client.operator.list_workers()

    assert worker == WorkerInfo(
        name="worker-0",
        instance_id="worker-0-1",
        dispatcher_id="d-0",
        queues=["default"],
        step_types=["translate", "verify"],
        max_in_flight=3,
        in_flight=2,
        processed=5,
        failed=1,
        last_seen_time=datetime.fromtimestamp(60, UTC),
        sdk="stepstream-python/0.1.0",
        draining=True,
    )
    assert worker.connected


def test_drain_pause_and_resume_name_what_they_mean(client, stub):
    stub.workers[0] = [make_worker()]

    client.operator.drain_worker("worker-0")
    client.operator.pause_queue("default")
    client.operator.resume_queue("default")

    drained, paused, resumed = stub.requests
    assert (drained.name, paused.queue, resumed.queue) == ("worker-0", "default", "default")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("drain_worker", errors.WorkerNotFound),
        ("pause_queue", errors.QueueNotFound),
        ("resume_queue", errors.QueueNotFound),
    ],
)
def test_what_is_unknown_is_an_error(client, call, error):
    with pytest.raises(error):
        getattr(client.operator, call)("nobody")


def test_dead_letters_come_in_pages(client, stub):
    for number in range(3):
        stub.tasks[f"t{number}"] = make_task(f"t{number}", "failed")

    first = client.operator.list_dead_letters(page_size=2)
    second = client.operator.list_dead_letters(page_size=2, page_token=first.next_page_token)

    assert [task.task_id for task in first.tasks] == ["t0", "t1"]
    assert [task.task_id for task in second.tasks] == ["t2"]
    assert second.next_page_token == ""


def test_redrive_answers_item_by_item(client, stub):
    stub.tasks["t1"] = make_task(state="failed")

    results = client.operator.redrive(["t1", "t2"])

    assert results == [
        RedriveResult(task_id="t1", redriven=True, reason=""),
        RedriveResult(task_id="t2", redriven=False, reason="TASK_NOT_FOUND"),
    ]


def test_update_input_sends_value_and_version(client, stub):
    stub.tasks["t1"] = make_task(state="failed")

    task = client.operator.update_input("t1", {"text": "better"}, version=4)

    assert task.input == {"text": "better"}
    assert stub.requests[0].version == 4


def test_an_input_that_cannot_travel_is_refused_here(client, stub):
    with pytest.raises(errors.InvalidTask):
        client.operator.update_input("t1", {"n": 2**60})

    assert stub.requests == []


def test_repairs_are_read_whole(client, stub):
    took = duration_pb2.Duration(seconds=1, nanos=500_000_000)
    stub.repairs = pb2.RepairResponse(repaired={"entries": 3}, tasks=9, duration=took, counted=True)

    assert client.operator.repair() == Repairs(
        repaired={"entries": 3}, tasks=9, duration_s=1.5, counted=True
    )


def test_pipelines_are_read_whole(client, stub):
    step = pb2.PipelineStep(
        name="translate",
        state="translating",
        kind="worker",
        queue="default",
        on={"ok": "done"},
        paused=True,
    )
    stub.pipelines = [pb2.Pipeline(name="translation", version="1f", steps=[step])]

    assert client.operator.list_pipelines() == [
        Pipeline(
            name="translation",
            version="1f",
            steps=[
                PipelineStep(
                    name="translate",
                    state="translating",
                    kind="worker",
                    queue="default",
                    on={"ok": "done"},
                    paused=True,
                )
            ],
        )
    ]


def test_an_explanation_has_reason_words_and_time(client, stub):
    stub.tasks["t1"] = make_task()
    stub.explanation.reason = 6
    stub.explanation.message = "due later"
    stub.explanation.until.FromSeconds(90)

    assert client.explain("t1") == Explanation(
        reason="WAITING_UNTIL", message="due later", until=datetime.fromtimestamp(90, UTC)
    )


def test_operator_calls_are_retried_like_all_others(client, stub):
    stub.refusals.extend([errors.StoreUnavailable("redis is away")] * 2)

    assert client.operator.list_workers() == []
    assert len(stub.requests) == 3


def test_a_watch_over_tasks_sends_its_filters_and_outlives_a_break(client, stub):
    stub.changes.extend([[make_task("t1"), _BROKEN], [make_task("t2", "done")]])

    watched = client.watch_tasks(pipeline="p", states=["done"], labels={"a": "b"})
    seen = [task.task_id for task in itertools.islice(watched, 2)]
    watched.close()

    assert seen == ["t1", "t2"]
    request = stub.requests[1]
    assert (request.pipeline, list(request.states), dict(request.labels)) == (
        "p",
        ["done"],
        {"a": "b"},
    )
    assert stub.left.wait(5.0)


def test_a_watch_over_tasks_that_is_refused_is_an_error(client, stub):
    stub.changes.append([errors.RateLimited("too many watchers")])

    with pytest.raises(errors.RateLimited):
        next(client.watch_tasks())


async def test_the_asynchronous_client_has_the_same(address, stub):
    stub.workers[0] = [make_worker()]
    stub.tasks["t1"] = make_task(state="failed")
    stub.changes.extend([[task_pb2.Task(task_id="t1"), _BROKEN], [task_pb2.Task(task_id="t2")]])

    async with AsyncClient(address, timeout_s=5.0) as client:
        workers = await client.operator.list_workers()
        await client.operator.drain_worker("worker-0")
        await client.operator.pause_queue("default")
        await client.operator.resume_queue("default")
        dead = await client.operator.list_dead_letters()
        await client.operator.update_input("t1", "text")
        (redriven,) = await client.operator.redrive(["t1"])
        explained = await client.explain("t1")
        pipelines = await client.operator.list_pipelines()
        repairs = await client.operator.repair()
        watched = client.watch_tasks()
        seen = [(await anext(watched)).task_id for _ in range(2)]
        await watched.aclose()

    assert [worker.name for worker in workers] == ["worker-0"]
    assert [task.task_id for task in dead.tasks] == ["t1"]
    assert redriven.redriven
    assert (explained.reason, pipelines) == ("UNSPECIFIED", [])
    assert (repairs.repaired, repairs.counted) == ({}, True)
    assert seen == ["t1", "t2"]
