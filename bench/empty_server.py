"""A grpc.aio server whose Submit answers at once with nothing; prints its address."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

from stepstream.v1 import dispatcher_service_pb2 as api

SERVICE: Final = api.DESCRIPTOR.services_by_name["DispatcherService"].full_name


async def submit(_request: api.SubmitRequest, _context: Any) -> api.SubmitResponse:
    """Answer."""
    return api.SubmitResponse()


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(
        submit, api.SubmitRequest.FromString, api.SubmitResponse.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler(SERVICE, {"Submit": handler})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
