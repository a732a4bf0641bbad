"""One PING on a fresh connection tells a Redis that is down from one that is slow."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.store.port import StoreUnreachable
from stepstream_dispatcher.store.redis import RedisStore
from tests.support.redis import running_redis

SOCKETS = ["tcp", "unix"]
AT_ONCE_S = 5.0


@asynccontextmanager
async def played(folder: Path, socket: str, answer: bytes | None) -> AsyncGenerator[str, None]:
    """A server that answers every command the same, or, with None, hangs up; yields its URL."""

    left: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.append(gone := asyncio.Event())
        while answer is not None and (chunk := await reader.read(1 << 16)):
            writer.write(answer * chunk.count(b"*"))
        writer.close()
        gone.set()

    if socket == "unix":
        path = folder / "redis.sock"
        server, url = await asyncio.start_unix_server(serve, path), f"unix://{path}"
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield url
        for gone in left:
            await gone.wait()


async def outcome(url: str) -> str:
    """What a ping raises; empty when it returns."""
    store = RedisStore(url, dispatcher_id="d1")
    try:
        async with asyncio.timeout(AT_ONCE_S):
            await store.ping()
    except StoreUnavailable as error:
        return type(error).__name__
    else:
        return ""
    finally:
        await store.close()


DOWN, NOT_DOWN = StoreUnreachable.__name__, StoreUnavailable.__name__


@pytest.mark.parametrize("socket", SOCKETS)
@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (None, DOWN),
        (b"-LOADING Redis is loading the dataset in memory\r\n", DOWN),
        (b"-NOAUTH Authentication required.\r\n", NOT_DOWN),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", NOT_DOWN),
        (b"-MASTERDOWN Link with MASTER is down\r\n", NOT_DOWN),
    ],
    ids=["hangs up", "LOADING", "NOAUTH", "MISCONF", "MASTERDOWN"],
)
async def test_what_an_answer_means(
    tmp_path: Path, socket: str, answer: bytes | None, meaning: str
):
    async with played(tmp_path, socket, answer) as url:
        assert await outcome(url) == meaning


@pytest.mark.parametrize("socket", SOCKETS)
async def test_a_password_that_is_wrong_is_no_outage(tmp_path: Path, socket: str):
    async with played(tmp_path, socket, b"-WRONGPASS invalid password\r\n") as url:
        scheme, _, rest = url.partition("://")
        assert await outcome(f"{scheme}://:secret@{rest}") == NOT_DOWN


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///nonexistent/redis.sock"])
async def test_nobody_listens(url: str):
    assert await outcome(url) == DOWN


async def test_a_redis_that_serves_answers(redis_url: str):
    assert await outcome(redis_url) == ""


@pytest.mark.parametrize("socket", SOCKETS)
async def test_a_frozen_redis_is_not_down(tmp_path: Path, socket: str, unused_tcp_port: int):
    """The system takes connections for it, and nobody answers the handshake."""
    tcp_port = unused_tcp_port if socket == "tcp" else None
    with running_redis(tmp_path, tcp_port=tcp_port) as server:
        assert server.process is not None
        url = f"redis://127.0.0.1:{tcp_port}" if tcp_port else server.url
        assert await outcome(url) == ""
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            assert await outcome(url) == NOT_DOWN
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
