"""The TCP proxy of all links, a process of its own: `python -m tests.chaos.link_server`.

It prints the port of its control connection, and takes one request a line there, as JSON; see
`links.py` for what can be asked. A direction that is held is not read: what was sent comes later,
as after a partition. A new connection is taken meanwhile, and nothing comes through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from typing import Any

from tests.support.pace import lasts

CHUNK_BYTES = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class _Ended(Exception):
    """One direction is over, and with it the connection, whatever the other one waits for."""


class Shape:
    """What a link does to what goes through it, in one direction."""

    def __init__(self) -> None:
        self.delay_s = 0.0  # of each chunk
        self.bytes_a_second = 0  # 0: no limit
        self.flows = asyncio.Event()
        self.flows.set()


class Link:
    """One listening port, and where it leads."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.up, self.down = Shape(), Shape()  # from who dials, and to it
        self.opened = self.broken = self.held = self.slowed = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection until either side ends it."""
        self.opened += 1
        task = asyncio.current_task()
        self.tasks.add(task)
        with contextlib.suppress(OSError):
            await self._carry(reader, writer)
        self.tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._dial()
        except OSError:
            reset(writer)
            return
        both = {writer, far_writer}
        self.writers |= both
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pump(reader, far_writer, self.up))
                ways.create_task(self._pump(far_reader, writer, self.down))
        except* _Ended:
            pass
        finally:
            self.writers -= both
            for one in both:
                one.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.target.startswith("/"):
            return await asyncio.open_unix_connection(self.target)
        host, _, port = self.target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shape: Shape
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if not shape.flows.is_set():
                    self.held += 1
                    await shape.flows.wait()
                pause_s = shape.delay_s
                if shape.bytes_a_second:
                    pause_s += len(chunk) / shape.bytes_a_second
                if pause_s:
                    self.slowed += 1
                    await lasts(pause_s)
                writer.write(chunk)
                await writer.drain()
        await shape.flows.wait()  # the end does not come through either
        raise _Ended

    def cut(self) -> int:
        """Resets every connection; returns how many there were."""
        writers = list(self.writers)
        for writer in writers:
            reset(writer)
        self.broken += len(writers) // 2
        return len(writers) // 2

    def shape(self, asked: dict[str, Any]) -> None:
        """Changes what the link does; what is not named is as it should be."""
        for name, shape in (("up", self.up), ("down", self.down)):
            shape.delay_s = asked.get("delay_s", 0.0)
            shape.bytes_a_second = asked.get("bytes_a_second", 0)
            if name in asked.get("hold", ()):
                shape.flows.clear()
            else:
                shape.flows.set()


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


class LinkServer:
    """All links of a run."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers requests; the process ends with the connection."""
        while line := await reader.readline():
            asked = json.loads(line)
            answer = await getattr(self, f"do_{asked.pop('do')}")(**asked)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()

    async def do_open(self, name: str, target: str) -> dict[str, int]:
        """Listen for a new link."""
        link = self._links[name] = Link(target)
        server = await asyncio.start_server(link.connected, "127.0.0.1", 0)
        return {"port": server.sockets[0].getsockname()[1]}

    async def do_cut(self, name: str) -> dict[str, int]:
        """Reset what is connected."""
        return {"cut": self._links[name].cut()}

    async def do_shape(self, name: str, **asked: Any) -> dict[str, int]:
        """Delay, throttle or hold; without words: heal."""
        self._links[name].shape(asked)
        return {}

    async def do_counts(self, name: str) -> dict[str, int]:
        """What a link has seen so far."""
        link = self._links[name]
        return {"opened": link.opened, "held": link.held, "slowed": link.slowed}


async def serve() -> None:
    """Serve one control connection to its end."""
    server, over = LinkServer(), asyncio.Event()

    async def controlled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.control(reader, writer)
        over.set()

    listening = await asyncio.start_server(controlled, "127.0.0.1", 0)
    print(f"control at {listening.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await over.wait()


if __name__ == "__main__":
    asyncio.run(serve())
    sys.exit(0)
