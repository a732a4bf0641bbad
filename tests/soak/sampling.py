"""What processes and the server hold at one moment (Linux: from /proc)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio

__all__ = ["ProcessSample", "ServerSample", "process_sample", "server_sample"]

KIB = 1024


class ProcessSample(msgspec.Struct, frozen=True, kw_only=True):
    """One process."""

    rss_bytes: int
    fds: int
    threads: int


class ServerSample(msgspec.Struct, frozen=True, kw_only=True):
    """One Redis."""

    used_bytes: int  # what its data and buffers take
    keys: int
    entries: int  # XLEN of all lanes
    live: int  # tasks that have not ended


def process_sample(pid: int) -> ProcessSample:
    """Read what a running process holds.

    Raises:
        FileNotFoundError: It has ended.
    """
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return ProcessSample(
        rss_bytes=int(fields["VmRSS"].split()[0]) * KIB,
        fds=len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - names are enough
        threads=int(fields["Threads"]),
    )


async def server_sample(server: redis.asyncio.Redis, lanes: list[str]) -> ServerSample:
    """Ask a Redis that answers str.

    Args:
        lanes: Names of the streams.
    """
    asked: Any = server
    memory = await asked.info("memory")
    return ServerSample(
        used_bytes=int(memory["used_memory"]),
        keys=int(await asked.dbsize()),
        entries=sum([int(await asked.xlen(lane)) for lane in lanes]),
        live=int(await asked.hget("task:count", "live") or 0),
    )
