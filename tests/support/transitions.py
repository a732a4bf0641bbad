"""One transition of every kind, built from the record before it, for whoever tests a store."""

from collections.abc import Callable
from typing import Any

import msgspec

from stepstream_dispatcher.core.record import Event, EventType, TaskRecord, Transition

__all__ = ["KINDS", "Kind", "build", "lease_token"]

RETAIN_S = 3600
DELAY_MS = 60_000
HOLDER = {"lease": "", "owner": "", "worker": "", "entry": ""}


class Kind(msgspec.Struct, frozen=True):
    """A kind of transition, and what has to happen to a new task before it."""

    before: tuple[str, ...]
    build: Callable[[TaskRecord], dict[str, Any]]  # parts of the transition, `type` of the event


def lease_token(task_id: str, attempt: int) -> str:
    """The token that `build` gives to an attempt."""
    return f"lease-{task_id}-{attempt}"


def build(
    kind: str, task_id: str, record: TaskRecord | None, *, now_ms: int, op_id: str = ""
) -> Transition:
    """Build the transition of a kind that follows a record (None: there is no task).

    The operation id is made of the kind and the version unless one is given.
    """
    version = record.version if record else 0
    parts = KINDS[kind].build(record) if record else _create(now_ms)
    fields = {"version": version + 1, "updated_ms": now_ms, **parts.pop("fields")}
    if parts.get("touch"):
        del fields["version"], fields["updated_ms"]
    if "move" in parts:
        fields["state"] = parts["move"][1]
    if kind == "lease":
        fields["lease"] = lease_token(task_id, fields["attempt"])
    if "due_ms" in parts:
        parts["due_ms"] += now_ms
        fields["due_ms"] = parts["due_ms"]
    event = Event(
        sequence=0 if parts.get("touch") else version + 1,
        at_ms=now_ms,
        type=parts.pop("type"),
        state=str(fields.get("state", record.state if record else "")),
        step=record.step if record else "translate",
        attempt=record.attempt if record else 0,
        actor="worker-1" if record else "",
        message=f"{kind} of {task_id}" if record else "",
    )
    return Transition(
        task_id=task_id,
        op_id=op_id or f"{kind[:4]:_<4}{version:04d}",
        expected_version=version,
        fields=fields,
        event=event,
        **parts,
    )


def _create(now_ms: int) -> dict[str, Any]:
    return {
        "type": EventType.SUBMITTED,
        "fields": {
            "stage": "queued",
            "pipeline": "translation@1",
            "step": "translate",
            "queue": "default",
            "created_ms": now_ms,
            "input_hash": "0123456789abcdef",
        },
        "data": {"input": bytes(range(256))},
        "enqueue": "default",
        "move": ("", "pending"),
        "live": 1,
    }


def _lease(record: TaskRecord) -> dict[str, Any]:
    fields = {"stage": "leased", "attempt": record.attempt + 1, "owner": "d1", "worker": "worker-1"}
    moved = {"move": ("pending", "translating")} if record.state == "pending" else {}
    return {"type": EventType.LEASED, "fields": fields, **moved}


def _adopt(record: TaskRecord) -> dict[str, Any]:
    return {"type": EventType.ADOPTED, "lease": record.lease, "fields": {"owner": "d2"}}


def _settled(record: TaskRecord, *, tally: str = "processed") -> dict[str, Any]:
    return {
        "lease": record.lease,
        "settles": record.step,
        "ack": (record.queue, record.entry),
        "tally": (record.worker, tally),
    }


def _complete_next(record: TaskRecord) -> dict[str, Any]:
    fields = {**HOLDER, "stage": "queued", "step": "verify", "queue": "checks", "attempt": 0}
    return {
        "type": EventType.COMPLETED,
        **_settled(record),
        "fields": fields,
        "data": {"output.translate": b"\x00\xff" * 3000},
        "enqueue": "checks",
        "move": (record.state, "llm_verification"),
    }


def _complete_done(record: TaskRecord) -> dict[str, Any]:
    return {
        "type": EventType.DONE,
        **_settled(record),
        "fields": {**HOLDER, "stage": "ended"},
        "data": {f"output.{record.step}": b"done"},
        "move": (record.state, "done"),
        "live": -1,
        "retain_s": RETAIN_S,
    }


