"""The fallback's journal in SQLite: what has to go to Redis once it is back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from stepstream_dispatcher.store.codec import decode_event
from stepstream_dispatcher.store.port import Journaled

__all__ = ["drop", "tallies", "task", "task_ids"]


def task_ids(connection: sqlite3.Connection) -> list[str]:
    """List all tasks, oldest first."""
    query = "SELECT task_id FROM tasks ORDER BY created_ms, task_id"
    return [task_id for (task_id,) in connection.execute(query)]


def task(connection: sqlite3.Connection, task_id: str) -> Journaled | None:
    """Read all that is kept of a task; None if there is none."""
    query = "SELECT fields, since_ms, due_ms, expires_ms FROM tasks WHERE task_id = ?"
    row = connection.execute(query, (task_id,)).fetchone()
    if row is None:
        return None
    query = "SELECT event FROM history WHERE task_id = ? ORDER BY sequence"
    events = [decode_event(packed) for (packed,) in connection.execute(query, (task_id,))]
    query = "SELECT name, value FROM data WHERE task_id = ?"
    return Journaled(
        task_id=task_id,
        fields=json.loads(row[0]),
        data=dict(connection.execute(query, (task_id,))),
        history=events,
        since_ms=row[1],
        due_ms=row[2],
        expires_ms=row[3],
    )


def tallies(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """Read the counters of workers, by (worker, counter)."""
    query = "SELECT name, tally, value FROM tallies WHERE value > 0"
    return {(name, tally): value for name, tally, value in connection.execute(query)}


def drop(
    connection: sqlite3.Connection, task_id: str, counted: Mapping[tuple[str, str], int]
) -> None:
    """Forget a task that Redis has, and the counts that went along with it."""
    row = connection.execute(
        "SELECT expires_ms IS NULL FROM tasks WHERE task_id = ?", (task_id,)
    ).fetchone()
    if row is None:
        return
    for table in ("tasks", "data", "history", "entries"):
        statement = f"DELETE FROM {table} WHERE task_id = ?"  # noqa: S608 - a name of ours
        connection.execute(statement, (task_id,))
    connection.execute("UPDATE counts SET value = value - ? WHERE name = 'live'", (row[0],))
    connection.executemany(
        "UPDATE tallies SET value = value - ? WHERE name = ? AND tally = ?",
        [(amount, worker, tally) for (worker, tally), amount in counted.items()],
    )
