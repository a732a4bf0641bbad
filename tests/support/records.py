"""Builders of records in every stage, of facts and of circumstances, for tests of decisions."""

from typing import Any

import msgspec

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.lifecycle import Circumstances, Refusal, decide
from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.core.pipeline_file import load
from stepstream_dispatcher.core.record import Stage, TaskRecord, Transition, after

__all__ = [
    "APPROVAL",
    "ENTRY",
    "NOW_MS",
    "TASK_ID",
    "TOKEN",
    "TRANSLATION",
    "applied",
    "circumstances",
    "decided",
    "delayed",
    "ended",
    "facts_of_every_kind",
    "leased",
    "queued",
    "refused",
    "waiting",
]

NOW_MS = 1_700_000_000_000
TASK_ID = "0123456789abcdef" * 2
TOKEN = "lease-0123456789"
ENTRY = "1699999999999-7"

TRANSLATION_TOML = """
[pipeline.translation]
queue = "default"
result = ["review", "translate"]

[[pipeline.translation.step]]
name = "translate"
state = "translating"
on = { completed = "verify" }

[[pipeline.translation.step]]
name = "verify"
state = "llm_verification"
queue = "checks"
on = { passed = "done", broken = "failed", rejected = "review" }

[[pipeline.translation.step]]
name = "review"
state = "human_review"
kind = "human"
on = { approved = "done", edited = "done", rejected = "translate" }
"""

# A person decides before anything runs, and may end the task.
APPROVAL_TOML = """
[[pipeline.approval.step]]
name = "allow"
state = "asking"
kind = "human"
on = { approved = "run", edited = "run", rejected = "failed" }

[[pipeline.approval.step]]
name = "run"
state = "running"
on = { completed = "done" }
"""

(TRANSLATION,) = load("translation.toml", TRANSLATION_TOML)
(APPROVAL,) = load("approval.toml", APPROVAL_TOML)


def circumstances(pipeline: Pipeline = TRANSLATION, **changes: Any) -> Circumstances:
    """What a decision may know."""
    at = Circumstances(
        task_id=TASK_ID,
        pipeline=pipeline,
        now_ms=NOW_MS,
        rand=0.5,
        op_id="op000001",
        retain_s=60,
    )
    return msgspec.structs.replace(at, **changes)


def queued(**changes: Any) -> TaskRecord:
    """A task that waits for a worker at its first step."""
    record = TaskRecord(
        version=5,
        state="pending",
        stage=Stage.QUEUED,
        pipeline=TRANSLATION.key,
        step="translate",
        queue="default",
        entry=ENTRY,
        created_ms=NOW_MS - 60_000,
        updated_ms=NOW_MS - 2_000,
        input_hash="0123456789abcdef",
    )
    return msgspec.structs.replace(record, **changes)


def leased(**changes: Any) -> TaskRecord:
    """A task whose first step runs at worker-1 of dispatcher-1."""
    record = queued(
        stage=Stage.LEASED,
        state="translating",
        attempt=1,
        lease=TOKEN,
        owner="dispatcher-1",
        worker="worker-1",
        leased_ms=NOW_MS - 1_000,
    )
    return msgspec.structs.replace(record, **changes)


def delayed(**changes: Any) -> TaskRecord:
    """A task whose first step failed once and is due again."""
    record = queued(
        stage=Stage.DELAYED,
        state="translating",
        attempt=1,
        failures=1,
        errors=1,
        entry="",
        due_ms=NOW_MS - 1,
    )
    return msgspec.structs.replace(record, **changes)


def waiting(**changes: Any) -> TaskRecord:
    """A task that waits for a reviewer."""
    record = queued(
        stage=Stage.WAITING, state="human_review", step="review", queue="", entry="", attempt=0
    )
    return msgspec.structs.replace(record, **changes)


def ended(**changes: Any) -> TaskRecord:
    """A dead letter of the first step."""
    record = queued(
        stage=Stage.ENDED, state="failed", entry="", attempt=4, failures=4, errors=4, losses=1
    )
    return msgspec.structs.replace(record, **changes)


def facts_of_every_kind() -> dict[type[f.Fact], f.Fact]:
    """One fact of each kind, true of the records of this module where it can be."""
    facts: list[f.Fact] = [
        f.Leased(entry=ENTRY, token="lease-of-another", owner="dispatcher-1", worker="worker-1"),
        f.Adopted(token=TOKEN, owner="dispatcher-2", worker="worker-1"),
        f.Completed(token=TOKEN, outcome="completed", output=b"output"),
        f.Failed(token=TOKEN, code="BUSY", message="try later", retryable=True),
        f.Released(token=TOKEN, reason="it drains"),
        f.Lost(token=TOKEN, reason="gone", owner="dispatcher-1", waited_ms=0),
        f.Due(),
        f.DeadlinePassed(),
        f.Requeued(entry=ENTRY, reason="no room"),
        f.CancelAsked(reason="no longer needed"),
        f.Reviewed(decision="approved", reviewer="ada"),
        f.Redriven(),
        f.InputUpdated(input=b"input", input_hash="fedcba9876543210"),
        f.Progressed(token=TOKEN, progress=0.5, note="half"),
    ]
    return {type(fact): fact for fact in facts}


def applied(record: TaskRecord, transition: Transition, *, entry: str = "") -> TaskRecord:
    """The record as a store leaves it: a queued step gets the id of its new entry."""
    known = after(record, transition)
    return known if transition.enqueue is None else msgspec.structs.replace(known, entry=entry)


def decided(
    record: TaskRecord, fact: f.Fact, pipeline: Pipeline = TRANSLATION, **changes: Any
) -> Transition:
    """The transition that a fact causes."""
    decision = decide(record, fact, circumstances(pipeline, **changes))
    assert isinstance(decision, Transition), decision
    return decision


def refused(record: TaskRecord, fact: f.Fact) -> Refusal:
    """Why a fact changes nothing."""
    decision = decide(record, fact, circumstances())
    assert isinstance(decision, Refusal), decision
    return decision
