"""Section `submit`: how fast tasks are accepted, while nobody serves their queue."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc

from bench.figures import Figure, Measured, Ratio
from bench.load import PAYLOAD
from bench.sections import Round
from bench.stage import Options, Stage, staged
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import task_pb2
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub

__all__ = ["FIGURES", "RATIOS", "opened"]

BATCHED: Final = 10_000  # tasks of one round
SINGLE: Final = 4_000
AT_ONCE: Final = 50
STOP_S: Final = 5.0

_FROM_TO: Final = "tasks of 100 bytes on a queue that nobody serves; first call to last answer"

FIGURES: Final = (
    Figure(
        name="submit.batches",
        unit="tasks/s",
        explains=f"submit_batch of 250, four at once: {_FROM_TO}",
        aim="≥ 20,000",
    ),
    Figure(
        name="submit.callers",
        unit="tasks/s",
        explains=f"50 callers of AsyncClient.submit, each one task at a time: {_FROM_TO}",
        aim="≥ 10,000",
    ),
    Figure(
        name="submit.unary",
        unit="tasks/s",
        explains=f"Submit by the generated stub, one channel, 50 calls at a time: {_FROM_TO}",
    ),
    Figure(
        name="submit.empty",
        unit="calls/s",
        explains="the same calls to a grpc.aio server in another process that answers at once",
    ),
)

RATIOS: Final = (
    Ratio(
        of="submit.unary",
        to="submit.empty",
        explains="single Submits over empty calls",
        aim="≥ 0.5",
    ),
    Ratio(of="submit.batches", to="submit.empty", explains="tasks in batches over empty calls"),
    Ratio(of="submit.callers", to="submit.empty", explains="tasks of 50 callers over empty calls"),
)


@asynccontextmanager
async def opened(options: Options, measured: Measured) -> AsyncIterator[Mapping[str, Round]]:
    """Run a system without workers, and a server of empty calls."""
    async with staged(workers=0) as stage:
        with _empty_server() as address:
            yield {"submit": lambda: _submit(options, measured, stage, address)}


async def _submit(options: Options, measured: Measured, stage: Stage, empty: str) -> None:
    tasks, calls = options.amount(BATCHED), options.amount(SINGLE)

    async def one_by_one() -> None:
        await stage.client.submit("parked", PAYLOAD)

    async def timed(calling: Awaitable[None]) -> float:
        began = time.perf_counter()
        await calling
        return time.perf_counter() - began

    measured.add("submit.batches", tasks / await timed(stage.submit("parked", tasks)))
    measured.add("submit.callers", calls / await timed(_at_once(one_by_one, calls)))
    for name, address in (("submit.unary", stage.system.address), ("submit.empty", empty)):
        async with grpc.aio.insecure_channel(address) as channel:
            call = _unary(channel)
            await call()
            measured.add(name, calls / await timed(_at_once(call, calls)))


def _unary(channel: grpc.aio.Channel) -> Callable[[], Awaitable[Any]]:
    """One Submit as the generated stub makes it, without a request id."""
    stub: Any = DispatcherServiceStub(channel)
    request = api.SubmitRequest(pipeline="parked", input=task_pb2.Payload(data=PAYLOAD))
    return lambda: stub.Submit(request)


async def _at_once(call: Callable[[], Awaitable[Any]], amount: int) -> None:
    left = iter(range(amount))

    async def caller() -> None:
        for _ in left:
            await call()

    async with asyncio.TaskGroup() as callers:
        for _ in range(AT_ONCE):
            callers.create_task(caller())


@contextmanager
def _empty_server() -> Iterator[str]:
    """A server of empty calls in a process of its own; its address."""
    command = [sys.executable, "-m", "bench.empty_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait(STOP_S)
