"""Follows tasks for watchers: pushed where possible, read where a push may have been missed.

The history in the store is the truth. An event that is committed here is handed to the watchers of
its task at once; one that is committed elsewhere arrives by pub/sub. A watcher yields a pushed
event only when it is the next in sequence; on a hole, on a resync and every 2 s it reads the
history instead. So nothing is missed, whatever happens to the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from typing import Final, Protocol

import msgspec

from stepstream.errors import RateLimited, TaskNotFound
from stepstream_dispatcher.core.record import TERMINAL_STATES, Event, TaskRecord, Transition
from stepstream_dispatcher.store.port import Store

__all__ = ["GapFrame", "SnapshotFrame", "Tap", "WatchFrame", "WatchHub"]

BACKSTOP_S: Final = 2.0  # longest time that an event can be late when every push is lost
PUSHED_MAX: Final = 256  # pushed events that wait for a slow watcher; then it reads the history


class SnapshotFrame(msgspec.Struct, frozen=True):
    """The task as it stood when the watch began."""

    record: TaskRecord
    data: dict[str, bytes]


class GapFrame(msgspec.Struct, frozen=True):
    """Events that are no longer kept."""

    first_missing: int
    first_available: int


WatchFrame = SnapshotFrame | GapFrame | Event


class _Watcher:
    """The mailbox of one watch."""

    def __init__(self) -> None:
        self.pushed: deque[Event] = deque(maxlen=PUSHED_MAX)
        self.rung = asyncio.Event()

    def push(self, event: Event) -> None:
        self.pushed.append(event)
        self.rung.set()

    def take(self, last: int) -> list[WatchFrame]:
        """Take the pushed events that follow `last` without a hole; forget older ones."""
        taken: list[WatchFrame] = []
        while self.pushed:
            event = self.pushed[0]
            if event.sequence > last + 1:
                break
            self.pushed.popleft()
            if event.sequence in (0, last + 1):
                taken.append(event)
                last = max(last, event.sequence)
        return taken

    async def rings(self, last: int) -> bool:
        """Wait for a push; True if the history must be read instead of what was pushed."""
        if self.pushed and self.pushed[0].sequence <= last + 1:  # it came during the latest look
            return False
        if self.pushed:  # what `take` left is behind a hole
            self.pushed.clear()
            return True
        try:
            async with asyncio.timeout(BACKSTOP_S):
                await self.rung.wait()
        except TimeoutError:
            return True
        self.rung.clear()
        return not self.pushed


class Tap(Protocol):
    """Hears of the changes of all tasks."""

    def changed(self, task_id: str, state: str) -> None:
        """A task has changed, here or elsewhere, and is in this state now."""

    def missed(self) -> None:
        """From now on changes elsewhere are heard; some before may have been missed."""


class WatchHub:
    """Hands events to watchers.

    Args:
        watchers_max: How many may follow at once.
    """

    def __init__(self, *, store: Store, watchers_max: int) -> None:
        self._store = store
        self._watchers_max = watchers_max
        self._watchers: dict[str, set[_Watcher]] = {}
        self._taps: list[Tap] = []
        self._hears = False  # whether events of other processes arrive
        self._wanted = asyncio.Event()
        self._amount = 0

    def applied(self, transition: Transition) -> None:
        """Hear of a transition that was applied here."""
        if self._watchers or self._taps:
            self._push(transition.task_id, transition.event)

    def ring_all(self) -> None:
        """Have every watcher read its history: messages may have been missed."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.rung.set()
        for tap in self._taps:
            tap.missed()

    @contextlib.contextmanager
    def tapped(self, tap: Tap) -> Iterator[None]:
        """Let a tap hear of changes for as long as the block lasts."""
        self._taps.append(tap)
        self._wanted.set()
        if self._hears:
            tap.missed()
        try:
            yield
        finally:
            self._taps.remove(tap)
            self._rest()

    def _rest(self) -> None:
        """Stop listening if nobody watches any more."""
        if not self._watchers and not self._taps:
            self._wanted.clear()

    def _push(self, task_id: str, event: Event) -> None:
        if event.sequence:  # progress is no change
            for tap in self._taps:
                tap.changed(task_id, event.state)
        for watcher in self._watchers.get(task_id, ()):
            watcher.push(event)

    async def listen(self) -> None:
        """Take in the events of other processes for as long as there are watchers."""
        while True:
            await self._wanted.wait()
            try:
                await self._hear()
            finally:
                self._hears = False

    async def _hear(self) -> None:
        async with contextlib.aclosing(self._store.signals(events=True)) as signals:
            async for signal in signals:
                if signal.kind == "resync":
                    self._hears = True
                    self.ring_all()
                elif signal.event is not None:
                    self._push(signal.task_id, signal.event)
                if not self._wanted.is_set():
                    break

    async def follow(
        self, task_id: str, *, after: int | None, progress: bool = False
    ) -> AsyncGenerator[WatchFrame, None]:
        """Yield the snapshot and every event after it (or after `after`), to the terminal one.

        Raises:
            TaskNotFound: There is no such task, or it expired while it was watched.
            RateLimited: Too many watchers.
        """
        with self._mailbox(task_id) as watcher:
            ((record, data),) = await self._store.load([task_id])
            if record is None:
                raise TaskNotFound(f"no task {task_id}")
            yield SnapshotFrame(record, data)
            # Nobody can have seen more than there is, unless the store has lost it.
            last = record.version if after is None else min(after, record.version)
            ended = record.terminal and last >= record.version
            look = True
            while not ended:
                frames = await self._missed(task_id, last) if look else watcher.take(last)
                for frame in frames:
                    if isinstance(frame, Event) and not (frame.sequence or progress):
                        continue
                    yield frame
                    if isinstance(frame, Event) and frame.sequence:
                        last = frame.sequence
                        ended = frame.state in TERMINAL_STATES
                look = not ended and await watcher.rings(last)

    async def _missed(self, task_id: str, last: int) -> list[WatchFrame]:
        events: list[WatchFrame] = []
        events.extend(await self._store.history(task_id, after=last))
        if events and isinstance(first := events[0], Event) and first.sequence > last + 1:
            events.insert(0, GapFrame(last + 1, first.sequence))
        if not events and (await self._store.records([task_id]))[0] is None:
            raise TaskNotFound(f"task {task_id} has expired")
        return events

    @contextlib.contextmanager
    def _mailbox(self, task_id: str) -> Iterator[_Watcher]:
        if self._amount >= self._watchers_max:
            raise RateLimited(f"{self._watchers_max} watchers are connected", retry_after_s=1.0)
        watcher = _Watcher()
        self._amount += 1
        self._watchers.setdefault(task_id, set()).add(watcher)
        self._wanted.set()
        try:
            yield watcher
        finally:
            self._amount -= 1
            watchers = self._watchers[task_id]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[task_id]
            self._rest()
