"""What a submission may say, and the transition that creates its task."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream.errors import InvalidTask, PayloadTooLarge
from stepstream_dispatcher.core.admission import (
    Limits,
    Submission,
    admit,
    check_task_id,
    creation,
    input_hash,
    task_id_of,
)
from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.core.record import EventType, Stage, TaskRecord, Transition, after
from tests.support.records import APPROVAL, NOW_MS, TASK_ID, TRANSLATION

LIMITS = Limits(payload_bytes=100)
DAY_MS = 24 * 3600 * 1000


def submission(**changes: object) -> Submission:
    return msgspec.structs.replace(Submission(pipeline="translation", input=b"text"), **changes)


def created(pipeline: Pipeline = TRANSLATION, **changes: object) -> Transition:
    return creation(
        submission(**changes), pipeline, task_id=TASK_ID, op_id="op000001", now_ms=NOW_MS
    )


def record_of(transition: Transition) -> TaskRecord:
    blank = TaskRecord(version=0, state="", stage=Stage.QUEUED, pipeline="", step="")
    return after(blank, transition)


# --- admission -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input": b"x" * 100},
        {"request_id": "!"},
        {"request_id": "~" * 128},
        {"delay_ms": 366 * DAY_MS},
        {"deadline_ms": 1},
        {"deadline_ms": 366 * DAY_MS},
        {"delay_ms": 1_000, "deadline_ms": 1_001},
        {"labels": {f"key-{number}": "" for number in range(16)}},
        {"labels": {"k" * 63: "v" * 63}},
        {"max_retries": 0},
        {"max_retries": 100},
        {"initial_delay_ms": 1},
        {"initial_delay_ms": DAY_MS},
        {"timeout_ms": 1},
        {"timeout_ms": DAY_MS},
    ],
)
def test_what_is_within_the_limits_is_admitted(changes: dict[str, object]):
    admit(submission(**changes), LIMITS)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input": b""}, "input"),
        ({"request_id": "a b"}, "request_id"),
        ({"request_id": "ключ"}, "request_id"),
        ({"request_id": "a\n"}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"delay_ms": -1}, "delay"),
        ({"delay_ms": 366 * DAY_MS + 1}, "delay"),
        ({"deadline_ms": 0}, "deadline"),
        ({"deadline_ms": -1}, "deadline"),
        ({"deadline_ms": 366 * DAY_MS + 1}, "deadline"),
        ({"delay_ms": 1_000, "deadline_ms": 1_000}, "deadline"),
        ({"labels": {f"key-{number}": "" for number in range(17)}}, "labels"),
        ({"labels": {"": "value"}}, "labels"),
        ({"labels": {"k" * 64: "value"}}, "labels"),
        ({"labels": {"key": "v" * 64}}, "labels"),
        ({"max_retries": -2}, "retry.max_retries"),
        ({"max_retries": 101}, "retry.max_retries"),
        ({"initial_delay_ms": 0}, "retry.initial_delay"),
        ({"initial_delay_ms": DAY_MS + 1}, "retry.initial_delay"),
        ({"timeout_ms": 0}, "retry.timeout"),
        ({"timeout_ms": -2}, "retry.timeout"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_by_its_field(changes: dict[str, object], field: str):
    with pytest.raises(InvalidTask) as caught:
        admit(submission(**changes), LIMITS)

    assert caught.value.field == field


def test_input_beyond_the_limit_is_too_large():
    with pytest.raises(PayloadTooLarge, match="101 bytes, limit 100"):
        admit(submission(input=b"x" * 101), LIMITS)


@pytest.mark.parametrize("task_id", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 32 + "\n"])
def test_what_is_no_task_id_is_refused(task_id: str):
    with pytest.raises(InvalidTask):
        check_task_id(task_id)


# --- names ---------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_derived_task_id_is_one_and_is_valid(namespace: str, request_id: str):
    task_id = task_id_of(namespace, request_id)

    check_task_id(task_id)
    assert task_id == task_id_of(namespace, request_id)


def test_namespace_and_request_id_do_not_run_together():
    names = {task_id_of("a", "bc"), task_id_of("ab", "c"), task_id_of("", "abc")}

    assert len(names) == 3


def test_input_hash_is_of_pipeline_and_input_alone():
    same = submission(request_id="r", delay_ms=5, labels={"a": "b"}, max_retries=1)

    assert input_hash(same) == input_hash(submission())
    assert len(input_hash(same)) == 16
    assert input_hash(submission(input=b"other")) != input_hash(submission())
    assert input_hash(submission(pipeline="other")) != input_hash(submission())


def test_pipeline_and_input_do_not_run_together():
    assert input_hash(submission(pipeline="ab", input=b"c")) != input_hash(
        submission(pipeline="a", input=b"bc")
    )


# --- creation ------------------------------------------------------------------------------------


def test_creation_queues_the_first_step():
    transition = created()

    assert transition.expected_version == 0
    assert transition.enqueue == "default"
    assert transition.due_ms is None
    assert transition.move == ("", "pending")
    assert transition.live == 1
    assert transition.event.type is EventType.SUBMITTED
    assert (transition.event.sequence, transition.event.at_ms) == (1, NOW_MS)
    record = record_of(transition)
    assert (record.version, record.stage, record.state) == (1, Stage.QUEUED, "pending")
    assert (record.pipeline, record.step) == (TRANSLATION.key, "translate")
    assert (record.created_ms, record.updated_ms) == (NOW_MS, NOW_MS)
    assert record.input_hash == input_hash(submission())


def test_creation_with_a_delay_is_scheduled():
    transition = created(delay_ms=5_000)

    assert transition.enqueue is None
    assert transition.due_ms == NOW_MS + 5_000
    assert transition.move == ("", "scheduled")
    assert transition.event.type is EventType.SCHEDULED
    assert transition.event.delay_ms == 5_000
    record = record_of(transition)
    assert (record.stage, record.due_ms) == (Stage.DELAYED, NOW_MS + 5_000)


@pytest.mark.parametrize("delay_ms", [0, 5_000])
def test_creation_with_a_deadline_sets_the_earliest_timer(delay_ms: int):
    transition = created(delay_ms=delay_ms, deadline_ms=9_000)

    assert record_of(transition).deadline_ms == NOW_MS + 9_000
    assert transition.due_ms == NOW_MS + (delay_ms or 9_000)
    assert transition.enqueue == (None if delay_ms else "default")


def test_creation_before_a_person_waits_for_one():
    transition = created(APPROVAL)

    assert transition.enqueue is None
    assert transition.due_ms is None
    assert transition.move == ("", "asking")
    assert transition.event.type is EventType.SUBMITTED
    assert transition.event.state == "asking"
    record = record_of(transition)
    assert (record.stage, record.state, record.queue) == (Stage.WAITING, "asking", "")


def test_creation_before_a_person_may_be_scheduled():
    transition = created(APPROVAL, delay_ms=5_000)

    assert transition.due_ms == NOW_MS + 5_000
    assert record_of(transition).stage is Stage.DELAYED


def test_creation_keeps_what_the_task_overrides():
    record = record_of(created(max_retries=1, initial_delay_ms=50, timeout_ms=9_000))

    assert (record.max_retries, record.initial_delay_ms, record.timeout_ms) == (1, 50, 9_000)


def test_creation_keeps_input_labels_and_trace():
    assert created().data == {"input": b"text"}

    data = created(labels={"team": "a"}, trace={"traceparent": "00-1"}).data

    assert data == {
        "input": b"text",
        "labels": b'{"team":"a"}',
        "trace": b'{"traceparent":"00-1"}',
    }
