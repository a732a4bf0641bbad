"""Traces of real processes, at a collector: what a task shows, and what tracing must not do."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from stepstream.types import Task
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from tests.support.child import Child
from tests.support.cluster import Cluster, running_cluster
from tests.support.otlp_receiver import OtlpReceiver, Received, running_receiver

pytestmark = [pytest.mark.parallel]

TRACED_CLIENT = (sys.executable, "-m", "tests.integration.traced_client")
TRACED_HANDLERS = (sys.executable, "-m", "tests.integration.traced_handlers")
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE_ID}-b7ad6b7169203331-01"
ONE_RETRY_AND_A_REVIEW = {
    "plans": {"translate": [{"error": "broken"}, {}], "verify": [{"outcome": "rejected"}]}
}


def environment(receiver: OtlpReceiver) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}


async def submit_traced(cluster: Cluster, receiver: OtlpReceiver, pipeline: str, plan: object):
    """A third process with tracing of its own submits a task."""
    child = Child("client", cluster.folder / "client.log", cluster.news)
    env = {**environment(receiver), "STEPSTREAM_ADDRESS": cluster.dispatchers["d-0"].address}
    await child.start([*TRACED_CLIENT, pipeline, json.dumps(plan)], env=env)
    line = await child.line("submitted")
    await child.ended()
    child.close()
    return line.split()[1]


async def submit_with(cluster: Cluster, pipeline: str, *headers: tuple[str, str]) -> Task:
    """Submits by a bare stub, with headers; returns the task once it has ended."""
    async with grpc.aio.insecure_channel(cluster.dispatchers["d-0"].address) as channel:
        request = api.SubmitRequest(pipeline=pipeline)
        request.input.text = "text"
        answer = await DispatcherServiceStub(channel).Submit(request, metadata=headers)
    (task,) = await cluster.finished([answer.task_id])
    return task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver() -> AsyncIterator[OtlpReceiver]:
    async with running_receiver() as receiver:
        yield receiver


class Story:
    """The spans of one task."""

    def __init__(self, task: Task, spans: list[Received]) -> None:
        self.task = task
        root = next(one for one in spans if one.name.startswith("task "))
        self.spans = [one for one in spans if one.trace_id == root.trace_id]

    def all(self, name: str) -> list[Received]:
        found = [one for one in self.spans if one.name == name]
        return sorted(found, key=lambda one: one.start_ns)

    def one(self, name: str) -> Received:
        (found,) = self.all(name)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reviewed(
    receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Story]:
    """A task with one retry and a review: a client, a dispatcher and a worker, all traced."""
    folder = tmp_path_factory.mktemp("traced")
    async with running_cluster(folder, workers=0, **environment(receiver)) as cluster:
        await cluster.start_worker("w-0", **environment(receiver))
        task_id = await submit_traced(cluster, receiver, "translation", ONE_RETRY_AND_A_REVIEW)
        client = cluster.client()
        await client.wait(task_id)
        task = await client.review(task_id, "approved", reviewer="ada")
        names = {"task translation", "process verify", "review review", "checkout"}
        await receiver.until(lambda spans: names <= {one.name for one in spans})
        for child in (cluster.workers["w-0"], cluster.dispatchers["d-0"].child):
            said = len(child.lines)
            assert await cluster.terminate(child) == 0
            assert "Traceback" not in "\n".join(child.lines[said:])
        yield Story(task, receiver.spans)


pytestmark.append(pytest.mark.asyncio(loop_scope="module"))


async def test_a_task_shows_exactly_its_spans_in_one_trace(reviewed: Story):
    shown = Counter((one.service, one.kind, one.name) for one in reviewed.spans)

    assert shown == {
        ("shop", "INTERNAL", "checkout"): 1,
        ("shop", "PRODUCER", "submit translation"): 1,
        ("stepstream-dispatcher", "INTERNAL", "task translation"): 1,
        ("stepstream-dispatcher", "INTERNAL", "queue default"): 3,
        ("stepstream-dispatcher", "INTERNAL", "delay translate"): 1,
        ("stepstream-dispatcher", "INTERNAL", "review review"): 1,
        ("stepstream-worker", "CONSUMER", "process translate"): 2,
        ("stepstream-worker", "CONSUMER", "process verify"): 1,
    }
    assert len({one.span_id for one in reviewed.spans}) == len(reviewed.spans)


async def test_every_span_of_a_task_is_a_child_of_its_own(reviewed: Story):
    task = reviewed.one("task translation")
    submit = reviewed.one("submit translation")
    inner = [one for one in reviewed.spans if one.service.startswith("stepstream") and one != task]

    assert submit.parent_id == reviewed.one("checkout").span_id
    assert task.parent_id == submit.span_id
    assert {one.parent_id for one in inner} == {task.span_id}


async def test_a_retry_is_linked_to_the_attempt_before_it(reviewed: Story):
    first, second = reviewed.all("process translate")

    assert (first.links, second.links) == ((), (first.span_id,))
    others = [one for one in reviewed.spans if one != second]
    assert [one.links for one in others] == [()] * len(others)


async def test_attempts_say_what_they_were_and_how_they_ended(reviewed: Story):
    first, second = reviewed.all("process translate")
    verify = reviewed.one("process verify")

    shown = [dict(one.attributes) for one in (first, second, verify)]
    leases = {str(one.pop("stepstream.lease")) for one in shown}
    about = {
        "stepstream.task.id": reviewed.task.task_id,
        "stepstream.pipeline": "translation",
        "stepstream.worker": "w-0",
        "messaging.system": "stepstream",
        "messaging.operation.type": "process",
    }
    assert len(leases) == 3
    assert shown == [
        about
        | {
            "stepstream.step": "translate",
            "stepstream.attempt": 1,
            "stepstream.outcome": "failed",
            "error.type": "HANDLER_ERROR",
        },
        about
        | {
            "stepstream.step": "translate",
            "stepstream.attempt": 2,
            "stepstream.outcome": "completed",
        },
        about
        | {"stepstream.step": "verify", "stepstream.attempt": 1, "stepstream.outcome": "rejected"},
    ]
    assert [one.error for one in (first, second, verify)] == ["HANDLER_ERROR", "", ""]


async def test_waits_say_how_long_and_for_what(reviewed: Story):
    about = {"stepstream.task.id": reviewed.task.task_id, "stepstream.pipeline": "translation"}
    waits = [*reviewed.all("queue default"), *reviewed.all("delay translate")]
    waits.append(reviewed.one("review review"))

    for one in waits:
        assert one.attributes["stepstream.wait_ms"] == (one.end_ns - one.start_ns) // 1_000_000
    shown = [
        {key: value for key, value in one.attributes.items() if key != "stepstream.wait_ms"}
        for one in waits
    ]
    queued = {**about, "stepstream.queue": "default", "stepstream.outcome": "leased"}
    assert shown == [
        queued | {"stepstream.step": "translate"},
        queued | {"stepstream.step": "translate"},
        queued | {"stepstream.step": "verify"},
        about | {"stepstream.step": "translate"},
        about
        | {
            "stepstream.step": "review",
            "stepstream.decision": "approved",
            "stepstream.reviewer": "ada",
        },
    ]


async def test_the_task_lasts_from_its_acceptance_to_its_end(reviewed: Story):
    task = reviewed.one("task translation")

    assert task.attributes == {
        "stepstream.task.id": reviewed.task.task_id,
        "stepstream.pipeline": "translation",
        "stepstream.state": "done",
        "stepstream.revisions": 0,
    }
    assert task.error == ""
    assert task.end_ns == reviewed.one("review review").end_ns
    assert task.start_ns == reviewed.all("queue default")[0].start_ns


@pytest.mark.slow
async def test_the_attempt_of_a_lost_worker_is_shown_and_the_next_one_linked_to_it(
    receiver: OtlpReceiver, tmp_path: Path
):
    async with running_cluster(tmp_path, workers=0, **environment(receiver)) as cluster:
        lost = await cluster.start_worker("w-0", **environment(receiver))
        plan = {"plan": [{"sleep": 30, "progress": 0.5}, {}]}
        task_id = await submit_traced(cluster, receiver, "single", plan)
        await cluster.reported(task_id)
        await lost.kill()
        await cluster.start_worker("w-1", **environment(receiver))
        (task,) = await cluster.finished([task_id])
        spans = await receiver.until(
            lambda spans: (
                "task single" in {one.name for one in spans}
                and len([one for one in spans if one.name == "process work"]) == 2
            )
        )

        story = Story(task, [one for one in spans if "translat" not in one.name])
        first, second = story.all("process work")
        assert (first.service, second.service) == ("stepstream-dispatcher", "stepstream-worker")
        assert first.attributes["stepstream.outcome"] == "lost"
        assert first.attributes["stepstream.worker"] == "w-0"
        assert (first.kind, first.error) == ("CONSUMER", "WORKER_LOST")
        assert second.links == (first.span_id,)
        assert first.parent_id == second.parent_id == story.one("task single").span_id
        line = await cluster.dispatchers["d-0"].child.line("attempt lost")
        assert json.loads(line)["trace_id"] == first.trace_id


@pytest.mark.parametrize("pipeline", ["single", "threaded"])
async def test_handlers_see_their_attempt_as_the_current_span(
    receiver: OtlpReceiver, tmp_path: Path, pipeline: str
):
    async with running_cluster(tmp_path, workers=0, **environment(receiver)) as cluster:
        worker = await cluster.start_worker(
            "w-0",
            argv=TRACED_HANDLERS,
            STEPSTREAM_TEST_SPANS="1",
            STEPSTREAM_LOG_FORMAT="json",
            **environment(receiver),
        )
        before = len(receiver.spans)
        task = await submit_with(
            cluster, pipeline, ("traceparent", CALLER), ("baggage", "tenant=7")
        )
        await receiver.until(
            lambda spans: any(one.name.startswith("process") for one in spans[before:])
        )

        (attempt,) = [one for one in receiver.spans[before:] if one.kind == "CONSUMER"]
        assert isinstance(task.result, dict)
        assert task.result["context"] == {
            "traceparent": f"00-{TRACE_ID}-{attempt.span_id}-01",
            "baggage": "tenant=7",
        }
        assert task.result["current"] == f"{TRACE_ID}-{attempt.span_id}"
        said = json.loads(await worker.line("at work"))
        assert (said["trace_id"], said["span_id"]) == (TRACE_ID, attempt.span_id)


async def test_a_caller_that_is_not_sampled_has_no_spans(receiver: OtlpReceiver, tmp_path: Path):
    async with running_cluster(tmp_path, workers=0, **environment(receiver)) as cluster:
        await cluster.start_worker("w-0", argv=TRACED_HANDLERS, **environment(receiver))
        before = len(receiver.spans)
        unsampled = CALLER.removesuffix("01") + "00"

        quiet = await submit_with(cluster, "single", ("traceparent", unsampled))
        await submit_with(cluster, "single")
        await receiver.until(
            lambda spans: {"task single", "process work"} <= {one.name for one in spans[before:]}
        )
        for child in (cluster.workers["w-0"], cluster.dispatchers["d-0"].child):
            await cluster.terminate(child)

        assert isinstance(quiet.result, dict)
        assert quiet.result["context"] == {"traceparent": unsampled}
        assert {one.trace_id for one in receiver.spans[before:]} & {TRACE_ID} == set()


async def test_without_an_endpoint_a_callers_context_travels_and_nothing_is_imported(
    tmp_path: Path,
):
    async with running_cluster(tmp_path, workers=0) as cluster:
        worker = await cluster.start_worker(
            "w-0", argv=TRACED_HANDLERS, STEPSTREAM_LOG_FORMAT="json"
        )
        garbage = [("traceparent", f"00-{TRACE_ID}-garbage-01"), ("tracestate", "shop=1")]
        plain = await submit_with(cluster, "single", *garbage, ("baggage", "x" * 2000))
        traced = await submit_with(
            cluster, "single", ("traceparent", CALLER), ("tracestate", "shop=1")
        )
        said = json.loads(await worker.line("at work", TRACE_ID))

        assert plain.result == {"context": {}, "imported": False, "current": ""}
        assert traced.result == {
            "context": {"traceparent": CALLER, "tracestate": "shop=1"},
            "imported": False,
            "current": "",
        }
        assert said["task_id"] == traced.task_id
        async with cluster.redis() as redis:
            stored = [
                await redis.hget(f"task:data:{one.task_id}", "trace") for one in (plain, traced)
            ]
        assert stored[0] is None
        assert json.loads(stored[1] or "") == {"traceparent": CALLER, "tracestate": "shop=1"}


@pytest.mark.slow
async def test_a_collector_that_is_away_neither_holds_up_work_nor_fills_the_log(tmp_path: Path):
    away = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    async with running_cluster(tmp_path, workers=0, **away) as cluster:
        worker = await cluster.start_worker("w-0", **away)
        client = cluster.client()
        began_mono = time.monotonic()
        async with asyncio.timeout(20):
            for _ in range(10):
                async with asyncio.TaskGroup() as group:
                    made = [group.create_task(client.submit("single", {})) for _ in range(20)]
                await cluster.finished([one.result().task_id for one in made])
        assert time.monotonic() - began_mono < 20
        left_mono = time.monotonic()
        codes = [await cluster.terminate(one) for one in (worker, cluster.dispatchers["d-0"].child)]

        assert codes == [0, 0]
        assert time.monotonic() - left_mono < 2 * 3.0
        for child in (worker, cluster.dispatchers["d-0"].child):
            complaints = [line for line in child.lines if "export" in line or "opentel" in line]
            assert 1 <= len(complaints) <= 3, child.tail()
