"""How tasks are run, and what an accepted one survives."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from stepstream_dispatcher.store.port import Durability

__all__ = ["ExecutionMode", "Home"]

ExecutionMode: TypeAlias = Literal["PARALLEL", "SYNCHRONOUS", "SYNCHRONOUS_FALLBACK"]


class Home(msgspec.Struct, frozen=True):
    """Where a task is kept."""

    mode: ExecutionMode
    durability: Durability

    @property
    def waits(self) -> bool:
        """Whether Submit answers only when the task is at rest."""
        return self.mode != "PARALLEL"

    @property
    def durable(self) -> bool:
        """Whether a task there survives this host's loss, as far as the server's disk does."""
        return self.durability in ("AOF_1S", "AOF_SYNC")