def _fail_delayed(record: TaskRecord) -> dict[str, Any]:
    fields = {**HOLDER, "stage": "delayed", "failures": record.failures + 1, "errors": 1}
    return {
        "type": EventType.RETRYING,
        **_settled(record, tally="failed"),
        "fields": fields,
        "data": {"error.0": b"why"},
        "due_ms": DELAY_MS,
    }


def _fail_dead(record: TaskRecord) -> dict[str, Any]:
    return {
        "type": EventType.FAILED,
        **_settled(record, tally="failed"),
        "fields": {**HOLDER, "stage": "ended"},
        "move": (record.state, "failed"),
        "live": -1,
        "retain_s": RETAIN_S,
    }


def _due(record: TaskRecord) -> dict[str, Any]:
    fields = {"stage": "queued", "due_ms": 0}
    return {"type": EventType.QUEUED, "fields": fields, "undelay": True, "enqueue": record.queue}


def _release(record: TaskRecord) -> dict[str, Any]:
    return {
        "type": EventType.RELEASED,
        "lease": record.lease,
        "fields": {**HOLDER, "stage": "queued"},
        "ack": (record.queue, record.entry),
        "enqueue": record.queue,
    }


def _lost(record: TaskRecord) -> dict[str, Any]:
    return {
        "type": EventType.LOST,
        "lease": record.lease,
        "fields": {**HOLDER, "stage": "delayed", "losses": record.losses + 1},
        "ack": (record.queue, record.entry),
        "tally": (record.worker, "failed"),
        "due_ms": DELAY_MS,
    }


def _cancel(record: TaskRecord) -> dict[str, Any]:
    return {
        "type": EventType.CANCELLED,
        "fields": {"stage": "ended", "entry": ""},
        "ack": (record.queue, record.entry),
        "move": (record.state, "cancelled"),
        "live": -1,
        "retain_s": RETAIN_S,
    }


def _to_review(record: TaskRecord) -> dict[str, Any]:
    return {
        "type": EventType.WAITING,
        **_settled(record),
        "fields": {**HOLDER, "stage": "waiting", "step": "review", "queue": ""},
        "move": (record.state, "human_review"),
    }


def _review(record: TaskRecord) -> dict[str, Any]:
    return {
        "type": EventType.DONE,
        "fields": {"stage": "ended", "reviewer": "ann"},
        "move": (record.state, "done"),
        "live": -1,
        "retain_s": RETAIN_S,
    }


def _redrive(record: TaskRecord) -> dict[str, Any]:
    return {
        "type": EventType.REDRIVEN,
        "fields": {"stage": "queued", "failures": 0, "cancel": 0},
        "enqueue": "default",
        "move": ("failed", "translating"),
        "live": 1,
        "retain_s": -1,
    }


def _touch(record: TaskRecord) -> dict[str, Any]:
    fields = {"progress": 0.25, "note": "a quarter — ¼"}
    return {"type": EventType.PROGRESS, "lease": record.lease, "touch": True, "fields": fields}


KINDS = {
    "create": Kind((), lambda record: {}),
    "lease": Kind(("create",), _lease),
    "adopt": Kind(("create", "lease"), _adopt),
    "complete-next": Kind(("create", "lease"), _complete_next),
    "complete-done": Kind(("create", "lease"), _complete_done),
    "fail-delayed": Kind(("create", "lease"), _fail_delayed),
    "fail-dead": Kind(("create", "lease"), _fail_dead),
    "due": Kind(("create", "lease", "fail-delayed"), _due),
    "release": Kind(("create", "lease"), _release),
    "lost": Kind(("create", "lease"), _lost),
    "cancel": Kind(("create",), _cancel),
    "to-review": Kind(("create", "lease"), _to_review),
    "review": Kind(("create", "lease", "to-review"), _review),
    "redrive": Kind(("create", "lease", "fail-dead"), _redrive),
    "touch": Kind(("create", "lease"), _touch),
}
