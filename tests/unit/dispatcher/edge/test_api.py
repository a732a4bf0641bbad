"""The task API over a real socket, and that it says what gRPC says."""

from typing import Any

import pytest
from google.protobuf import json_format

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream_dispatcher.core.facts import Completed, Failed
from stepstream_dispatcher.edge.bodies import IntakeLimits
from tests.support.edge import Edge, refused, serving_edge, serving_grpc

UNKNOWN = "0" * 32
JSON = {"Content-Type": "application/json"}


def plain(message: Any) -> Any:
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


async def in_review(edge: Edge) -> str:
    """A task that waits for a person."""
    task_id = await edge.submit(input={"json": {"text": "你好"}})
    session = await edge.dispatcher.connect()
    for outcome in ("completed", "rejected"):
        (handout,) = await edge.dispatcher.handed_out(session)
        token = handout.attempt.record.lease
        fact = Completed(token=token, outcome=outcome, output=b"")
        await edge.dispatcher.report(session, handout, fact)
    return task_id


async def dead_letter(edge: Edge) -> str:
    """A task that failed for good."""
    task_id = await edge.submit(labels={"customer": "a"})
    session = await edge.dispatcher.connect()
    (handout,) = await edge.dispatcher.handed_out(session)
    token = handout.attempt.record.lease
    fact = Failed(token=token, code="HANDLER_ERROR", message="no", retryable=False)
    await edge.dispatcher.report(session, handout, fact)
    return task_id


async def answer(edge: Edge, method: str, path: str, **options: Any) -> Any:
    response = await edge.http.request(method, path, **options)
    assert response.status_code == 200, response.text
    return response.json()


# --- submit --------------------------------------------------------------------------------------


async def test_a_new_task_is_created_at_its_location(edge: Edge):
    body = {"pipeline": "translation", "input": {"text": "a"}}

    response = await edge.http.post("/api/tasks", json=body)

    assert response.status_code == 201
    task_id = response.json()["taskId"]
    assert response.headers["location"] == f"/api/tasks/{task_id}"
    assert response.json() == {
        "taskId": task_id,
        "executionMode": "EXECUTION_MODE_PARALLEL",
        "durability": "DURABILITY_VOLATILE",
        "duplicate": False,
        "state": "pending",
    }
    assert (await edge.http.get(response.headers["location"])).json()["taskId"] == task_id


async def test_the_same_key_is_the_same_task_in_whatever_order_its_members_come(edge: Edge):
    members = {f"member-{number}": number for number in range(40)}
    turned = dict(reversed(members.items()))
    body = {"pipeline": "translation", "input": {"json": members}}
    again = {"pipeline": "translation", "input": {"json": turned}}

    first = await edge.http.post("/api/tasks", json=body, headers={"Idempotency-Key": "order-1"})
    second = await edge.http.post("/api/tasks", json=again, headers={"Idempotency-Key": "order-1"})

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json() | {"duplicate": True}
    assert "location" not in second.headers


async def test_the_key_is_the_request_id_of_grpc(edge: Edge):
    body = {"pipeline": "translation", "input": {"text": "a"}}
    response = await edge.http.post("/api/tasks", json=body, headers={"Idempotency-Key": "one"})

    async with serving_grpc(edge.dispatcher) as stub:
        request = json_format.ParseDict(body | {"requestId": "one"}, api.SubmitRequest())
        again = await stub.Submit(request)

    assert plain(again) == response.json() | {"duplicate": True}


async def test_the_same_key_with_another_input_is_a_conflict(edge: Edge):
    headers = {"Idempotency-Key": "order-2"}
    for text in ("a", "b"):
        body = {"pipeline": "translation", "input": {"text": text}}
        response = await edge.http.post("/api/tasks", json=body, headers=headers)

    refused(response, 409, "TASK_CONFLICT", "Idempotency-Key")


async def test_a_key_beside_a_request_id_is_refused(edge: Edge):
    body = {"pipeline": "translation", "input": {"text": "a"}, "requestId": "b"}

    response = await edge.http.post("/api/tasks", json=body, headers={"Idempotency-Key": "a"})

    refused(response, 400, "INVALID_TASK", "Idempotency-Key")


