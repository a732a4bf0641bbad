"""What a section of `make bench` is: a round that can be repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

__all__ = ["Round"]

Round: TypeAlias = Callable[[], Awaitable[None]]
