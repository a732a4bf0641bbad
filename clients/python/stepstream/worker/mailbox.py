"""Hands items from any thread to one event loop, many at a time.

Waking another loop costs a system call, so only the first item of a burst does it; the rest are
picked up by the same delivery. The number of waiting items is bounded by what they stand for: an
attempt has at most one start, one end and one unread progress at a time.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

ItemT = TypeVar("ItemT")


class Mailbox(Generic[ItemT]):
    """A way into a loop.

    Args:
        loop: The loop that receives.
        deliver: Called on that loop with the items in order, at least one.
    """

    def __init__(self, loop: AbstractEventLoop, deliver: Callable[[list[ItemT]], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._items: deque[ItemT] = deque()
        self._signalled = False

    def put(self, item: ItemT) -> None:
        """Sends one item; thread safe. What is sent to a loop that has been closed is dropped."""
        self._items.append(item)
        if not self._signalled:
            self._signalled = True
            try:
                self._loop.call_soon_threadsafe(self._flush)
            except RuntimeError:  # the loop is closed: nobody is left who could care
                self._items.clear()

    def _flush(self) -> None:
        # The flag falls before the items are taken, so that one put meanwhile signals again.
        self._signalled = False
        items: list[ItemT] = []
        while self._items:
            items.append(self._items.popleft())
        if items:
            self._deliver(items)
