"""A grpc.aio server with two streaming methods and nothing behind them.

What grows here, too, when streams are opened and cancelled, is gRPC's. Prints its port.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

__all__ = ["MODULE", "SERVICE"]

MODULE = "tests.soak.bare_server"
SERVICE = "bare.Streams"


async def watch(_request: bytes, context: Any) -> None:
    """Say one thing, and wait until the caller leaves."""
    await context.write(b"snapshot")
    await asyncio.Event().wait()


async def work(_requests: Any, context: Any) -> None:
    """Hear one thing, say one thing, and read until the caller leaves."""
    await context.read()
    await context.write(b"registered")
    while await context.read() is not grpc.aio.EOF:
        pass


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
        "Work": grpc.stream_stream_rpc_method_handler(work),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"port {port}", flush=True)  # noqa: T201 - what the parent waits for
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
