"""HTTP over a real socket."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from stepstream_dispatcher.addresses import ListenError
from stepstream_dispatcher.edge.app import build_app
from stepstream_dispatcher.edge.serve import open_listener, serve_http
from stepstream_dispatcher.engine.stats import Stats, assemble


async def empty_stats() -> Stats:
    return assemble({}, {})


async def is_ready() -> str | None:
    return None


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[tuple[str, asyncio.Event]]:
    listener = open_listener("127.0.0.1:0")
    stop = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(serve_http(app, listener, stop))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", stop
        stop.set()


async def test_served_at_the_port_that_the_system_chose():
    async with serving(build_app(empty_stats, is_ready)) as (url, _), httpx.AsyncClient() as client:
        response = await client.get(f"{url}/healthz")

    assert response.json() == {"status": "ok"}
    assert "server" not in response.headers


async def test_signals_are_left_to_the_dispatcher():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async with serving(build_app(empty_stats, is_ready)) as (url, _), httpx.AsyncClient() as client:
        await client.get(f"{url}/healthz")
        during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    assert during == before


async def test_answer_in_progress_is_finished_after_stop():
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    async with (
        serving(slow) as (url, stop),
        httpx.AsyncClient() as client,
        asyncio.TaskGroup() as group,
    ):
        request = group.create_task(client.get(url))
        await began.wait()
        stop.set()
        go_on.set()

    assert request.result().text == "late"


async def test_stop_before_the_start_is_not_lost():
    stop = asyncio.Event()
    stop.set()

    async with asyncio.timeout(10):
        await serve_http(build_app(empty_stats, is_ready), open_listener("127.0.0.1:0"), stop)


async def test_answers_do_not_wait_for_more_to_send():
    with (
        open_listener("127.0.0.1:0") as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_address_in_use_is_a_clear_error():
    with open_listener("127.0.0.1:0") as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        with pytest.raises(ListenError, match=f"HTTP cannot listen at {address}: "):
            open_listener(address)


async def test_foreign_address_is_a_clear_error():
    with pytest.raises(ListenError, match=r"HTTP cannot listen at 192\.0\.2\.1:0: "):
        open_listener("192.0.2.1:0")