async def test_a_batch_answers_for_each(edge: Edge):
    good = {"pipeline": "translation", "input": {"text": "a"}, "requestId": "batch-1"}
    body = {"requests": [good, good | {"pipeline": "none"}]}

    found = await answer(edge, "POST", "/api/tasks:batch", json=body)
    async with serving_grpc(edge.dispatcher) as stub:
        again = await stub.SubmitBatch(json_format.ParseDict(body, api.SubmitBatchRequest()))

    accepted, error = found["results"]
    assert error["error"]["field"] == "pipeline"
    assert plain(again)["results"] == [
        {"accepted": accepted["accepted"] | {"duplicate": True}},
        error,
    ]


# --- read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("payloads", [False, True])
async def test_a_task_is_what_grpc_answers(edge: Edge, payloads: bool):
    task_id = await dead_letter(edge)

    found = await answer(edge, "GET", f"/api/tasks/{task_id}?payloads={payloads}".lower())
    async with serving_grpc(edge.dispatcher) as stub:
        request = api.GetTaskRequest(task_id=task_id, include_payloads=payloads)
        expected = await stub.GetTask(request)

    assert found == plain(expected)["task"]
    assert ("input" in found, len(found["errors"])) == ((True, 1) if payloads else (False, 0))


async def test_pages_are_what_grpc_answers(edge: Edge):
    for number in range(5):
        await edge.submit(labels={"parity": str(number % 2), "all": "yes"})
    path = "/api/tasks?page_size=2&label=parity=0&label=all=yes&pipeline=translation&state=pending"

    first = await answer(edge, "GET", path)
    rest = await answer(edge, "GET", f"{path}&page_token={first['nextPageToken']}")
    async with serving_grpc(edge.dispatcher) as stub:
        labels = {"parity": "0", "all": "yes"}
        request = api.ListTasksRequest(page_size=2, labels=labels, state="pending")
        expected = await stub.ListTasks(request)

    assert first == plain(expected)
    assert len(first["tasks"] + rest["tasks"]) == 3


async def test_the_history_is_what_a_watch_shows(edge: Edge):
    task_id = await dead_letter(edge)

    found = await answer(edge, "GET", f"/api/tasks/{task_id}/history")
    later = await answer(edge, "GET", f"/api/tasks/{task_id}/history?after=2")
    async with serving_grpc(edge.dispatcher) as stub:
        request = api.WatchTaskRequest(task_id=task_id, after_sequence=0)
        frames = [frame async for frame in stub.WatchTask(request)]

    assert found["events"] == [plain(frame)["event"] for frame in frames[1:]]
    assert later["events"] == found["events"][2:]
    assert len(later["events"]) == 1
    assert "gap" not in found


async def test_a_history_read_to_its_end_has_no_more(edge: Edge):
    task_id = await edge.submit()

    found = await answer(edge, "GET", f"/api/tasks/{task_id}/history?after=7")

    assert found == {"taskId": task_id, "events": []}


async def test_a_history_says_what_is_no_longer_kept(edge: Edge):
    task_id = await dead_letter(edge)
    await edge.dispatcher.store._database.run(
        lambda connection: connection.execute("DELETE FROM history WHERE sequence < 3")
    )

    found = await answer(edge, "GET", f"/api/tasks/{task_id}/history")

    assert found["gap"] == {"firstMissing": "1", "firstAvailable": "3"}
    assert [event["sequence"] for event in found["events"]] == ["3"]


async def test_dead_letters_are_failed_tasks_with_their_errors(edge: Edge):
    task_id = await dead_letter(edge)
    await edge.submit()

    found = await answer(edge, "GET", "/api/dead-letters?page_size=10")

    (letter,) = found["tasks"]
    assert letter["taskId"] == task_id
    assert letter["errors"][0]["code"] == "HANDLER_ERROR"


async def test_a_payload_with_numbers_that_json_lacks_can_be_read(edge: Edge):
    request = api.SubmitRequest(pipeline="translation")
    request.input.json["a"] = float("nan")
    async with serving_grpc(edge.dispatcher) as stub:
        task_id = (await stub.Submit(request)).task_id

    found = await answer(edge, "GET", f"/api/tasks/{task_id}?payloads=true")

    assert found["input"] == {"json": {"a": "NaN"}}


async def test_large_payloads_pass(edge: Edge):
    members = {"numbers": list(range(50_000)), "text": "你好" * 50_000}
    task_id = await edge.submit(input={"json": members})

    found = await answer(edge, "GET", f"/api/tasks/{task_id}?payloads=true")

    assert found["input"]["json"] == members


# --- change --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"json": {"reason": "why"}}, {"json": {}}, {"headers": JSON}])
async def test_cancel_can_be_repeated(edge: Edge, options: dict[str, Any]):
    task_id = await edge.submit()
    path = f"/api/tasks/{task_id}/cancel"

    first = await answer(edge, "POST", path, **options)
    again = await answer(edge, "POST", path, **options)

    assert first["state"] == "cancelled"
    assert again == first


