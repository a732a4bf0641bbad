"""The proxy of the kit cuts, holds, delays, and says what it has seen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.links import KitLinks
from tests.support.pace import before_the_next_look

LIMIT_S = 10.0
NAME = "link:w-0:d-0"


class Echo:
    """A server that answers with what it was sent, and the connection of a caller to it."""

    def __init__(self, links: KitLinks) -> None:
        self.links = links
        self.writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._echo, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = await self.links.open(NAME, f"127.0.0.1:{port}")
        await self.dial()

    async def dial(self) -> None:
        if self.writer is not None:
            self.writer.close()
        host, _, port = self.address.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def say(self, word: bytes) -> None:
        self.writer.write(word)
        await self.writer.drain()

    async def hear(self) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.read(100)

    async def counted(self, name: str) -> int:
        """Waits until the proxy has seen something."""
        async with asyncio.timeout(LIMIT_S):
            while not (count := (await self.links.counts(NAME))[name]):
                await before_the_next_look()
        return count

    async def close(self) -> None:
        self.writer.close()
        self._server.close()


@pytest_asyncio.fixture
async def echo(tmp_path: Path) -> AsyncIterator[Echo]:
    links = await KitLinks(tmp_path).start()
    echo = Echo(links)
    await echo.open()
    yield echo
    await echo.close()
    await links.close()


async def test_a_link_carries_both_ways(echo: Echo):
    await echo.say(b"word")

    assert await echo.hear() == b"word"


async def test_a_cut_resets_and_the_next_connection_works(echo: Echo):
    await echo.say(b"word")
    await echo.hear()

    assert await echo.links.cut(NAME) == 1

    with pytest.raises(ConnectionResetError):
        await echo.hear()
    await echo.dial()
    await echo.say(b"again")
    assert await echo.hear() == b"again"


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_what_is_held_comes_later_and_nothing_is_lost(echo: Echo, direction: str):
    await echo.links.hold(NAME, {direction})
    await echo.say(b"word")
    await echo.counted("held")

    await echo.links.heal(NAME)

    assert await echo.hear() == b"word"


async def test_a_connection_that_is_made_into_a_held_link_gets_nothing(echo: Echo):
    await echo.links.hold(NAME, {"up", "down"})
    await echo.dial()
    await echo.say(b"word")

    assert await echo.counted("held")


async def test_a_slow_link_delays(echo: Echo):
    await echo.links.slow(NAME, delay_s=0.05, bytes_a_second=1_000_000)
    began = time.monotonic()

    await echo.say(b"word")

    assert await echo.hear() == b"word"
    assert time.monotonic() - began >= 0.1  # once in each direction
    assert await echo.counted("slowed") == 2
