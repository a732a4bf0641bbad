"""Request bodies: read in chunks up to a limit, within a time limit, as strict JSON."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from stepstream.errors import RateLimited

__all__ = ["Intake", "IntakeLimits", "announced_bytes", "parsed"]

_MEDIA_TYPE: Final = re.compile(
    r'application/json\s*(;\s*charset\s*=\s*("utf-8"|utf-8)\s*)?;?\s*\Z', re.IGNORECASE
)
# Beyond its limit a body is still read this far, and forgotten: a caller that is cut off in the
# middle of sending often never sees the answer.
_DISCARD_BYTES_MAX: Final = 16 * 1024 * 1024
_CLOSE: Final = {"Connection": "close"}
_INTEGER_DIGITS_MAX: Final = 20  # longer ones are read as doubles, and refused where they stand
_INLINE_BYTES_MAX: Final = 65_536  # above it a thread parses: 1 MiB of small objects takes 50 ms
_KEY_MAX: Final = 64  # characters shown of a key


class IntakeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one dispatcher takes in by HTTP."""

    body_bytes: int  # of one task
    batch_bytes: int = 8 * 1024 * 1024  # of a batch; as much as a message of gRPC
    body_s: float = 10.0  # to send a body in
    requests: int = 128  # answered at once
    bytes_in_hand: int = 64 * 1024 * 1024  # of all bodies that are being read or answered


class Intake:
    """Counts what is in hand, and refuses more than the limits."""

    def __init__(self, limits: IntakeLimits) -> None:
        self.limits = limits
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """One request, from its header to its answer.

        Args:
            size: Bytes that its body may have.

        Raises:
            RateLimited: Too many requests or bytes are in hand.
        """
        if self._requests >= self.limits.requests:
            raise RateLimited(f"{self._requests} requests are in hand, which is the limit")
        if self._bytes + size > self.limits.bytes_in_hand:
            raise RateLimited("too many bytes of requests are in hand")
        self._requests += 1
        self._bytes += size
        try:
            yield
        finally:
            self._requests -= 1
            self._bytes -= size

    async def read(self, request: Request, limit: int) -> bytes:
        """Read the body.

        Raises:
            HTTPException: 415 not plain JSON, 413 too large, 408 too slow.
        """
        _check_headers(request)
        try:
            async with asyncio.timeout(self.limits.body_s):
                return await _chunks(request, limit)
        except TimeoutError:
            words = f"the body did not arrive within {self.limits.body_s:g} s"
            raise HTTPException(408, words, _CLOSE) from None


def _check_headers(request: Request) -> None:
    """Refuse what is no JSON; a form that a foreign page sends never says that it is JSON."""
    types = request.headers.getlist("Content-Type")
    if len(types) != 1 or not _MEDIA_TYPE.match(types[0]):
        raise HTTPException(415, "Content-Type must be application/json, in UTF-8", _CLOSE)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Content-Encoding is not served; send the body as it is", _CLOSE)


async def _chunks(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    announced = announced_bytes(request)
    refused = (announced or 0) > limit
    async for chunk in request.stream():
        size += len(chunk)
        refused = refused or size > limit
        if refused:
            chunks.clear()
        else:
            chunks.append(chunk)
        if max(size, announced or 0) > _DISCARD_BYTES_MAX:
            break
    if refused:
        raise HTTPException(413, f"the body must have at most {limit} bytes", _CLOSE)
    return b"".join(chunks)


def announced_bytes(request: Request) -> int | None:
    """What Content-Length says; None when the body comes in chunks of unknown number."""
    if "Transfer-Encoding" in request.headers:
        return None
    return int(request.headers.get("Content-Length", "0"))


async def parsed(body: bytes) -> Any:
    """Parse JSON: no key twice, no NaN. A number that no double holds comes out infinite.

    Raises:
        HTTPException: 400 with what is wrong, and where.
    """
    return (
        await asyncio.to_thread(_parsed, body) if len(body) > _INLINE_BYTES_MAX else _parsed(body)
    )


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
        )
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _malformed(f"{error.msg.lower()} at {place}") from None
    except RecursionError:
        raise _malformed("it is nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        shown = twice[:_KEY_MAX].encode(errors="replace").decode()
        raise _malformed(f"the key {shown!r} stands twice in one object")
    return members


def _constant(word: str) -> float:
    raise _malformed(f"{word} is not JSON")


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= _INTEGER_DIGITS_MAX else float(digits)


def _malformed(words: str) -> HTTPException:
    return HTTPException(400, f"the body is not JSON: {words}")
