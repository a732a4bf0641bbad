"""HTTP connections: limits in number and time, and problems where the request is no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from stepstream_dispatcher.edge.problems import REASONS, problem

__all__ = ["HEADER_BYTES_MAX", "Connection"]

HEADER_BYTES_MAX: Final = 32_768  # request line and headers
CONNECTIONS_MAX: Final = 1_000
_REQUEST_S: Final = 10.0  # to send request line and headers in, or the rest of a refused body
_TOO_LONG: Final = 431
_WORDS: Final = {
    400: "the request is not HTTP/1.1",
    408: f"the request did not arrive within {_REQUEST_S:g} s",
    _TOO_LONG: f"request line and headers must have at most {HEADER_BYTES_MAX} bytes",
    503: f"{CONNECTIONS_MAX} connections are open, which is the limit",
}


class Connection(H11Protocol):
    """One connection; adds to uvicorn's what it has no limit for.

    uvicorn waits without end for the headers of a first request, and for the rest of one that has
    begun behind another.
    """

    request_s = _REQUEST_S

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._too_slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            self._refuse(503)
        else:
            self._keep_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limit."""
        self._stop_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the time limit runs as long as they make no whole request."""
        super().data_received(data)
        self._keep_time()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Say what is wrong with bytes that are no request; uvicorn's own words are not said."""
        error = sys.exception()  # it calls from where it caught it
        too_long = (
            isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == _TOO_LONG
        )
        self._refuse(_TOO_LONG if too_long else 400)

    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _keep_time(self) -> None:
        if self._answering() or self.transport.is_closing():
            self._stop_time()
        elif self._too_slow is None:
            self._too_slow = self.loop.call_later(self.request_s, self._refuse, 408)

    def _stop_time(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _refuse(self, status: int) -> None:
        response = problem(status, REASONS[status], _WORDS[status])
        headers = [*response.raw_headers, (b"connection", b"close")]
        events = (
            h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        )
        with contextlib.suppress(
            h11.LocalProtocolError
        ):  # an answer has begun; only its end is left
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        if self._answering():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
