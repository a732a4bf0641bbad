"""What is read of tasks from Redis: records, data, histories, pages and counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from redis import exceptions as redis_errors

from stepstream.errors import InternalError, InvalidTask
from stepstream_dispatcher.core.record import Event, TaskRecord
from stepstream_dispatcher.store.codec import decode_event, decode_record, first_event
from stepstream_dispatcher.store.keys import Keys
from stepstream_dispatcher.store.port import IndexPage
from stepstream_dispatcher.store.redis_link import Command, Link

__all__ = ["RedisReads"]

SIZES: Final = (
    "entries",
    "timers",
    "listed",
)  # counts that are of no concern to anybody but repairs
COMMANDS_MAX: Final = 1000  # sent in one round trip


class RedisReads:
    """Reads what commits wrote.

    Args:
        link: Connections.
        keys: Names.
    """

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        """See Store.records."""
        replies = await self._ask_each(self._record(task_id) for task_id in task_ids)
        return [
            decode_record(task_id, _texts(reply)) if reply else None
            for task_id, reply in zip(task_ids, replies, strict=True)
        ]

    async def data(self, task_ids: Sequence[str]) -> list[dict[str, bytes]]:
        """See Store.data."""
        replies = await self._ask_each(
            command for task_id in task_ids for command in self._data(task_id)
        )
        return [
            _data(fields, given) for fields, given in zip(replies[::2], replies[1::2], strict=True)
        ]

    async def load(
        self, task_ids: Sequence[str]
    ) -> list[tuple[TaskRecord | None, dict[str, bytes]]]:
        """See Store.load."""
        replies = await self._ask_each(
            command
            for task_id in task_ids
            for command in (self._record(task_id), *self._data(task_id))
        )
        return [
            (decode_record(task_id, _texts(record)) if record else None, _data(fields, given))
            for task_id, record, fields, given in zip(
                task_ids, replies[::3], replies[1::3], replies[2::3], strict=True
            )
        ]

    async def settled(self, task_id: str, step: str) -> str:
        """See Store.settled."""
        command = ("HGET", self._keys.record(task_id), f"settled:{step}")
        (token,) = await self._link.ask(command)
        return token.decode() if token else ""

    async def traces(self, task_ids: Sequence[str]) -> list[bytes]:
        """See Store.traces."""
        commands = (("HGET", self._keys.data(task_id), "trace") for task_id in task_ids)
        return [reply or b"" for reply in await self._link.ask(*commands)]

    async def labels(self, task_ids: Sequence[str]) -> list[bytes]:
        """See Store.labels."""
        commands = (("HGET", self._keys.data(task_id), "labels") for task_id in task_ids)
        return [reply or b"" for reply in await self._link.ask(*commands)]

    async def pipelines(self) -> dict[str, bytes]:
        """See Store.pipelines."""
        (reply,) = await self._link.ask(("HGETALL", self._keys.pipelines))
        return _fields(reply)

    async def history(self, task_id: str, *, after: int) -> list[Event]:
        """See Store.history."""
        kept = ("LRANGE", self._keys.history(task_id), "0", "-1")
        packed, found = await self._link.ask(kept, self._record(task_id))
        if not packed and found:
            record = decode_record(task_id, _texts(found))
            if record.version == 1:
                return [first_event(record.created_ms, record.state, record.step)][after:]
            (packed,) = await self._link.ask(kept)  # its second event came in between
        events = (decode_event(each) for each in packed)
        return [event for event in events if event.sequence > after]

    async def index(self, *, cursor: str, count: int) -> IndexPage:
        """See Store.index."""
        return await self._page(self._keys.index, cursor, count)

    async def waiting(self, state: str, *, cursor: str, count: int) -> IndexPage:
        """See Store.waiting."""
        return await self._page(self._keys.state(state), cursor, count)

    async def counts(self) -> dict[str, int]:
        """See Store.counts."""
        (reply,) = await self._link.ask(("HGETALL", self._keys.count))
        counts = {
            name: int(value)
            for name, value in _texts(reply).items()
            if value != "0" and name not in SIZES
        }
        return {"live": 0, "retries": 0} | counts

    async def ended_in(self, minute: int) -> int:
        """See Store.ended_in."""
        (reply,) = await self._link.ask(("GET", self._keys.minute(minute)))
        return int(reply or 0)

    async def oldest_ms(self, state: str) -> int | None:
        """See Store.oldest_ms."""
        command = ("ZRANGE", self._keys.state(state), "0", "0", "WITHSCORES")
        (reply,) = await self._link.ask(command)
        return int(float(reply[1])) if reply else None

    async def due(self, *, limit: int) -> tuple[list[str], int | None]:
        """See Store.due."""
        command = ("ZRANGE", self._keys.delayed, "0", str(limit), "WITHSCORES")
        (seconds, microseconds), reply = await self._link.ask(("TIME",), command)
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        rows = [(reply[i].decode(), int(float(reply[i + 1]))) for i in range(0, len(reply), 2)]
        due = [task_id for task_id, due_ms in rows[:limit] if due_ms <= now_ms]
        return due, rows[len(due)][1] if len(rows) > len(due) else None

    def _record(self, task_id: str) -> Command:
        return "HGETALL", self._keys.record(task_id)

    def _data(self, task_id: str) -> tuple[Command, Command]:
        return ("HGETALL", self._keys.data(task_id)), ("GET", self._keys.input(task_id))

    async def _ask_each(self, commands: Iterable[Command]) -> list[Any]:
        waiting, replies = list(commands), list[Any]()
        for start in range(0, len(waiting), COMMANDS_MAX):
            try:
                replies += await self._link.ask(*waiting[start : start + COMMANDS_MAX])
            except redis_errors.ResponseError as error:  # one of them is of another type
                raise InternalError(f"redis could not read a task: {error}") from error
        return replies

    async def _page(self, name: str, cursor: str, count: int) -> IndexPage:
        """Read a page by rank; a cursor is the score and the id of the last task seen."""
        start = await self._rank_after(name, cursor) if cursor else 0
        stop = str(start + count)  # one more than asked for: is there a next page
        (reply,) = await self._link.ask(("ZRANGE", name, str(start), stop, "REV", "WITHSCORES"))
        ids = [task_id.decode() for task_id in reply[: 2 * count : 2]]
        if len(reply) <= 2 * count:
            return IndexPage(ids, "")
        return IndexPage(ids, f"{int(float(reply[2 * count - 1]))}:{ids[-1]}")

    async def _rank_after(self, name: str, cursor: str) -> int:
        score, _, task_id = cursor.partition(":")
        if not score.isdecimal():
            raise InvalidTask("not a page token of this listing", field="page_token")
        rank, newer = await self._link.ask(
            ("ZREVRANK", name, task_id), ("ZCOUNT", name, f"({score}", "+inf")
        )
        # A task that is gone by now has no rank: all those of its millisecond are read again.
        return int(newer) if rank is None else int(rank) + 1


def _texts(reply: Sequence[bytes]) -> dict[str, str]:
    texts = [text.decode(errors="replace") for text in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _data(fields: Sequence[bytes], given: bytes | None) -> dict[str, bytes]:
    """The data of a task; before the first release its input was a field of it."""
    return _fields(fields) | ({} if given is None else {"input": given})


def _fields(reply: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
