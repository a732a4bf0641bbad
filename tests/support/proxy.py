"""A TCP proxy before Redis that swallows replies and holds requests back when told to."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.pace import lasts

__all__ = ["Proxy", "running_proxy"]

CHUNK_BYTES = 1 << 16


class Proxy:
    """Hands bytes on in both directions.

    Args:
        target_url: The redis:// or unix:// URL behind the proxy.
    """

    def __init__(self, target_url: str) -> None:
        self._target = urlsplit(target_url)
        self._port = 0
        self._markers: list[bytes] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._held_marker = self._freeing_marker = b""
        self._freed = asyncio.Event()
        self.holding = asyncio.Event()  # a request is held back
        self.swallowed = 0  # replies that nobody received
        self.delay_s = 0.0  # how long each reply is held back
        self._cut_marker = b""
        self._spared = 0
        self._dying = False
        self.cut = asyncio.Event()  # a request was delivered, and nobody is connected any more
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"redis://127.0.0.1:{self._port}"

    def swallow_reply_to(self, marker: bytes, *, times: int = 1) -> None:
        """Deliver the next requests that contain the marker, but not their replies."""
        self._markers += [marker] * times

    def hold_request(self, marker: bytes, *, until_reply_to: bytes) -> None:
        """Hold back requests with the marker until another request has been answered."""
        self._held_marker, self._freeing_marker = marker, until_reply_to

    def release(self) -> None:
        """Let go what is held back."""
        self._freed.set()

    def cut_at(self, marker: bytes, *, after: int = 0) -> None:
        """Die with a request that contains the marker: it is delivered, and never answered.

        Args:
            after: How many such requests are answered before.
        """
        self.cut.clear()
        self._cut_marker, self._spared = marker, after

    def refuse(self) -> None:
        """Drop every connection, and refuse new ones until `accept`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.close()

    async def accept(self) -> None:
        """Listen, again at the same port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def serve(self, stack: AsyncExitStack) -> None:
        """Listen until the stack is closed."""
        await self.accept()
        stack.push_async_callback(self._close)

    async def _close(self) -> None:
        self.refuse()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
        upstream_reader, upstream_writer = await self._dial()
        self._writers |= {writer, upstream_writer}
        if self._server is None:  # refused while it dialled
            writer.close()
            upstream_writer.close()
        doomed, freeing = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, upstream_writer, doomed, freeing))
                group.create_task(self._replies(upstream_reader, writer, doomed, freeing))
        finally:
            self._writers -= {writer, upstream_writer}
            for each in (writer, upstream_writer):
                each.close()
                with suppress(ConnectionError):
                    await each.wait_closed()

    def _die(self) -> None:
        self._cut_marker, self._dying = b"", False
        self.refuse()
        self.cut.set()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(self._target.path))
        return await asyncio.open_connection(self._target.hostname, self._target.port or 6379)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
        doomed: asyncio.Event,
        freeing: asyncio.Event,
    ) -> None:
        while chunk := await _read(reader):
            for marker in self._markers:
                if marker in chunk:
                    self._markers.remove(marker)
                    doomed.set()
                    break
            if self._held_marker and self._held_marker in chunk:
                self.holding.set()
                await self._freed.wait()
            if self._freeing_marker and self._freeing_marker in chunk:
                freeing.set()
            if self._cut_marker and self._cut_marker in chunk:
                self._spared -= 1
                if self._spared < 0:
                    self._dying = True
                    doomed.set()
            upstream.write(chunk)
            await upstream.drain()
        upstream.close()

    async def _replies(
        self,
        upstream: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        doomed: asyncio.Event,
        freeing: asyncio.Event,
    ) -> None:
        while chunk := await _read(upstream):
            if doomed.is_set() or self._dying:
                self.swallowed += 1
                if doomed.is_set() and self._dying:
                    self._die()
                break
            if self.delay_s:  # a slow server
                await lasts(self.delay_s)
            writer.write(chunk)
            await writer.drain()
            if freeing.is_set():
                self._freed.set()
        writer.close()


@asynccontextmanager
async def running_proxy(target_url: str) -> Any:
    """A proxy before a server for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        proxy = Proxy(target_url)
        await proxy.serve(stack)
        yield proxy


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(CHUNK_BYTES)
    except ConnectionError:
        return b""
