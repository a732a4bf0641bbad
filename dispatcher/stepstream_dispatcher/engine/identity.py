"""Names that are made here: operation ids, lease tokens, session and task ids."""

from __future__ import annotations

import base64
import os
import secrets
from itertools import count

__all__ = ["OperationIds", "new_session_id", "new_task_id", "new_tokens"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
_PAIRS = [left + right for left in _DIGITS for right in _DIGITS]
_TOKEN_BYTES = 12  # 96 random bits: 16 characters, no two alike in practice


def new_task_id() -> str:
    """A random task id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def new_session_id() -> str:
    """A random session id for logs."""
    return secrets.token_hex(6)


def new_tokens(amount: int) -> list[str]:
    """Random lease tokens of 16 characters."""
    text = base64.urlsafe_b64encode(os.urandom(_TOKEN_BYTES * amount)).decode()
    return [text[start : start + 16] for start in range(0, 16 * amount, 16)]


class OperationIds:
    """Endless 8-character operation ids: 4 random characters of the process, 4 counted ones."""

    def __init__(self) -> None:
        self._process = base64.urlsafe_b64encode(os.urandom(3)).decode()
        self._numbers = count(int.from_bytes(os.urandom(3)))

    def next(self) -> str:
        """The next one; it repeats after 16 million."""
        number = next(self._numbers)
        return self._process + _PAIRS[number >> 12 & 4095] + _PAIRS[number & 4095]
