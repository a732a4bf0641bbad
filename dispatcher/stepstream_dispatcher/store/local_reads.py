"""What is read of tasks from SQLite: records, data, histories, pages and counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from stepstream.errors import InvalidTask
from stepstream_dispatcher.core.record import Event, TaskRecord
from stepstream_dispatcher.store.codec import decode_event, decode_record
from stepstream_dispatcher.store.local_commit import fields_of
from stepstream_dispatcher.store.port import IndexPage, Intents

__all__ = [
    "counts",
    "data",
    "due",
    "ended_in",
    "history",
    "index",
    "intents",
    "labels",
    "load",
    "oldest_ms",
    "records",
    "settled",
    "waiting",
]


def records(
    connection: sqlite3.Connection, task_ids: Sequence[str], *, now_ms: int
) -> list[TaskRecord | None]:
    """See Store.records."""
    found = [(task_id, fields_of(connection, task_id, now_ms=now_ms)) for task_id in task_ids]
    return [decode_record(task_id, fields) if fields else None for task_id, fields in found]


def data(
    connection: sqlite3.Connection, task_ids: Sequence[str], *, now_ms: int
) -> list[dict[str, bytes]]:
    """See Store.data."""
    query = "SELECT name, value FROM data WHERE task_id = ?"
    return [
        dict(connection.execute(query, (task_id,)))
        if fields_of(connection, task_id, now_ms=now_ms)
        else {}
        for task_id in task_ids
    ]


def load(
    connection: sqlite3.Connection, task_ids: Sequence[str], *, now_ms: int
) -> list[tuple[TaskRecord | None, dict[str, bytes]]]:
    """See Store.load."""
    found = records(connection, task_ids, now_ms=now_ms)
    return list(zip(found, data(connection, task_ids, now_ms=now_ms), strict=True))


def settled(connection: sqlite3.Connection, task_id: str, *, step: str, now_ms: int) -> str:
    """See Store.settled."""
    fields = fields_of(connection, task_id, now_ms=now_ms) or {}
    return fields.get(f"settled:{step}", "")


def traces(connection: sqlite3.Connection, task_ids: Sequence[str], *, now_ms: int) -> list[bytes]:
    """See Store.traces."""
    found = data(connection, task_ids, now_ms=now_ms)
    return [fields.get("trace", b"") for fields in found]


def labels(connection: sqlite3.Connection, task_ids: Sequence[str], *, now_ms: int) -> list[bytes]:
    """See Store.labels."""
    found = data(connection, task_ids, now_ms=now_ms)
    return [fields.get("labels", b"") for fields in found]


def intents(connection: sqlite3.Connection) -> Intents:
    """See Store.intents."""
    draining = connection.execute("SELECT instance_id FROM draining")
    return Intents(
        paused=dict(connection.execute("SELECT queue, since_ms FROM paused")),
        draining=frozenset(instance_id for (instance_id,) in draining),
    )


def history(
    connection: sqlite3.Connection, task_id: str, *, after: int, now_ms: int
) -> list[Event]:
    """See Store.history."""
    if fields_of(connection, task_id, now_ms=now_ms) is None:
        return []
    query = "SELECT event FROM history WHERE task_id = ? AND sequence > ? ORDER BY sequence"
    return [decode_event(packed) for (packed,) in connection.execute(query, (task_id, after))]


def index(connection: sqlite3.Connection, *, cursor: str, count: int) -> IndexPage:
    """See Store.index."""
    query = (
        "SELECT created_ms, task_id FROM tasks WHERE (created_ms, task_id) < (?, ?) "
        "ORDER BY created_ms DESC, task_id DESC LIMIT ?"
    )
    return _page(connection.execute(query, (*_position(cursor), count + 1)).fetchall(), count)


def waiting(connection: sqlite3.Connection, state: str, *, cursor: str, count: int) -> IndexPage:
    """See Store.waiting."""
    query = (
        "SELECT since_ms, task_id FROM tasks WHERE state = ? AND (since_ms, task_id) < (?, ?) "
        "ORDER BY since_ms DESC, task_id DESC LIMIT ?"
    )
    rows = connection.execute(query, (state, *_position(cursor), count + 1)).fetchall()
    return _page(rows, count)


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """See Store.counts."""
    states = connection.execute(
        "SELECT state, count(*) FROM tasks WHERE state != '' GROUP BY state"
    )
    others = connection.execute("SELECT name, value FROM counts")
    return {"live": 0, "retries": 0} | dict(states) | dict(others)


def ended_in(connection: sqlite3.Connection, minute: int) -> int:
    """See Store.ended_in."""
    query = "SELECT amount FROM minutes WHERE minute = ?"
    row = connection.execute(query, (minute,)).fetchone()
    return int(row[0]) if row else 0


def oldest_ms(connection: sqlite3.Connection, state: str) -> int | None:
    """See Store.oldest_ms."""
    query = "SELECT min(since_ms) FROM tasks WHERE state = ?"
    oldest: int | None = connection.execute(query, (state,)).fetchone()[0]
    return oldest


def due(connection: sqlite3.Connection, *, limit: int, now_ms: int) -> tuple[list[str], int | None]:
    """See Store.due."""
    query = (
        "SELECT task_id, due_ms FROM tasks WHERE due_ms IS NOT NULL "
        "ORDER BY due_ms, task_id LIMIT ?"
    )
    rows = connection.execute(query, (limit + 1,)).fetchall()
    ready = [task_id for task_id, due_ms in rows[:limit] if due_ms <= now_ms]
    return ready, rows[len(ready)][1] if len(rows) > len(ready) else None


def _position(cursor: str) -> tuple[int, str]:
    """The time and the id of the last task seen; past every task for the first page."""
    if not cursor:
        return (1 << 62, "")
    at_ms, _, task_id = cursor.partition(":")
    if not at_ms.isdecimal():
        raise InvalidTask("not a page token of this listing", field="page_token")
    return int(at_ms), task_id


def _page(rows: list[tuple[int, str]], count: int) -> IndexPage:
    task_ids = [task_id for _, task_id in rows[:count]]
    if len(rows) <= count:
        return IndexPage(task_ids, "")
    at_ms, task_id = rows[count - 1]
    return IndexPage(task_ids, f"{at_ms}:{task_id}")
