"""Commits to SQLite: the guards of commit.lua and its effects, in rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from stepstream_dispatcher.core.record import EventType, TaskRecord, Transition
from stepstream_dispatcher.store.codec import (
    OP_ID_LENGTH,
    OPS_KEPT,
    decode_record,
    encode_event,
    field_text,
)
from stepstream_dispatcher.store.port import MINUTE_MS, Result, Verdict

__all__ = [
    "HISTORY_MAX",
    "commit_transitions",
    "drop_timers",
    "entry_id",
    "entry_number",
    "fields_of",
    "is_local_entry",
]

HISTORY_MAX: Final = 1000  # events kept of a task
MINUTES_KEPT: Final = 3  # in which ended attempts are counted; the port promises two full ones

_ENTRY_MARK: Final = "-local"
_APPLIED: Final = Result(Verdict.APPLIED)


def commit_transitions(
    connection: sqlite3.Connection,
    transitions: Sequence[Transition],
    *,
    now_ms: int,
    live_max: int,
) -> list[Result]:
    """Carry out transitions, each by itself, inside the caller's transaction."""
    return [
        _commit_one(connection, transition, now_ms=now_ms, live_max=live_max)
        for transition in transitions
    ]


def fields_of(
    connection: sqlite3.Connection, task_id: str, *, now_ms: int
) -> dict[str, str] | None:
    """Read a record's fields; None if there is none, or none any more."""
    row = connection.execute(
        "SELECT fields FROM tasks WHERE task_id = ? AND ifnull(expires_ms > ?, 1)",
        (task_id, now_ms),
    ).fetchone()
    return json.loads(row[0]) if row else None


def entry_id(number: int) -> str:
    """The id of an entry; one of Redis is never like it."""
    return f"{number}{_ENTRY_MARK}"


def drop_timers(connection: sqlite3.Connection, *, task_ids: Sequence[str], now_ms: int) -> int:
    """See Store.drop_timers. Only a task that has expired can have a timer and no record here."""
    gone = [task_id for task_id in task_ids if not fields_of(connection, task_id, now_ms=now_ms)]
    statement = "UPDATE tasks SET due_ms = NULL WHERE task_id = ? AND due_ms IS NOT NULL"
    return sum(connection.execute(statement, (task_id,)).rowcount for task_id in gone)


def entry_number(entry_id: str) -> int:
    """The row of an entry; 0 for an id that is none of ours."""
    number = entry_id.removesuffix(_ENTRY_MARK)
    return int(number) if number.isdecimal() else 0


def is_local_entry(entry_id: str) -> bool:
    """Whether an entry id was given out here."""
    return entry_id.endswith(_ENTRY_MARK)


