"""A TCP proxy before Redis that swallows replies and holds requests back when told to."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

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

    async def serve(self, stack: AsyncExitStack) -> None:
        """Listen until the stack is closed."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        await stack.enter_async_context(server)
        stack.push_async_callback(self._cut)
        self._port = server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
        upstream_reader, upstream_writer = await self._dial()
        self._writers |= {writer, upstream_writer}
        doomed, freeing = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, upstream_writer, doomed, freeing))
                group.create_task(self._replies(upstream_reader, writer, doomed, freeing))
        finally:
            for each in (writer, upstream_writer):
                each.close()
                with suppress(ConnectionError):
                    await each.wait_closed()

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
            if doomed.is_set():
                self.swallowed += 1
                break
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
