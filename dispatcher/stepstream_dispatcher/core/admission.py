"""What may come in: checks of a submission, and the transition that creates its task."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from stepstream.errors import InvalidTask, PayloadTooLarge
from stepstream_dispatcher.core.pipeline import Pipeline, Step
from stepstream_dispatcher.core.record import Event, EventType, Stage, TaskRecord, Transition

__all__ = ["Limits", "Submission", "admit", "check_task_id", "creation", "input_hash", "task_id_of"]

REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")
TASK_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
LABELS_MAX: Final = 16
LABEL_CHARS_MAX: Final = 63  # as Kubernetes has it, so that labels carry over
DAY_MS: Final = 24 * 3600 * 1000
DELAY_MS_MAX: Final = 366 * DAY_MS
RETRIES_MAX: Final = 100


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that an operator sets."""

    payload_bytes: int


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A task that somebody wants to run."""

    pipeline: str
    input: bytes  # serialized Payload; empty: none was given
    request_id: str = ""
    delay_ms: int = 0
    deadline_ms: int | None = None  # after it was accepted; None: no limit
    labels: Mapping[str, str] = {}
    trace: Mapping[str, str] = {}
    max_retries: int = -1
    initial_delay_ms: int = -1
    timeout_ms: int = -1
    require_durable: bool = False  # refuse rather than keep it in memory or on one host


def admit(submission: Submission, limits: Limits) -> None:
    """Refuse what no pipeline could run.

    Raises:
        InvalidTask: With the field at fault.
        PayloadTooLarge: The input is over its limit.
    """
    if not submission.input:
        _refuse("input", "is required: one of json, text, data")
    if len(submission.input) > limits.payload_bytes:
        size = f"{len(submission.input)} bytes, limit {limits.payload_bytes}"
        raise PayloadTooLarge(f"input is too large: {size}", field="input")
    if submission.request_id and not REQUEST_ID.match(submission.request_id):
        _refuse("request_id", "must be 1 to 128 printable ASCII characters without spaces")
    if not 0 <= submission.delay_ms <= DELAY_MS_MAX:
        _refuse("delay", "must be 0 to 366 days")
    _check_deadline(submission)
    _check_labels(submission.labels)
    _check_overrides(submission)


def check_task_id(task_id: str) -> None:
    """Refuse what can't be a task id.

    Raises:
        InvalidTask: It is not 32 lower-case hexadecimal digits.
    """
    if not TASK_ID.match(task_id):
        _refuse("task_id", "must be 32 lower-case hexadecimal digits")


def task_id_of(namespace: str, request_id: str) -> str:
    """Derive the task id: the same request id names the same task, with no index to keep."""
    name = f"{namespace}\0{request_id}".encode()
    return hashlib.blake2b(name, digest_size=16).hexdigest()


def input_hash(submission: Submission) -> str:
    """Digest of what makes two submissions the same: pipeline and input."""
    digest = hashlib.blake2b(submission.pipeline.encode(), digest_size=8)
    digest.update(b"\0")
    digest.update(submission.input)
    return digest.hexdigest()


def creation(
    submission: Submission, pipeline: Pipeline, *, task_id: str, op_id: str, now_ms: int
) -> Transition:
    """Build the transition that makes the task."""
    step = pipeline.step(pipeline.first)
    delayed = submission.delay_ms > 0
    stage, state = _beginning(step, delayed=delayed)
    due_ms = now_ms + submission.delay_ms if delayed else 0
    record = TaskRecord(
        version=1,
        state=state,
        stage=stage,
        pipeline=pipeline.key,
        step=step.name,
        queue=step.queue,
        created_ms=now_ms,
        updated_ms=now_ms,
        due_ms=due_ms,
        deadline_ms=now_ms + submission.deadline_ms if submission.deadline_ms else 0,
        input_hash=input_hash(submission),
        max_retries=submission.max_retries,
        initial_delay_ms=submission.initial_delay_ms,
        timeout_ms=submission.timeout_ms,
    )
    return Transition(
        task_id=task_id,
        op_id=op_id,
        expected_version=0,
        fields=msgspec.to_builtins(record),
        data=_data(submission),
        enqueue=step.queue if stage is Stage.QUEUED else None,
        due_ms=record.timer_ms or None,
        move=("", state),
        live=1,
        durable=submission.require_durable,
        event=Event(
            sequence=1,
            at_ms=now_ms,
            type=EventType.SCHEDULED if delayed else EventType.SUBMITTED,
            state=state,
            step=step.name,
            delay_ms=submission.delay_ms,
        ),
    )


def _beginning(step: Step, *, delayed: bool) -> tuple[Stage, str]:
    if delayed:
        return Stage.DELAYED, "scheduled"
    if step.kind == "human":
        return Stage.WAITING, step.state
    return Stage.QUEUED, "pending"


def _data(submission: Submission) -> dict[str, bytes]:
    data = {"input": submission.input}
    if submission.labels:
        data["labels"] = msgspec.json.encode(dict(submission.labels))
    if submission.trace:
        data["trace"] = msgspec.json.encode(dict(submission.trace))
    return data


def _check_deadline(submission: Submission) -> None:
    deadline_ms = submission.deadline_ms
    if deadline_ms is None:
        return
    if not 1 <= deadline_ms <= DELAY_MS_MAX:
        _refuse("deadline", "must be 1 ms to 366 days")
    if deadline_ms <= submission.delay_ms:
        _refuse("deadline", "must be later than the delayed start")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > LABELS_MAX:
        _refuse("labels", f"has {len(labels)} entries, limit {LABELS_MAX}")
    for key, value in labels.items():
        if not key or max(len(key), len(value)) > LABEL_CHARS_MAX:
            _refuse("labels", f"keys and values must have at most {LABEL_CHARS_MAX} characters")


def _check_overrides(submission: Submission) -> None:
    if not -1 <= submission.max_retries <= RETRIES_MAX:
        _refuse("retry.max_retries", f"must be 0 to {RETRIES_MAX}")
    for field, value in (
        ("retry.initial_delay", submission.initial_delay_ms),
        ("retry.timeout", submission.timeout_ms),
    ):
        if value != -1 and not 1 <= value <= DAY_MS:
            _refuse(field, "must be 1 ms to 24 h")


def _refuse(field: str, words: str) -> None:
    raise InvalidTask(f"{field} {words}", field=field)