def _commit_one(
    connection: sqlite3.Connection, transition: Transition, *, now_ms: int, live_max: int
) -> Result:
    fields = fields_of(connection, transition.task_id, now_ms=now_ms)
    refusal = _refusal(connection, transition, fields, live_max=live_max)
    if refusal is not None:
        return refusal
    texts = {name: field_text(value) for name, value in transition.fields.items()}
    if transition.touch:
        _save_fields(connection, transition.task_id, (fields or {}) | texts)
        return _APPLIED
    if fields is None:
        _create(connection, transition)
    _settle_entry(connection, transition, texts)
    _remember(transition, fields or {}, texts)
    _save_fields(connection, transition.task_id, (fields or {}) | texts)
    _save_data(connection, transition)
    _move(connection, transition, now_ms=now_ms)
    _count(connection, transition, minute=now_ms // MINUTE_MS)
    return Result(Verdict.APPLIED, entry=texts.get("entry", "")) if transition.enqueue else _APPLIED


def _refusal(
    connection: sqlite3.Connection,
    transition: Transition,
    fields: dict[str, str] | None,
    *,
    live_max: int,
) -> Result | None:
    creates = transition.expected_version == 0
    if fields is None:
        if not creates:
            return Result(Verdict.NOT_FOUND)
        full = 0 < live_max <= _counted(connection, "live")
        return Result(Verdict.FULL) if full else None
    if not transition.touch and _done_before(transition, fields):
        record = _record(transition, fields) if creates else None
        return Result(Verdict.DUPLICATE, record)
    if transition.lease and fields.get("lease", "") != transition.lease:
        return Result(Verdict.STALE_LEASE)
    if not transition.touch and fields["version"] != str(transition.expected_version):
        return Result(Verdict.VERSION_CONFLICT, _record(transition, fields))
    return None


def _done_before(transition: Transition, fields: dict[str, str]) -> bool:
    settled_by = fields.get(f"settled:{transition.settles}")
    if transition.settles and settled_by == transition.lease:
        return True
    ops = fields.get("ops", "")
    return any(
        ops[start : start + OP_ID_LENGTH] == transition.op_id
        for start in range(0, len(ops), OP_ID_LENGTH)
    )


def _record(transition: Transition, fields: dict[str, str]) -> TaskRecord:
    return decode_record(transition.task_id, fields)


def _create(connection: sqlite3.Connection, transition: Transition) -> None:
    task_id, at_ms = transition.task_id, transition.event.at_ms
    for table in ("tasks", "data", "history", "task_tallies"):  # of an earlier life, expired
        connection.execute(f"DELETE FROM {table} WHERE task_id = ?", (task_id,))  # noqa: S608 - ours
    connection.execute(
        "INSERT INTO tasks (task_id, fields, state, since_ms, created_ms) "
        "VALUES (?, '{}', '', ?, ?)",
        (task_id, at_ms, transition.fields.get("created_ms", at_ms)),
    )


def _settle_entry(
    connection: sqlite3.Connection, transition: Transition, texts: dict[str, str]
) -> None:
    if transition.ack is not None:
        queue, acked = transition.ack
        connection.execute(
            "DELETE FROM entries WHERE number = ? AND queue = ?", (entry_number(acked), queue)
        )
    if transition.enqueue is not None:
        step = field_text(transition.fields.get("step", transition.event.step))
        added = connection.execute(
            "INSERT INTO entries (queue, task_id, step) VALUES (?, ?, ?)",
            (transition.enqueue, transition.task_id, step),
        )
        texts["entry"] = entry_id(added.lastrowid or 0)


def _remember(transition: Transition, fields: dict[str, str], texts: dict[str, str]) -> None:
    """Keep what a resend is known by."""
    if transition.settles:
        texts[f"settled:{transition.settles}"] = transition.lease
    else:
        ops = fields.get("ops", "") + transition.op_id
        texts["ops"] = ops[-OPS_KEPT * OP_ID_LENGTH :]


def _save_fields(connection: sqlite3.Connection, task_id: str, fields: dict[str, str]) -> None:
    connection.execute(
        "UPDATE tasks SET fields = ? WHERE task_id = ?", (json.dumps(fields), task_id)
    )


def _save_data(connection: sqlite3.Connection, transition: Transition) -> None:
    task_id, event = transition.task_id, transition.event
    connection.executemany(
        "REPLACE INTO data (task_id, name, value) VALUES (?, ?, ?)",
        [(task_id, name, value) for name, value in transition.data.items()],
    )
    connection.execute(
        "REPLACE INTO history (task_id, sequence, event) VALUES (?, ?, ?)",
        (task_id, event.sequence, encode_event(event)),
    )
    if event.sequence > HISTORY_MAX:
        connection.execute(
            "DELETE FROM history WHERE task_id = ? AND sequence <= ?",
            (task_id, event.sequence - HISTORY_MAX),
        )


def _move(connection: sqlite3.Connection, transition: Transition, *, now_ms: int) -> None:
    task_id = transition.task_id
    if transition.undelay or transition.due_ms is not None:
        due_ms = None if transition.undelay else transition.due_ms
        connection.execute("UPDATE tasks SET due_ms = ? WHERE task_id = ?", (due_ms, task_id))
    if transition.move is not None and transition.move[0] != transition.move[1]:
        connection.execute(
            "UPDATE tasks SET state = ?, since_ms = ? WHERE task_id = ?",
            (transition.move[1], transition.event.at_ms, task_id),
        )
    if transition.retain_s:
        expires_ms = None if transition.retain_s < 0 else now_ms + transition.retain_s * 1000
        connection.execute(
            "UPDATE tasks SET expires_ms = ? WHERE task_id = ?", (expires_ms, task_id)
        )


def _count(connection: sqlite3.Connection, transition: Transition, *, minute: int) -> None:
    _add(connection, "live", transition.live)
    _add(connection, "retries", int(transition.event.type is EventType.RETRYING))
    if transition.tally is not None:
        connection.execute(
            "INSERT INTO tallies (name, tally, value) VALUES (?, ?, 1) "
            "ON CONFLICT DO UPDATE SET value = value + 1",
            transition.tally,
        )
        connection.execute(
            "INSERT INTO task_tallies (task_id, name, tally, value) VALUES (?, ?, ?, 1) "
            "ON CONFLICT DO UPDATE SET value = value + 1",
            (transition.task_id, *transition.tally),
        )
        connection.execute(
            "INSERT INTO minutes (minute, amount) VALUES (?, 1) "
            "ON CONFLICT DO UPDATE SET amount = amount + 1",
            (minute,),
        )
        connection.execute("DELETE FROM minutes WHERE minute < ?", (minute - MINUTES_KEPT,))


def _add(connection: sqlite3.Connection, name: str, change: int) -> None:
    if change:
        connection.execute(
            "INSERT INTO counts (name, value) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET value = value + excluded.value",
            (name, change),
        )


def _counted(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT value FROM counts WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0
