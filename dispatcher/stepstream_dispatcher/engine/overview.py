"""Watches over many tasks: the latest state of each that matches, to whoever follows.

Theory of operation. One loop serves all followers, and rests while there are none. It collects the
ids of tasks that change, here or elsewhere; a few times a second it reads their records once, and
puts each into the mailbox of every follower whose filter it matches. A mailbox holds a task once,
in its latest state, so a follower that reads slowly skips states and never tasks; one that lets too
many tasks wait is sent away.

Messages of other dispatchers may be lost. So every 2 s the newest tasks, and by turns the live ones
that were seen, are compared with the versions that were told; and when a listener was cut off, all
tasks within reach are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from stepstream.errors import InvalidTask, RateLimited, StoreUnavailable
from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.engine.readable import read_around
from stepstream_dispatcher.engine.vocabulary import Vocabulary
from stepstream_dispatcher.engine.watch import WatchHub
from stepstream_dispatcher.store.port import Store

__all__ = ["Filter", "Look", "Overview"]

GATHER_S: Final = 0.2  # changes are collected for so long, and read once
SWEEP_EVERY_S: Final = 1.5  # longest time that a lost message delays, less the time to read
START_LIMIT_S: Final = 5.0  # how long a follower waits for a loop that cannot reach the store
HEAR_LIMIT_S: Final = 1.0  # how long it waits for the messages of others; then it goes on without
PAGE: Final = 500
PRESENT_MAX: Final = 1_000  # tasks that a watch begins with ...
SCAN_MAX: Final = 20_000  # ... out of so many of the newest
CHANGED_MAX: Final = 20_000  # ids that wait to be read; then all tasks within reach are compared
KNOWN_MAX: Final = 20_000  # versions that are remembered, 100 bytes each
MAILBOX_MAX: Final = 10_000
FOLLOWERS_MAX: Final = 1_000
STATES_MAX: Final = 64
LABELS_MAX: Final = 16
MARGIN_MS: Final = 2_000  # clocks of dispatchers are read from the store's, within much less


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks a follower wants; empty: all."""

    pipeline: str = ""
    states: frozenset[str] = frozenset()
    labels: Mapping[str, str] = {}


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it was read."""

    task_id: str
    record: TaskRecord
    labels: bytes  # JSON; empty without any


class _Follower:
    """One watch: what it wants, and what waits for it."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.overflowed = False
        self.filled = asyncio.Event()
        self._mailbox: OrderedDict[str, Look] = OrderedDict()

    def matches(self, look: Look) -> bool:
        record, wanted = look.record, self.wanted
        if wanted.states and record.state not in wanted.states:
            return False
        if wanted.pipeline and record.pipeline.partition("@")[0] != wanted.pipeline:
            return False
        if not wanted.labels:
            return True
        labels = msgspec.json.decode(look.labels or b"{}", type=dict[str, str])
        return wanted.labels.items() <= labels.items()

    def put(self, look: Look) -> None:
        """Leave a look; a later one of the same task takes its place."""
        if self.matches(look):
            self._mailbox[look.task_id] = look
            self.filled.set()
        else:
            self.drop(look.task_id)
        if len(self._mailbox) > MAILBOX_MAX:
            self.overflowed = True
            self._mailbox.clear()

    def drop(self, task_id: str) -> None:
        """What waits of a task is not its latest state any more."""
        self._mailbox.pop(task_id, None)

    def take(self) -> Look | None:
        """Take what has waited longest."""
        if self.overflowed:
            words = f"{MAILBOX_MAX} tasks waited to be read; watch again, and read faster"
            raise RateLimited(words, retry_after_s=1.0)
        if self._mailbox:
            return self._mailbox.popitem(last=False)[1]
        self.filled.clear()
        return None

    def forget(self, look: Look) -> None:
        """Drop what waits of a task if it is no newer than what was told otherwise."""
        waiting = self._mailbox.get(look.task_id)
        if waiting is not None and waiting.record.version <= look.record.version:
            del self._mailbox[look.task_id]


