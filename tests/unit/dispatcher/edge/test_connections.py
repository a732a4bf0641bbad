"""Bytes that are no request, requests that never end, and more of them than there is room for."""

import asyncio
import logging

import pytest

from stepstream_dispatcher.edge import connections
from stepstream_dispatcher.edge.connections import HEADER_BYTES_MAX, Connection
from tests.support.edge import Edge, exchange, serving_edge

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /api/tasks HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"junk\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        GET + b"Bad header: x\r\n\r\n",
        GET + b"X: \x00\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: \xef\xbc\x91\r\n\r\n{}",
        POST + b"Content-Length: 999999999999999999999999\r\n\r\n{}",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n{}",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"2\r\n{}junk",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused(shared_edge: Edge, sent: bytes, caplog):
    with caplog.at_level(logging.ERROR):
        response = await exchange(shared_edge.port, sent)

    assert (response.status, response.json()["reason"]) == (400, "MALFORMED_REQUEST")
    assert response.headers["connection"] == "close"
    assert response.headers["content-type"] == "application/problem+json"
    assert caplog.records == []


@pytest.mark.parametrize(
    "headers", [b"X: " + b"a" * HEADER_BYTES_MAX, b"X-Number: 1\r\n" * 4000, b"a" * 70_000]
)
async def test_headers_beyond_the_limit_are_refused(shared_edge: Edge, headers: bytes):
    response = await exchange(shared_edge.port, GET + headers)

    assert (response.status, response.json()["reason"]) == (431, "HEADERS_TOO_LARGE")


@pytest.mark.parametrize("query", [b"a" * 8192, b"page_token=" + b"a" * 8192])
async def test_a_query_beyond_the_limit_is_refused(shared_edge: Edge, query: bytes):
    line = b"GET /api/tasks?" + query + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    response = await exchange(shared_edge.port, line)

    assert (response.status, response.json()["reason"]) == (414, "QUERY_TOO_LONG")


@pytest.mark.parametrize("line", [GET, POST])
async def test_two_lengths_are_refused_and_the_connection_closed(shared_edge: Edge, line: bytes):
    """What a proxy would take for a second request is not read."""
    both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"

    response = await exchange(shared_edge.port, line + both + GET + b"\r\n")

    assert (response.status, response.json()["reason"]) == (400, "MALFORMED_REQUEST")
    assert response.body.count(b"HTTP/1.1") == 0


@pytest.mark.parametrize("target", [b"http://elsewhere/healthz", b"a:443", b"*", b"/%ff", b"/%00"])
async def test_odd_targets_lead_nowhere(shared_edge: Edge, target: bytes):
    line = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    assert (await exchange(shared_edge.port, line)).status == 404


async def test_connect_leads_nowhere(shared_edge: Edge):
    line = b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    assert (await exchange(shared_edge.port, line)).status == 404


async def test_who_waits_to_be_told_to_go_on_is_told(shared_edge: Edge):
    sent = POST + b"Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"

    response = await exchange(shared_edge.port, sent, b"{}")

    assert response.status == 100
    assert b"422" in response.body


async def test_requests_behind_each_other_are_answered_in_order(shared_edge: Edge):
    first = GET + b"\r\n"
    last = b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    response = await exchange(shared_edge.port, first * 3 + last)

    assert response.status == 200
    assert response.body.count(b"HTTP/1.1 200") == 2
    assert response.body.count(b"HTTP/1.1 404") == 1


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTT", GET])
@pytest.mark.parametrize("before", [0, 1])
async def test_a_request_that_never_ends_is_given_up(
    shared_edge: Edge, sent: bytes, before: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Connection, "request_s", 0.05)

    reader, writer = await asyncio.open_connection("127.0.0.1", shared_edge.port)
    for _ in range(before):
        writer.write(GET + b"\r\n")
        await reader.readuntil(b'{"status":"ok"}')
    writer.write(sent or b"G" * before)
    async with asyncio.timeout(10):
        received = await reader.read()
    writer.close()

    assert b"HTTP/1.1 408" in received
    assert b"REQUEST_TOO_SLOW" in received


async def test_a_connection_that_rests_between_requests_is_kept(
    shared_edge: Edge, monkeypatch: pytest.MonkeyPatch
):
    reader, writer = await asyncio.open_connection("127.0.0.1", shared_edge.port)
    monkeypatch.setattr(Connection, "request_s", 0)
    for _ in range(2):
        writer.write(GET + b"\r\n")
        await reader.readuntil(b'{"status":"ok"}')
    writer.close()


async def test_one_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 1)
    async with serving_edge() as edge:
        _, first = await asyncio.open_connection("127.0.0.1", edge.port)
        response = await exchange(edge.port, GET + b"\r\n")
        first.close()

    assert (response.status, response.json()["reason"]) == (503, "TOO_MANY_CONNECTIONS")
    assert response.headers["retry-after"] == "1"
