"""Addresses to listen at, written `host:port`."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["ListenError", "split_address"]

_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_PORT_MAX: Final = 65535


class ListenError(OSError):
    """An address is taken or not ours; the operator picks another. The process ends with exit 1."""

    def __init__(self, service: str, address: str, cause: str) -> None:
        super().__init__(f"{service} cannot listen at {address}: {cause}")


def split_address(address: str) -> tuple[str, int]:
    """Split `127.0.0.1:50051` or `[::1]:50051` into host, without brackets, and port.

    Port 0 lets the system choose.

    Raises:
        ValueError: It is not an address.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > _PORT_MAX:
        raise ValueError(f"{address!r} is not host:port")
    return match[1].strip("[]"), int(match[2])
