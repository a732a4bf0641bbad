"""What a worker holds: every attempt from its receipt in a batch to the receipt of its result.

Pure: no clock, no socket. Attempts are known by their lease token, because an attempt that was
given back may return under another lease before the old result has its receipt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from stepstream.v1 import worker_service_pb2 as pb

__all__ = ["Inventory", "Item"]


class Item(msgspec.Struct, kw_only=True):
    """One attempt."""

    assignment_id: str
    token: str  # its lease
    since_mono: float  # when it came, or began to run; seconds of the monotonic clock
    result: pb.Settlement | None = None  # set once; kept until the receipt
    result_bytes: int = 0
    queued: bool = False  # its result waits to be sent
    progress: float = 0.0
    note: str = ""
    moved: bool = False  # progress has news that no heartbeat has carried
    log_fields: Mapping[str, str] = {}  # what lines of log about it say besides


class Inventory:
    """All attempts that have no receipt yet, oldest first."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._unsent: deque[str] = deque()  # tokens; one that is gone is skipped

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, token: str) -> bool:
        return token in self._items

    def items(self) -> list[Item]:
        """Every attempt, oldest first: what a heartbeat and a Register name."""
        return list(self._items.values())

    def unsettled(self) -> list[str]:
        """Tokens of the attempts without a result."""
        return [token for token, item in self._items.items() if item.result is None]

    def tokens_of(self, assignment_id: str) -> list[str]:
        """The leases under which an attempt is held, mostly none or one."""
        return [token for token, item in self._items.items() if item.assignment_id == assignment_id]

    def log_fields(self, token: str) -> Mapping[str, str]:
        """What lines of log about an attempt say besides its name."""
        item = self._items.get(token)
        return item.log_fields if item is not None else {}

    def add(
        self,
        assignment_id: str,
        token: str,
        now_mono: float,
        *,
        log_fields: Mapping[str, str] = MappingProxyType({}),
    ) -> bool:
        """Takes in an attempt; False when it is held already (a batch that came twice)."""
        if token in self._items:
            return False
        self._items[token] = Item(
            assignment_id=assignment_id,
            token=token,
            since_mono=now_mono,
            log_fields=log_fields,
        )
        return True

    def runs_since(self, token: str, since_mono: float) -> None:
        """Notes since when an attempt runs; nothing when it is not held any more."""
        item = self._items.get(token)
        if item is not None:
            item.since_mono = since_mono

    def settle(self, token: str, result: pb.Settlement) -> bool:
        """Records how an attempt ended and queues it to be sent; only the first result counts.

        Returns:
            False when the attempt is not held any more, or has a result.
        """
        item = self._items.get(token)
        if item is None or item.result is not None:
            return False
        item.result = result
        item.result_bytes = result.ByteSize()
        self.resend(token)
        return True

    def resend(self, token: str) -> None:
        """Queues a result again (a new session, or RETRY_LATER); nothing when there is none."""
        item = self._items.get(token)
        if item is not None and item.result is not None and not item.queued:
            item.queued = True
            self._unsent.append(token)

    def take(self, bytes_max: int) -> list[pb.Settlement]:
        """Takes results from the queue, in order, until they fill bytes_max; at least one."""
        taken: list[pb.Settlement] = []
        size = 0
        while self._unsent:
            item = self._items.get(self._unsent[0])
            if item is None or item.result is None:
                self._unsent.popleft()
                continue
            if taken and size + item.result_bytes > bytes_max:
                break
            self._unsent.popleft()
            item.queued = False
            size += item.result_bytes
            taken.append(item.result)
        return taken

    def drop(self, token: str) -> None:
        """Forgets an attempt: its result has its receipt, or somebody else owns it."""
        self._items.pop(token, None)

    def progress(self, token: str, fraction: float, note: str) -> bool:
        """Notes how far an attempt is; True when a heartbeat should tell."""
        item = self._items.get(token)
        if (
            item is None
            or item.result is not None
            or (item.progress, item.note) == (fraction, note)
        ):
            return False
        item.progress, item.note, item.moved = fraction, note, True
        return True
