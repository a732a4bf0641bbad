"""Bodies that are no plain JSON object are refused, and named; nothing of them reaches a call."""

import asyncio
import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from structlog.testing import capture_logs

from stepstream_dispatcher.edge.bodies import IntakeLimits, parsed
from tests.support.edge import Edge, exchange, serving_edge

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"Content-Type": "application/json"}
GOOD = {"pipeline": "translation", "input": {"text": "a"}}
HEAD = b"POST /api/tasks HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
        "application/jsonp",
        "application/json; charset=utf-16",
        'application/json; charset="latin-1"',
        "application/json; boundary=a",
        "application/json, application/json",
        "application/problem+json",
    ],
)
async def test_another_content_type_is_refused(shared_edge: Edge, kind: str | None):
    headers = {} if kind is None else {"Content-Type": kind}

    response = await shared_edge.http.post("/api/tasks", content=json.dumps(GOOD), headers=headers)

    assert (response.status_code, response.json()["reason"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json ; charset="UTF-8"',
    ],
)
async def test_json_in_utf8_is_taken(shared_edge: Edge, kind: str):
    headers = {"Content-Type": kind}

    response = await shared_edge.http.post("/api/tasks", content=json.dumps(GOOD), headers=headers)

    assert response.status_code == 201


@pytest.mark.parametrize("encoding", ["gzip", "br", "x", "identity, gzip"])
async def test_a_packed_body_is_refused(shared_edge: Edge, encoding: str):
    headers = {**JSON, "Content-Encoding": encoding}

    response = await shared_edge.http.post("/api/tasks", content=b"\x1f\x8b", headers=headers)

    assert response.status_code == 415


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expecting value at line 1, column 1"),
        (b" ", "expecting value"),
        (b'{"pipeline": "tr', "unterminated string"),
        (b'{"a": 1,}', "line 1"),
        (b"{'a': 1}", "line 1"),
        (b"{} {}", "extra data"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "bom"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "a": 1}', "the key 'a' stands twice"),
        (b'{"input": {"json": {"x": {"\\ud800": 1, "\\ud800": 1}}}}', "the key '?' stands twice"),
        (DEEP, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"a": "\x00"}', "control character"),
    ],
)
async def test_what_is_no_json_is_refused(shared_edge: Edge, body: bytes, words: str):
    response = await shared_edge.http.post("/api/tasks", content=body, headers=JSON)

    assert (response.status_code, response.json()["reason"]) == (400, "MALFORMED_REQUEST")
    assert words in response.json()["detail"]


@pytest.mark.parametrize("body", ["[]", "null", "7", "true", '"text"', "1e999", "9" * 5000])
async def test_what_is_no_object_is_refused(shared_edge: Edge, body: str):
    response = await shared_edge.http.post("/api/tasks", content=body, headers=JSON)

    assert (response.status_code, response.json()["detail"]) == (400, "the body must be an object")


@pytest.mark.parametrize(
    ("member", "field"),
    [
        ('{"json": {"a": ' + "9" * 5000 + "}}", "input.json.a"),
        ('{"json": {"a": 1e999}}', "input.json.a"),
        ('{"json": {"a": 9007199254740993}}', "input.json.a"),
        ('{"json": ' + '{"a":' * 32 + "0" + "}" * 32 + "}", None),
        ('{"json": ' + '{"a":' * 33 + "0" + "}" * 33 + "}", "input.json" + ".a" * 32),
        ('{"json": {"a": "\\udc00"}}', "input.json.a"),
        ('{"text": "\\u0000"}', None),
    ],
)
async def test_a_member_beyond_its_limits_is_named(
    shared_edge: Edge, member: str, field: str | None
):
    body = f'{{"pipeline": "translation", "input": {member}}}'

    response = await shared_edge.http.post("/api/tasks", content=body, headers=JSON)

    assert response.status_code == (422 if field else 201)
    assert response.json().get("field") == field


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused_and_not_kept(announced: bool):
    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 100

    async with serving_edge(IntakeLimits(body_bytes=1000)) as edge:
        content = b" " * 4000 if announced else chunks()
        response = await edge.http.post("/api/tasks", content=content, headers=JSON)
        exact = json.dumps(GOOD).ljust(1000).encode()
        fits = await edge.http.post("/api/tasks", content=exact, headers=JSON)

    assert (response.status_code, response.json()["reason"]) == (413, "BODY_TOO_LARGE")
    assert fits.status_code == 201


async def test_a_body_that_announces_far_too_much_is_answered_before_it_comes(shared_edge: Edge):
    response = await exchange(shared_edge.port, HEAD + b"Content-Length: 99999999999\r\n\r\n{")

    assert (response.status, response.headers["connection"]) == (413, "close")


async def test_a_body_that_never_comes_is_given_up():
    async with serving_edge(IntakeLimits(body_bytes=1000, body_s=0.05)) as edge:
        response = await exchange(edge.port, HEAD + b"Content-Length: 10\r\n\r\n{")

    assert (response.status, response.json()["reason"]) == (408, "REQUEST_TOO_SLOW")
    assert response.headers["connection"] == "close"


async def test_a_caller_who_leaves_in_the_middle_is_no_error(shared_edge: Edge):
    with capture_logs() as logs:
        await exchange_and_leave(shared_edge.port)
        assert (await shared_edge.http.get("/api/tasks")).status_code == 200

    assert logs == []


async def exchange_and_leave(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + b"Content-Length: 10\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_a_key_is_found_twice_at_any_depth():
    with pytest.raises(HTTPException, match="'b' stands twice"):
        await parsed(b'{"a": [{"b": 1, "b": null}]}')