async def test_cancel_of_a_failed_task_is_a_conflict(edge: Edge):
    task_id = await dead_letter(edge)

    response = await edge.http.post(f"/api/tasks/{task_id}/cancel", json={})

    refused(response, 409, "TASK_FINISHED", None)


async def test_a_review_is_decided_once(edge: Edge):
    task_id = await in_review(edge)
    version = (await answer(edge, "GET", f"/api/tasks/{task_id}"))["version"]
    body = {
        "decision": "REVIEW_DECISION_EDITED",
        "output": {"json": {"text": "嗨"}},
        "reviewer": "li",
        "version": version,
    }

    decided = await answer(edge, "POST", f"/api/tasks/{task_id}/review", json=body)
    late = await edge.http.post(f"/api/tasks/{task_id}/review", json=body)

    assert (decided["state"], decided["reviewer"]) == ("done", "li")
    refused(late, 409, "REVIEW_CONFLICT", None)
    found = await answer(edge, "GET", f"/api/tasks/{task_id}?payloads=true")
    assert found["result"] == {"json": {"text": "嗨"}}


async def test_a_dead_letter_gets_another_input_and_starts_anew(edge: Edge):
    task_id = await dead_letter(edge)
    path = f"/api/dead-letters/{task_id}"

    mended = await answer(edge, "PUT", f"{path}/input", json={"input": {"text": "b"}})
    late = await edge.http.put(f"{path}/input", json={"input": {"text": "c"}, "version": 1})
    redriven = await answer(edge, "POST", f"{path}/redrive", headers=JSON)
    again = await edge.http.post(f"{path}/redrive", headers=JSON)

    assert mended["input"] == {"text": "b"}
    refused(late, 409, "TASK_NOT_FAILED", None)
    assert redriven["taskId"] == task_id
    assert redriven["state"] != "failed"
    refused(again, 409, "TASK_NOT_FAILED", None)


@pytest.mark.parametrize(
    ("task_id", "body", "status", "reason", "field"),
    [
        (UNKNOWN, {}, 404, "TASK_NOT_FOUND", None),
        ("x", {}, 400, "INVALID_TASK", "task_id"),
        (UNKNOWN, {"unknown": 1}, 422, "INVALID_TASK", "unknown"),
    ],
)
async def test_what_cannot_be_started_anew_is_refused(
    edge: Edge, task_id: str, body: object, status: int, reason: str, field: str | None
):
    response = await edge.http.post(f"/api/dead-letters/{task_id}/redrive", json=body)

    refused(response, status, reason, field)


async def test_an_explanation_is_what_grpc_answers(edge: Edge):
    task_id = await edge.submit()

    found = await answer(edge, "GET", f"/api/tasks/{task_id}/explain")
    async with serving_grpc(edge.dispatcher) as stub:
        expected = await stub.ExplainTask(api.ExplainTaskRequest(task_id=task_id))

    assert found == plain(expected)


# --- refusals ------------------------------------------------------------------------------------


async def test_a_state_that_no_task_is_in_has_no_tasks(edge: Edge):
    await edge.submit()

    found = await answer(edge, "GET", "/api/tasks?state=done")

    assert found == {"tasks": [], "nextPageToken": ""}


async def test_a_store_that_is_down_is_said_with_a_time(edge: Edge):
    edge.dispatcher.store.down = True

    response = await edge.http.post(
        "/api/tasks", json={"pipeline": "translation", "input": {"text": "a"}}
    )

    refused(response, 503, "STORE_UNAVAILABLE", None)
    assert response.headers["retry-after"] == "1"


async def test_one_request_too_many_is_refused_at_once():
    limits = IntakeLimits(body_bytes=1000, requests=0)
    async with serving_edge(limits) as edge:
        response = await edge.http.get("/api/tasks")
        health = await edge.http.get("/healthz")

    refused(response, 429, "RATE_LIMITED", None)
    assert response.headers["retry-after"] == "1"
    assert health.status_code == 200


async def test_a_body_for_which_there_is_no_room_is_refused_at_once():
    limits = IntakeLimits(body_bytes=1000, bytes_in_hand=10)
    async with serving_edge(limits) as edge:
        response = await edge.http.post("/api/tasks", json={"pipeline": "translation"})

    refused(response, 429, "RATE_LIMITED", None)
