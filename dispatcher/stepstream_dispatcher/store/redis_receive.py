"""Receives what Redis sends into one buffer for each connection.

Theory of operation. A stream of asyncio receives into a new buffer of 256 KiB each time, shrinks it
to what has come, copies that and frees it. What is allocated meanwhile, and stays, lies behind it
and breaks the hole up, and the next buffer finds no room but at the top of the heap. So the heap
grew by some 18 bytes with every task, nearly all of it free. A protocol that brings its own buffer
spares the allocation; the stream behind it goes on as before.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection

__all__ = ["RECEIVE_BYTES", "receive_in_place"]

RECEIVE_BYTES: Final = 64 * 1024  # what the driver's parser asks of the stream at once


class _InPlace(asyncio.BufferedProtocol):
    """Hands what is received to the protocol of a stream, which copies it.

    Args:
        behind: The protocol that the connection was opened with; its stream and writer know it.
    """

    def __init__(self, behind: asyncio.StreamReaderProtocol) -> None:
        self._behind = behind
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._behind.data_received(self._buffer[:nbytes])  # type: ignore[arg-type] # it is copied

    def eof_received(self) -> bool | None:
        return self._behind.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()


def receive_in_place(connection: AbstractConnection) -> None:
    """Have an open connection receive into a buffer of its own. Idempotent."""
    writer: Any = connection._writer  # noqa: SLF001 - the driver shows its transport nowhere else
    if writer is None:  # lost meanwhile: whoever uses it is told
        return
    behind = writer.transport.get_protocol()
    if isinstance(behind, asyncio.StreamReaderProtocol):
        writer.transport.set_protocol(_InPlace(behind))
