"""The links of a run, each through a proxy that can cut, hold, delay and throttle it.

The rest of the driver knows the interface `Links`; its one backend is the proxy of the kit
(`link_server.py`), in a process of its own, so that nobody slows down the links by accident.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Protocol

from tests.support.child import Child, News

__all__ = ["KitLinks", "Links"]

ANSWER_LIMIT_S = 10.0


class Links(Protocol):
    """What a backend can do. A link is known by its name, such as "link:w-0:d-1"."""

    async def open(self, name: str, target: str) -> str:
        """Make a link to `host:port` or the path of a socket; returns the address to dial."""

    async def cut(self, name: str) -> int:
        """Reset every connection; returns how many there were."""

    async def hold(self, name: str, directions: set[str]) -> None:
        """Let nothing through: "up" from who dials, "down" to it."""

    async def slow(self, name: str, *, delay_s: float, bytes_a_second: int) -> None:
        """Delay and throttle both directions."""

    async def heal(self, name: str) -> None:
        """Carry everything again, what was held too."""

    async def counts(self, name: str) -> dict[str, int]:
        """Connections `opened`, chunks `held` and `slowed`, since the link was made."""

    async def close(self) -> None:
        """End all links."""


class KitLinks:
    """The proxy of the test kit, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.child = Child("links", folder / "links.log", News())
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def start(self) -> KitLinks:
        """Start the process and connect to it."""
        await self.child.start([sys.executable, "-m", "tests.chaos.link_server"], env={})
        port = int((await self.child.line("control at")).split()[-1])
        self._streams = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def open(self, name: str, target: str) -> str:
        answer = await self._ask("open", name=name, target=target)
        return f"127.0.0.1:{answer['port']}"

    async def cut(self, name: str) -> int:
        return int((await self._ask("cut", name=name))["cut"])

    async def hold(self, name: str, directions: set[str]) -> None:
        await self._ask("shape", name=name, hold=sorted(directions))

    async def slow(self, name: str, *, delay_s: float, bytes_a_second: int) -> None:
        await self._ask("shape", name=name, delay_s=delay_s, bytes_a_second=bytes_a_second)

    async def heal(self, name: str) -> None:
        await self._ask("shape", name=name)

    async def counts(self, name: str) -> dict[str, int]:
        return await self._ask("counts", name=name)

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        if self.child.exit_code is None:
            await self.child.kill()
        self.child.close()

    async def _ask(self, do: str, **words: Any) -> dict[str, int]:
        assert self._streams is not None
        reader, writer = self._streams
        async with self._lock, asyncio.timeout(ANSWER_LIMIT_S):
            writer.write(json.dumps({"do": do, **words}).encode() + b"\n")
            line = await reader.readline()
        answer: dict[str, int] = json.loads(line)
        return answer
