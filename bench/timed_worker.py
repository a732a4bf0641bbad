"""A worker whose steps are timed: one says when it began, three in a row wait 100 ms each."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from functools import cache
from typing import Final

from bench.worker import STEP_S
from stepstream import StepContext, Worker, step

__all__ = ["BEGUN", "SUBMITTED"]

SUBMITTED: Final = struct.Struct("<q")  # time.monotonic_ns at the call of submit
BEGUN: Final = struct.Struct("<qq")  # the same, and time.monotonic_ns of the handler's first line


@step("stamp")
async def stamp(ctx: StepContext) -> None:
    """Say when it began, on the unix socket that the input names behind the time of the submit.

    A stream, because a datagram blocks its sender at ten unread ones.
    """
    begun_ns = time.monotonic_ns()
    assert isinstance(ctx.input, bytes)
    (submitted_ns,) = SUBMITTED.unpack_from(ctx.input)
    _line(ctx.input[SUBMITTED.size :]).sendall(BEGUN.pack(submitted_ns, begun_ns))


@cache
def _line(path: bytes) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.connect(path)
    return line


@step("nap_first")
async def nap_first(_ctx: StepContext) -> None:
    """Wait, as the first of three."""
    await asyncio.sleep(STEP_S)


@step("nap_second")
async def nap_second(_ctx: StepContext) -> None:
    """Wait, as the second of three."""
    await asyncio.sleep(STEP_S)


@step("nap_third")
async def nap_third(_ctx: StepContext) -> None:
    """Wait, as the third of three."""
    await asyncio.sleep(STEP_S)


app = Worker(steps=[stamp, nap_first, nap_second, nap_third], queues=["timed"])

if __name__ == "__main__":
    app.run()
