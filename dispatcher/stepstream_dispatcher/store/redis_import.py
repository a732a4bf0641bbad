"""Takes tasks of the journal into Redis: what was done while it was away is recorded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from redis import exceptions as redis_errors

from stepstream.errors import InternalError, StoreUnavailable
from stepstream_dispatcher.core.record import Event, EventType, Stage
from stepstream_dispatcher.store.codec import (
    WAITING_STATES,
    encode_event,
    encode_published,
    first_event,
)
from stepstream_dispatcher.store.keys import GROUP, Keys
from stepstream_dispatcher.store.port import JOURNAL_FIELD, Imported, Journaled, StoreUnreachable
from stepstream_dispatcher.store.redis_link import Link
from stepstream_dispatcher.store.redis_scripts import IMPORT

__all__ = ["RedisImport", "renumbered"]

TRIES: Final = 5  # somebody else changes the record at the same moment
SETTLED: Final = "settled:"


class _Present(msgspec.Struct, frozen=True):
    """What Redis has of a task."""

    fields: dict[str, str]  # of its record; empty: there is none
    has_history: bool

    @property
    def unkept(self) -> list[Event]:
        """The event that the record alone tells: whatever follows, it is to be kept."""
        if self.has_history or self.fields.get("version") != "1":
            return []
        told = [self.fields.get(name, "") for name in ("created_ms", "state", "step")]
        return [first_event(int(told[0]), *told[1:])] if told[0].isdecimal() else []


class RedisImport:
    """Imports tasks one by one.

    Args:
        link: Any connections.
        keys: Names.
        dispatcher_id: Who publishes.
    """

    def __init__(self, link: Link, keys: Keys, *, dispatcher_id: str) -> None:
        self._link = link
        self._keys = keys
        self._dispatcher_id = dispatcher_id

    async def take_in(self, task: Journaled) -> Imported:
        """See ImportingStore.take_in."""
        present = await self._present(task.task_id)
        try:
            return await self._decided(task, present)
        except StoreUnreachable as error:  # this time; an earlier try may have got there
            raise StoreUnavailable(error.message) from error

    async def _decided(self, task: Journaled, present: _Present) -> Imported:
        for _ in range(TRIES):
            word = _decide(task, present.fields)
            if word not in (Imported.CREATED, Imported.SUPERSEDED):
                return word
            if await self._run(task, present):
                return word
            present = await self._present(task.task_id)
        raise StoreUnavailable(f"task {task.task_id} changes too fast to be imported")

    async def _present(self, task_id: str) -> _Present:
        has_history, flat = await self._link.ask(
            ("EXISTS", self._keys.history(task_id)), ("HGETALL", self._keys.record(task_id))
        )
        texts = [text.decode(errors="replace") for text in flat]
        return _Present(dict(zip(texts[::2], texts[1::2], strict=True)), bool(has_history))

    async def _run(self, task: Journaled, present: _Present) -> bool:
        keys, arguments = self._packed(task, present)
        try:
            return bool(await IMPORT.run(self._link, keys, arguments))
        except redis_errors.ResponseError as error:
            raise InternalError(f"redis could not import it: {error}") from error

    def _packed(self, task: Journaled, there: _Present) -> tuple[list[str], list[str | bytes]]:
        """Build KEYS and ARGV; import.lua's header is the contract."""
        keys, task_id, present = self._keys, task.task_id, there.fields
        if "input" not in task.data:
            raise InternalError(f"the journal has no input of task {task_id}")
        events = renumbered(task.history, int(present.get("version", 0)))
        version = int(present.get("version", 0)) + len(events)
        left, entered = present.get("state", ""), task.fields["state"]
        names = [keys.count, keys.index, keys.delayed, keys.ended]
        names += keys.of_task(task_id)
        names += [keys.stream(present.get("queue", "")), keys.state(left), keys.state(entered)]
        names += [keys.worker(worker) for worker, _ in task.tallies]
        fields = task.fields | {"version": str(max(version, int(task.fields["version"])))}
        retries = sum(event.type is EventType.RETRYING for event in events)
        lived, lives = bool(present), task.expires_ms is None
        arguments: list[str | bytes] = [
            GROUP,
            keys.events,
            task_id,
            present.get("version", ""),
            present.get("entry", ""),
            left,
            entered,
            "".join(str(int(state in WAITING_STATES)) for state in (left, entered)),
            str(task.since_ms),
            _text(task.due_ms),
            _text(task.expires_ms),
            task.fields["created_ms"],
            str(int(lives) - int(lived)),
            str(retries),
            encode_published(self._dispatcher_id, task_id, events[-1]),
            task.data["input"],
        ]
        arguments += _counted([part for pair in fields.items() for part in pair])
        arguments += _counted(
            [part for pair in task.data.items() if pair[0] != "input" for part in pair]
        )
        arguments += _counted([encode_event(event) for event in [*there.unkept, *events]])
        arguments += [text for (_, name), n in task.tallies.items() for text in (name, str(n))]
        return names, arguments


def renumbered(history: Sequence[Event], offset: int) -> list[Event]:
    """The journal's events as they follow those that Redis has.

    Its creation is known there; but where nothing else happened it is told again, since a task that
    gives way must reach another version.
    """
    if not offset:
        return list(history)
    return [
        msgspec.structs.replace(event, sequence=offset + number)
        for number, event in enumerate(history[1:] or history, start=1)
    ]


def _decide(task: Journaled, present: Mapping[str, str]) -> Imported:
    if not present:
        return Imported.CREATED
    if present.get(JOURNAL_FIELD) == task.fields[JOURNAL_FIELD]:
        return Imported.ALREADY
    another = present.get("input_hash") != task.fields.get("input_hash")
    if another or present.get("stage") == Stage.ENDED or _is_settled(present):
        return Imported.DROPPED
    return Imported.SUPERSEDED


def _is_settled(fields: Mapping[str, str]) -> bool:
    return any(name.startswith(SETTLED) for name in fields)


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _counted(values: Sequence[str | bytes]) -> list[str | bytes]:
    return [str(len(values)), *values]
