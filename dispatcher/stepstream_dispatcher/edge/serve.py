"""Serves the HTTP application on the dispatcher's own event loop, by uvicorn.

gRPC's poller wants one event loop per process, so HTTP runs on the same one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from stepstream_dispatcher.addresses import ListenError, split_address
from stepstream_dispatcher.edge.connections import HEADER_BYTES_MAX, Connection

__all__ = ["open_listener", "serve_http"]

_BACKLOG: Final = 2048
_STOP_S: Final = 2  # an answer that takes longer is cut off when the dispatcher leaves


def open_listener(address: str) -> socket.socket:
    """Listen at `host:port`; port 0 lets the system choose, `getsockname()[1]` is the port.

    Raises:
        ListenError: The address is in use or not ours.
    """
    host, port = split_address(address)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ListenError("HTTP", address, error.strerror or str(error)) from error
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which this
    # one does not; without it the body of every answer waits 40 ms for the header to be received.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def serve_http(app: ASGIApp, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then finish the answers in progress and close the listener."""
    server = _Server(
        uvicorn.Config(
            app,
            access_log=False,
            h11_max_incomplete_event_size=HEADER_BYTES_MAX,
            http=Connection,
            lifespan="off",
            log_config=None,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=_STOP_S,
            ws="none",
        )
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]))
            await stop.wait()
            server.should_exit = True
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """Leaves the signals to the dispatcher, whose drain comes first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
