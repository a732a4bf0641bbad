"""A name server on loopback, for names that stand for several addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

__all__ = ["Names", "running_names"]

_HEADER = struct.Struct(">6H")  # id, flags, and how many of each: questions, answers, two more
_ANSWER = struct.Struct(">3HIH")  # name, type, class, time to live, length
_TYPE_AND_CLASS = struct.Struct(">2H")
_THE_QUESTIONS_NAME = 0xC000 | _HEADER.size
_A, _INTERNET = 1, 1
_ANSWERED = 0x8580  # a response, with authority, without an error


class Names(asyncio.DatagramProtocol):
    """Answers every question for IPv4 addresses with `addresses`, any other with none."""

    def __init__(self) -> None:
        self.addresses: Sequence[str] = ()
        self.asked = 0
        self.authority = ""  # 127.0.0.1:port
        self._transport: asyncio.DatagramTransport | None = None

    def target(self, name: str, port: int) -> str:
        """What to give to gRPC, so that it asks this server."""
        return f"dns://{self.authority}/{name}:{port}"

    def listens(self, transport: asyncio.DatagramTransport) -> None:
        """It has an address from now on."""
        self._transport = transport
        host, port = transport.get_extra_info("sockname")
        self.authority = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A question has come."""
        self.asked += 1
        assert self._transport is not None
        self._transport.sendto(self._answer(data), addr)

    def _answer(self, asked: bytes) -> bytes:
        number, *_ = _HEADER.unpack_from(asked)
        end = asked.index(b"\0", _HEADER.size) + 1
        kind, _ = _TYPE_AND_CLASS.unpack_from(asked, end)
        found = self.addresses if kind == _A else ()
        question = asked[_HEADER.size : end + _TYPE_AND_CLASS.size]
        answers = b"".join(
            _ANSWER.pack(_THE_QUESTIONS_NAME, _A, _INTERNET, 0, 4)
            + ipaddress.ip_address(one).packed
            for one in found
        )
        return _HEADER.pack(number, _ANSWERED, 1, len(found), 0, 0) + question + answers


@asynccontextmanager
async def running_names() -> AsyncGenerator[Names, None]:
    """A name server for as long as the block lasts."""
    transport, names = await asyncio.get_running_loop().create_datagram_endpoint(
        Names, local_addr=("127.0.0.1", 0)
    )
    names.listens(transport)
    try:
        yield names
    finally:
        transport.close()
