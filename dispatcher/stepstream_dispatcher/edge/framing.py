"""Refuses a request that says its length in two ways."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from stepstream_dispatcher.edge.problems import problem

__all__ = ["OneLength"]

_BOTH: Final = ("Content-Length", "Transfer-Encoding")


class OneLength:
    """Answers 400 and closes the connection when both headers of length are there.

    A proxy that believes the other one would take the rest of the body for a request of its own.
    Source: RFC 9112, section 6.1.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope)
        if not all(name in headers for name in _BOTH):
            await self._app(scope, receive, send)
            return
        words = f"{' and '.join(_BOTH)} exclude each other"
        close = {"Connection": "close"}
        await problem(400, "MALFORMED_REQUEST", words, headers=close)(scope, receive, send)
