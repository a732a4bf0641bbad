"""A task by HTTP, through real processes: workers finish it, and gRPC says the same of it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import json_format

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.parallel, pytest.mark.asyncio(loop_scope="session")]

LIMIT_S = 15.0


def plain(message: Any) -> Any:
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


async def test_a_task_by_http_is_what_grpc_says_it_is(shared: Cluster):
    """Submitted at one dispatcher, reviewed at the other, read at both in both ways."""
    urls = [f"http://{one.http_address}" for one in shared.dispatchers.values()]
    plans = {"translate": [{}], "verify": [{"outcome": "rejected"}]}
    body = {"pipeline": "translation", "input": {"json": {"plans": plans}}}
    async with (
        httpx.AsyncClient(base_url=urls[0], timeout=LIMIT_S) as first,
        httpx.AsyncClient(base_url=urls[1], timeout=LIMIT_S) as second,
        grpc.aio.insecure_channel(shared.dispatchers["d-1"].address) as channel,
        asyncio.timeout(LIMIT_S),
    ):
        key = {"Idempotency-Key": "http-1"}
        submitted = await first.post("/api/tasks", json=body, headers=key)
        again = await second.post("/api/tasks", json=body, headers=key)
        assert (submitted.status_code, again.status_code) == (201, 200)
        place = submitted.headers["location"]
        task_id = again.json()["taskId"]

        await shared.client().wait(task_id, timeout_s=LIMIT_S)
        seen = (await second.get(place)).json()
        assert seen["state"] == "human_review"
        decision = {
            "decision": "REVIEW_DECISION_EDITED",
            "output": {"json": {"text": "嗨"}},
            "reviewer": "li",
            "version": seen["version"],
        }
        decided = await second.post(f"{place}/review", json=decision)
        assert decided.json()["state"] == "done", decided.text

        stub = DispatcherServiceStub(channel)
        task = await stub.GetTask(api.GetTaskRequest(task_id=task_id, include_payloads=True))
        watch = stub.WatchTask(api.WatchTaskRequest(task_id=task_id, after_sequence=0))
        events = [plain(frame)["event"] async for frame in watch if frame.HasField("event")]
        for client in (first, second):
            assert (await client.get(f"{place}?payloads=true")).json() == plain(task)["task"]
            history = (await client.get(f"{place}/history")).json()
            assert history == {"taskId": task_id, "events": events}
    assert plain(task)["task"]["result"] == {"json": {"text": "嗨"}}
    assert len(shared.journal.runs(task=task_id)) == 2
