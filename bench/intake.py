"""What reading requests within the limits costs: `python -m bench.intake`.

Serves a Submit that answers at once, with the intake and without it, and prints the calls a second
of both. The client and the servers share one process; the CPU time of a call, of both sides, says
the same on a machine that does other things meanwhile.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, Final

import grpc

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from stepstream_dispatcher.rpc.intake import CallIntake, CallLimits
from stepstream_dispatcher.rpc.status import StatusInterceptor

ROUNDS: Final = 5
CALLS: Final = 4_000
AT_ONCE: Final = 50
SERVICE: Final = api.DESCRIPTOR.services_by_name["DispatcherService"].full_name
REQUEST: Final = api.SubmitRequest(pipeline="p", request_id="r" * 36)


async def submit(request: api.SubmitRequest, _context: Any) -> api.SubmitResponse:
    """Answers at once."""
    return api.SubmitResponse(task_id=request.request_id)


HANDLER: Final = grpc.unary_unary_rpc_method_handler(
    submit, api.SubmitRequest.FromString, api.SubmitResponse.SerializeToString
)


async def main() -> None:
    """Measure both in turn, and print the medians and their ratio."""
    without = await _server([StatusInterceptor()])
    within = await _server([StatusInterceptor(), CallIntake(CallLimits())])
    pairs = [(await _measured(without[1]), await _measured(within[1])) for _ in range(ROUNDS)]
    for server, _ in (without, within):
        await server.stop(None)
    for name, which in (("calls/s", 0), ("CPU us a call", 1)):
        plain = [pair[0][which] for pair in pairs]
        read = [pair[1][which] for pair in pairs]
        ratios = sorted(b / a for a, b in zip(plain, read, strict=True))
        print(
            f"{name}: {statistics.median(plain):,.0f} without, {statistics.median(read):,.0f} with,"
            f" ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


async def _server(interceptors: list[grpc.aio.ServerInterceptor]) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(interceptors=interceptors)
    service = grpc.method_handlers_generic_handler(SERVICE, {"Submit": HANDLER})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def _measured(port: int) -> tuple[float, float]:
    """Calls a second, so many at once, and the microseconds of CPU that each of them takes."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = DispatcherServiceStub(channel)
        await stub.Submit(REQUEST)
        began_mono, began_cpu = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as callers:
            for _ in range(AT_ONCE):
                callers.create_task(_calls(stub, CALLS // AT_ONCE))
        took_s = time.monotonic() - began_mono
        return CALLS / took_s, (time.process_time() - began_cpu) / CALLS * 1e6


async def _calls(stub: Any, count: int) -> None:
    for _ in range(count):
        await stub.Submit(REQUEST)


if __name__ == "__main__":
    asyncio.run(main())