class Overview:
    """Hands the latest states of tasks to followers."""

    def __init__(self, *, store: Store, watch: WatchHub, vocabulary: Vocabulary) -> None:
        self._store = store
        self._watch = watch
        self._vocabulary = vocabulary
        self._followers: set[_Follower] = set()
        self._wanted = asyncio.Event()  # there are followers
        self._running = asyncio.Event()  # changes are being collected ...
        self._heard = asyncio.Event()  # ... those of other dispatchers, too
        self._changed: OrderedDict[str, None] = OrderedDict()
        self._missed = False  # messages may have been missed
        self._since_ms = 0  # what is not known and changed before this was told; 0: all rests
        self._known: OrderedDict[str, int] = OrderedDict()  # task id -> version that was told
        self._live: OrderedDict[str, None] = OrderedDict()  # those of them that had not ended

    # --- what changes ----------------------------------------------------------------------------

    def changed(self, task_id: str, state: str) -> None:
        """Hear of a change (see WatchHub)."""
        if not any(not one.wanted.states or state in one.wanted.states for one in self._followers):
            for follower in self._followers:
                follower.drop(task_id)
            self._remember(task_id, 0)  # whatever it becomes next is news
            return
        self._changed[task_id] = None
        if len(self._changed) > CHANGED_MAX:
            self._changed.clear()
            self._missed = True

    def missed(self) -> None:
        """Hear that changes may have been missed (see WatchHub)."""
        self._missed = self._heard.is_set()  # before the first time nobody relied on hearing
        self._heard.set()

    # --- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Collect, read and tell while there are followers, until cancelled."""
        while True:
            await self._wanted.wait()
            with self._watch.tapped(self):
                await self._begin()
                self._running.set()
                try:
                    await self._serve()
                finally:
                    self._running.clear()
            self._rest()

    async def _begin(self) -> None:
        """Learn what the newest tasks are like, so that only what changes from here on is news."""
        if self._since_ms:
            self._missed = True  # the loop broke off, and its followers are still there
            return
        self._since_ms = self._store.now_ms() - MARGIN_MS
        page = await self._store.index(cursor="", count=PAGE)
        for task_id, record in await self._records(page.task_ids):
            self._note(task_id, record)

    async def _serve(self) -> None:
        clock = asyncio.get_running_loop().time
        swept_at = clock()
        while self._followers:
            await asyncio.sleep(GATHER_S)
            while self._changed:
                await self._read_changed()
            if self._missed:
                await self._compare_all()
            elif clock() - swept_at >= SWEEP_EVERY_S:
                swept_at = clock()
                await self._sweep()

    def _rest(self) -> None:
        self._since_ms = 0
        self._missed = False
        self._heard.clear()
        for remembered in (self._known, self._live, self._changed):
            remembered.clear()

    async def _read_changed(self) -> None:
        amount = min(PAGE, len(self._changed))
        task_ids = [self._changed.popitem(last=False)[0] for _ in range(amount)]
        try:
            await self._compare(task_ids)
        except StoreUnavailable:
            self._missed = True
            raise

    async def _sweep(self) -> None:
        """Look again at the newest tasks, and at some that were live."""
        page = await self._store.index(cursor="", count=PAGE)
        again = [task_id for task_id, _ in zip(self._live, range(PAGE), strict=False)]
        for task_id in again:
            self._live.move_to_end(task_id)
        await self._compare(list(dict.fromkeys([*page.task_ids, *again])))

    async def _compare_all(self) -> None:
        """Look again at all tasks within reach."""
        began_ms = self._store.now_ms()
        self._missed = False
        try:
            async for task_ids in self._pages():
                await self._compare(task_ids)
            again = list(self._live)
            for start in range(0, len(again), PAGE):
                await self._compare(again[start : start + PAGE])
        except StoreUnavailable:
            self._missed = True
            raise
        self._since_ms = began_ms - MARGIN_MS

    async def _compare(self, task_ids: Sequence[str]) -> None:
        """Tell of those that are newer than what was told."""
        news = [
            (task_id, record)
            for task_id, record in await self._records(task_ids)
            if self._is_news(task_id, record)
        ]
        self._tell(await self._look(news))

    def _is_news(self, task_id: str, record: TaskRecord) -> bool:
        version = self._known.get(task_id)
        return record.updated_ms >= self._since_ms if version is None else record.version > version

    async def _records(self, task_ids: Sequence[str]) -> list[tuple[str, TaskRecord]]:
        found = await read_around(self._store.records, task_ids)
        return [(task_id, record) for task_id, record in found.items() if record is not None]

    async def _look(self, found: Sequence[tuple[str, TaskRecord]]) -> list[Look]:
        labels = await self._store.labels([task_id for task_id, _ in found]) if found else []
        return [
            Look(task_id=task_id, record=record, labels=text)
            for (task_id, record), text in zip(found, labels, strict=True)
        ]

    def _tell(self, looks: Sequence[Look]) -> None:
        for look in looks:
            self._note(look.task_id, look.record)
            for follower in self._followers:
                follower.put(look)

    def _note(self, task_id: str, record: TaskRecord) -> None:
        """Remember what was told."""
        self._remember(task_id, max(record.version, self._known.get(task_id, 0)))
        if record.terminal:
            self._live.pop(task_id, None)
        else:
            self._live.setdefault(task_id)
            if len(self._live) > KNOWN_MAX:
                self._live.popitem(last=False)

    def _remember(self, task_id: str, version: int) -> None:
        self._known[task_id] = version
        self._known.move_to_end(task_id)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    async def _pages(self) -> AsyncGenerator[list[str], None]:
        """Ids of the newest tasks, by pages."""
        cursor = ""
        for _ in range(SCAN_MAX // PAGE):
            page = await self._store.index(cursor=cursor, count=PAGE)
            yield page.task_ids
            cursor = page.next_cursor
            if not cursor:
                return

    # --- followers -------------------------------------------------------------------------------

    async def follow(self, wanted: Filter) -> AsyncGenerator[Look, None]:
        """Yield the matching tasks that have not ended, then each that changes, for ever.

        Raises:
            InvalidTask: A pipeline or state that does not exist, or too many states or labels.
            RateLimited: Too many followers, or this one does not read.
            StoreUnavailable: Redis does not answer; follow again.
        """
        await self._check(wanted)
        with self._following(wanted) as follower:
            await self._ready()
            async with contextlib.aclosing(self._present(follower)) as present:
                async for look in present:
                    yield look
            while True:
                await follower.filled.wait()
                while (look_or_none := follower.take()) is not None:
                    yield look_or_none

    async def _check(self, wanted: Filter) -> None:
        if len(wanted.states) > STATES_MAX:
            raise InvalidTask(f"states must have at most {STATES_MAX} entries", field="states")
        if len(wanted.labels) > LABELS_MAX:
            raise InvalidTask(f"labels must have at most {LABELS_MAX} entries", field="labels")
        if "" in wanted.states:
            raise InvalidTask("states must not have an empty entry", field="states")
        await self._vocabulary.check_pipeline(wanted.pipeline)
        await self._vocabulary.check_states(wanted.states, "states")

    async def _ready(self) -> None:
        """Wait until changes are collected, so that none is missed from here on."""
        try:
            async with asyncio.timeout(START_LIMIT_S):
                await self._running.wait()
        except TimeoutError:
            raise StoreUnavailable("redis does not answer", retry_after_s=1.0) from None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAR_LIMIT_S):
                await self._heard.wait()
        self._heard.set()

    async def _present(self, follower: _Follower) -> AsyncGenerator[Look, None]:
        """Yield the matching tasks that have not ended, the newest first."""
        sent, left = 0, (await self._store.counts())["live"]
        if not left:
            return
        async for task_ids in self._pages():
            live = [
                (task_id, record)
                for task_id, record in await self._records(task_ids)
                if not record.terminal
            ]
            left -= len(live)
            for look in await self._look(live):
                if self._is_news(look.task_id, look.record):
                    self._tell([look])  # the others have missed it
                else:
                    self._note(look.task_id, look.record)
                follower.forget(look)
                if follower.matches(look) and sent < PRESENT_MAX:
                    sent += 1
                    yield look
            if left <= 0 or sent >= PRESENT_MAX:
                return

    @contextlib.contextmanager
    def _following(self, wanted: Filter) -> Iterator[_Follower]:
        if len(self._followers) >= FOLLOWERS_MAX:
            raise RateLimited(f"{FOLLOWERS_MAX} watches over tasks are open", retry_after_s=1.0)
        follower = _Follower(wanted)
        self._followers.add(follower)
        self._wanted.set()
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._wanted.clear()
