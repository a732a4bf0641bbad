"""Asks a dispatcher over HTTP whether it is ready and which workers it has.

HTTP, because the supervising process spawns children for as long as it lives and grpc, once loaded,
does not like to be forked under.
"""

import http.client
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Roster", "dialable", "fetch", "free_address", "is_ready", "is_taken"]

_TIMEOUT_S = 1.0
_CACHED_S = 0.05
_STATS_BYTES_MAX = 1024 * 1024
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - read, not bound


def dialable(address: str) -> str:
    """The address to call for one that is listened at: the loopback host for `any`."""
    host, _, port = address.rpartition(":")
    return f"{_ANY_HOST.get(host, host)}:{port}"


def free_address() -> str:
    """A loopback address on a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def is_taken(address: str) -> bool:
    """Whether somebody listens there already."""
    host, _, port = dialable(address).rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT_S):
            return True
    except OSError:
        return False


def is_ready(http_address: str) -> bool:
    """Whether the dispatcher takes calls."""
    return _get(http_address, "/readyz") is not None


class Roster:
    """The workers that a dispatcher has a session with; asks at most 20 times a second."""

    def __init__(self, http_address: str) -> None:
        self._http_address = http_address
        self._workers: dict[str, Any] = {}
        self._asked_mono = float("-inf")

    def has(self, name: str) -> bool:
        """Whether the worker of that name is running."""
        if time.monotonic() - self._asked_mono > _CACHED_S:
            body = _get(self._http_address, "/api/stats") or {}
            self._workers = body.get("workers", {})
            self._asked_mono = time.monotonic()
        return bool(self._workers.get(name, {}).get("isRunning"))


def _get(http_address: str, path: str) -> dict[str, Any] | None:
    """The JSON object at a path; None when the answer is none, or not 200."""
    answer = fetch(http_address, path)
    return answer.body if answer and answer.status == http.client.OK else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back over HTTP."""

    status: int
    body: dict[str, Any]


def fetch(http_address: str, path: str) -> Answer | None:
    """The JSON object at a path, whatever its status; None when there is none."""
    connection = http.client.HTTPConnection(dialable(http_address), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = json.loads(response.read(_STATS_BYTES_MAX))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return Answer(status=response.status, body=body) if isinstance(body, dict) else None
