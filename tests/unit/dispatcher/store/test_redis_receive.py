"""What the link receives, and into what, against a server that answers all alike."""

import asyncio
import re
import socket
import tracemalloc
from contextlib import asynccontextmanager

import pytest

from stepstream.errors import StoreUnavailable
from stepstream_dispatcher.store.redis_link import Link
from stepstream_dispatcher.store.redis_receive import RECEIVE_BYTES

LIMIT_S = 3
STREAM_BYTES = 256 * 1024  # what a stream of asyncio receives into
COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n(\w+)")


async def serve(listener, reply, reads):
    """Answer one connection after the other."""
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(listener)
        with connection:
            await answer(connection, reply, reads)


async def answer(connection, reply, reads):
    """Answer a connection until there is no reply; reads little, so that little is allocated."""
    loop = asyncio.get_running_loop()
    asked = b""
    while chunk := await loop.sock_recv(connection, reads):
        asked += chunk
        names = COMMAND.findall(asked)
        if b"GET" in names and not asked.endswith(b".\r\n"):
            continue  # there is more of it
        words = reply if b"GET" in names else b"".join(map(greeting_to, names))
        if not words:
            return
        await loop.sock_sendall(connection, words)
        asked = b""


def greeting_to(name):
    return b"+PONG\r\n" if name == b"PING" else b"+OK\r\n"


@asynccontextmanager
async def linked(tmp_path, reply, *, reads=1 << 12):
    """A link to a server that gives one reply to every GET that ends with a dot."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(path)
        listener.listen()
        link = Link(f"unix://{path}", connections_max=1, name="test")
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            server = group.create_task(serve(listener, reply, reads))
            try:
                yield link
            finally:
                await link.close()
                server.cancel()


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text)


@pytest.mark.parametrize("size", [1, RECEIVE_BYTES - 1, RECEIVE_BYTES, 10 * RECEIVE_BYTES + 1])
async def test_replies_of_any_size_arrive_whole(tmp_path, size):
    text = bytes(at % 251 for at in range(size))

    async with linked(tmp_path, bulk(text)) as link:
        replies = [await link.ask(("GET", ".")) for _ in range(2)]

    assert replies == [[text], [text]]


async def test_receiving_allocates_no_more_than_what_comes(tmp_path):
    async with linked(tmp_path, bulk(b"text")) as link:
        await link.ask(("GET", "."))
        tracemalloc.start()
        try:
            await link.ask(("GET", "."))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert peak < STREAM_BYTES / 2


async def test_sending_goes_on_after_a_server_that_reads_slowly(tmp_path):
    async with linked(tmp_path, bulk(b"text"), reads=1 << 12) as link:
        assert await link.ask(("GET", "x" * (1 << 20) + ".")) == [b"text"]


async def test_the_end_of_a_connection_is_heard(tmp_path):
    async with linked(tmp_path, b"") as link:
        with pytest.raises(StoreUnavailable):
            await link.ask(("GET", "."))
