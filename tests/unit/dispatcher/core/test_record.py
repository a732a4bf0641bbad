"""The record as data: what ends it, and how a transition changes it."""

import msgspec
import pytest

from stepstream_dispatcher.core import facts as f
from stepstream_dispatcher.core.lifecycle import decide
from stepstream_dispatcher.core.record import (
    TERMINAL_STATES,
    Event,
    EventType,
    Stage,
    TaskRecord,
    Transition,
    after,
)
from tests.support.records import circumstances, ended, facts_of_every_kind, leased, queued


def transition(**fields: object) -> Transition:
    event = Event(sequence=6, at_ms=1, type=EventType.LEASED, state="translating")
    return Transition(task_id="t", op_id="op000001", expected_version=5, fields=fields, event=event)


@pytest.mark.parametrize("stage", Stage)
def test_only_an_ended_record_is_terminal(stage: Stage):
    assert queued(stage=stage).terminal is (stage is Stage.ENDED)


def test_terminal_states_are_the_three_ends():
    assert frozenset({"done", "failed", "cancelled"}) == TERMINAL_STATES
    assert ended().state in TERMINAL_STATES


def test_after_sets_what_the_transition_sets_and_nothing_else():
    record = queued()

    known = after(record, transition(stage="leased", version=6, owner="dispatcher-1"))

    assert known.stage is Stage.LEASED
    assert msgspec.structs.replace(known, stage=record.stage, version=5, owner="") == record


def test_after_leaves_the_stage_where_it_is_not_set():
    assert after(leased(), transition(progress=0.5)).stage is Stage.LEASED


def test_after_leaves_the_entry_to_the_store():
    requeued = facts_of_every_kind()[f.Requeued]
    decision = decide(queued(), requeued, circumstances())

    assert isinstance(decision, Transition)
    assert after(queued(), decision).entry == queued().entry


@pytest.mark.parametrize("record", [queued(), leased(), ended()])
def test_record_survives_its_text_form(record: TaskRecord):
    texts = {name: str(value) for name, value in msgspec.to_builtins(record).items()}

    assert msgspec.convert(texts, TaskRecord, strict=False) == record
