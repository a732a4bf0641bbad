"""Requests that are refused, each with its reason and what is at fault."""

from typing import Any

import pytest

from tests.support.edge import Edge, exchange, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "0" * 32
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("keys", [[""], ["a b"], ["a" * 129], ["a", "b"], ["é"]])
async def test_a_bad_key_is_refused(shared_edge: Edge, keys: list[str]):
    body = {"pipeline": "translation", "input": {"text": "a"}}
    headers = [("Idempotency-Key", key.encode()) for key in keys]

    response = await shared_edge.http.post("/api/tasks", json=body, headers=headers)

    refused(response, 400, "INVALID_TASK", "Idempotency-Key")


@pytest.mark.parametrize(
    ("members", "status", "reason", "field"),
    [
        ({"pipeline": "none"}, 422, "INVALID_TASK", "pipeline"),
        ({"input": {}}, 422, "INVALID_TASK", "input"),
        ({"input": {"text": "a" * (1 << 20)}}, 413, "PAYLOAD_TOO_LARGE", "input"),
        ({"delay": "-1s"}, 422, "INVALID_TASK", "delay"),
        ({"retry": {"maxRetries": 101}}, 422, "INVALID_TASK", "retry.maxRetries"),
        ({"retry": {"initialDelay": "0s"}}, 422, "INVALID_TASK", "retry.initialDelay"),
        ({"labels": {"a": "b" * 64}}, 422, "INVALID_TASK", "labels"),
        ({"requestId": "a b"}, 422, "INVALID_TASK", "requestId"),
        ({"input": {"json": {"snake_case": 2**60}}}, 422, "INVALID_TASK", "input.json.snake_case"),
        ({"unknown": 1}, 422, "INVALID_TASK", "unknown"),
        ({"requireDurable": True}, 503, "STORE_UNAVAILABLE", None),
    ],
)
async def test_a_bad_member_is_named(
    shared_edge: Edge, members: dict[str, Any], status: int, reason: str, field: str | None
):
    body = {"pipeline": "translation", "input": {"text": "a"}} | members

    response = await shared_edge.http.post("/api/tasks", json=body)

    refused(response, status, reason, field)


@pytest.mark.parametrize("requests", [[], [{}] * 1001])
async def test_a_batch_of_a_wrong_size_is_refused(shared_edge: Edge, requests: list[Any]):
    response = await shared_edge.http.post("/api/tasks:batch", json={"requests": requests})

    refused(response, 422, "INVALID_TASK", "requests")


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({}, "decision"),
        ({"decision": "REVIEW_DECISION_REJECTED", "reviewer": "li"}, "feedback"),
        ({"decision": "REVIEW_DECISION_APPROVED"}, "reviewer"),
        ({"decision": "REVIEW_DECISION_APPROVED", "reviewer": "li", "version": -1}, "version"),
        ({"decision": 99, "reviewer": "li"}, "decision"),
    ],
)
async def test_a_bad_review_is_refused(shared_edge: Edge, members: dict[str, Any], field: str):
    response = await shared_edge.http.post(f"/api/tasks/{UNKNOWN}/review", json=members)

    refused(response, 422, "INVALID_TASK", field)


TASK_ROUTES = [
    ("GET", "/api/tasks/{}"),
    ("GET", "/api/tasks/{}/history"),
    ("POST", "/api/tasks/{}/cancel"),
]


@pytest.mark.parametrize(("method", "path"), TASK_ROUTES)
async def test_an_unknown_task_is_not_found(shared_edge: Edge, method: str, path: str):
    response = await shared_edge.http.request(method, path.format(UNKNOWN), headers=JSON)

    refused(response, 404, "TASK_NOT_FOUND", None)


@pytest.mark.parametrize(("method", "path"), TASK_ROUTES)
@pytest.mark.parametrize(
    "task_id",
    ["x", "A" * 32, "%00" * 32, "0" * 1024, "*", "%F0%9F%92%A9", "%ff", "0" * 31 + "\uff10"],
)
async def test_what_is_no_task_id_is_refused(
    shared_edge: Edge, method: str, path: str, task_id: str
):
    response = await shared_edge.http.request(method, path.format(task_id), headers=JSON)

    refused(response, 400, "INVALID_TASK", "task_id")


@pytest.mark.parametrize(
    "path", ["/api/tasks/..%2fstats", "/api/tasks/%2e%2e/stats", "/api/tasks/", "//api/tasks"]
)
async def test_what_is_no_route_is_not_found(shared_edge: Edge, path: str):
    line = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    response = await exchange(shared_edge.port, line.encode())

    assert (response.status, response.json()["reason"]) == (404, "NO_SUCH_ROUTE")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/tasks", {"GET", "HEAD", "POST"}),
        ("PUT", f"/api/tasks/{UNKNOWN}", {"GET", "HEAD"}),
        ("GET", f"/api/tasks/{UNKNOWN}/cancel", {"POST"}),
        ("TRACE", "/api/tasks", {"GET", "HEAD", "POST"}),
        ("OPTIONS", "/api/tasks", {"GET", "HEAD", "POST"}),
        ("QUUX", "/api/dead-letters", {"GET", "HEAD"}),
    ],
)
async def test_another_method_is_told_those_that_are_served(
    shared_edge: Edge, method: str, path: str, allowed: set[str]
):
    response = await shared_edge.http.request(method, path)

    refused(response, 405, "METHOD_NOT_ALLOWED", None)
    assert set(response.headers["allow"].split(", ")) == allowed


async def test_head_answers_as_get_without_a_body(shared_edge: Edge):
    response = await shared_edge.http.head("/api/tasks")

    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page_size=-1", "page_size"),
        ("page_size=1001", "page_size"),
        ("page_size=\uff11\uff10", "page_size"),
        ("page_size=", "page_size"),
        ("page_size=1.0", "page_size"),
        ("page_size=99999999999", "page_size"),
        ("page_size=1&page_size=1", "page_size"),
        ("page_token=junk", "page_token"),
        ("page_token=%00", "page_token"),
        ("label=a", "label"),
        ("label==b", "label"),
        ("label=a=b&label=a=c", "label"),
        ("limit=1", "limit"),
        ("pageSize=1", "pageSize"),
    ],
)
async def test_a_bad_parameter_is_named(shared_edge: Edge, query: str, field: str):
    response = await shared_edge.http.get(f"/api/tasks?{query}")

    refused(response, 400, "INVALID_TASK", field)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (f"/api/tasks/{UNKNOWN}?payloads=yes", "payloads"),
        (f"/api/tasks/{UNKNOWN}/history?after=-1", "after"),
        (f"/api/tasks/{UNKNOWN}/history?after={10**18}", "after"),
    ],
)
async def test_a_bad_parameter_of_a_task_is_named(shared_edge: Edge, path: str, field: str):
    refused(await shared_edge.http.get(path), 400, "INVALID_TASK", field)


@pytest.mark.parametrize(
    "path", ["/api/tasks", "/api/tasks/x", "/api/openapi.json", "/api/nothing"]
)
async def test_no_answer_is_sniffed_or_cached(shared_edge: Edge, path: str):
    response = await shared_edge.http.get(path)

    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
