"""The fallback's journal in SQLite: what has to go to Redis once it is back."""

from __future__ import annotations

import json
import sqlite3

from stepstream_dispatcher.store.codec import decode_event
from stepstream_dispatcher.store.port import Journaled

__all__ = ["depart", "departed", "drop", "task", "task_ids"]


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
    query = "SELECT name, tally, value FROM task_tallies WHERE task_id = ?"
    tallies = {(name, tally): n for name, tally, n in connection.execute(query, (task_id,))}
    query = "SELECT name, value FROM data WHERE task_id = ?"
    return Journaled(
        task_id=task_id,
        fields=json.loads(row[0]),
        data=dict(connection.execute(query, (task_id,))),
        history=events,
        since_ms=row[1],
        due_ms=row[2],
        expires_ms=row[3],
        tallies=tallies,
    )


def depart(connection: sqlite3.Connection, task_id: str) -> None:
    """Mark a task that may be elsewhere from now on."""
    connection.execute("REPLACE INTO departed (task_id) VALUES (?)", (task_id,))


def departed(connection: sqlite3.Connection) -> list[str]:
    """List the tasks that are marked."""
    return [task_id for (task_id,) in connection.execute("SELECT task_id FROM departed")]


def drop(connection: sqlite3.Connection, task_id: str) -> None:
    """Forget a task that Redis has, and what it has counted."""
    query = "SELECT expires_ms IS NULL FROM tasks WHERE task_id = ?"
    row = connection.execute(query, (task_id,)).fetchone()
    if row is None:
        return
    connection.execute("UPDATE counts SET value = value - ? WHERE name = 'live'", (row[0],))
    query = "SELECT value, name, tally FROM task_tallies WHERE task_id = ?"
    statement = "UPDATE tallies SET value = value - ? WHERE name = ? AND tally = ?"
    connection.executemany(statement, connection.execute(query, (task_id,)).fetchall())
    for table in ("tasks", "data", "history", "entries", "task_tallies", "departed"):
        statement = f"DELETE FROM {table} WHERE task_id = ?"  # noqa: S608 - a name of ours
        connection.execute(statement, (task_id,))
