"""Values on their way to protobuf and back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream import types
from stepstream._convert import (
    DEPTH_MAX,
    payload_to_value,
    seconds_to_duration,
    task_from_message,
    value_to_payload,
)
from stepstream.errors import InvalidTask
from stepstream.v1 import dispatcher_service_pb2, task_pb2
from tests.unit.client.dispatcher_stub import make_task

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def _nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {"leaf": "x"}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@given(st.dictionaries(st.text(), _JSON))
def test_json_comes_back_as_it_went(value):
    payload = task_pb2.Payload.FromString(value_to_payload(value).SerializeToString())

    assert payload_to_value(payload) == value


@pytest.mark.parametrize("value", [{}, {"a": {}}, {"a": []}, "", "text", b"", b"\x00\xff", None])
def test_empty_values_keep_their_kind(value):
    assert payload_to_value(value_to_payload(value)) == value


@pytest.mark.parametrize(("number", "kind"), [(3, int), (3.0, int), (-0.5, float), (1e300, float)])
def test_integral_numbers_come_back_as_int(number, kind):
    value = payload_to_value(value_to_payload({"n": number}))

    assert value == {"n": number}
    assert type(value["n"]) is kind


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, {"b": math.nan}]}, "input.json.a[1].b"),
        ({"a": math.inf}, "input.json.a"),
        ({"a": 2**53 + 1}, "input.json.a"),
        ({"a": [-(2**53) - 1]}, "input.json.a[0]"),
        ({"a": {1: "x"}}, "input.json.a"),
        ({"a": object()}, "input.json.a"),
        ({"a": "\ud800"}, "input.json.a"),
        ({"\ud800": 1}, "input.json"),
        ("\ud800", "input"),
        (7, "input"),
    ],
)
def test_what_cannot_travel_is_refused_with_its_path(value, path):
    with pytest.raises(InvalidTask) as caught:
        value_to_payload(value)

    assert caught.value.field == path
    assert str(caught.value).startswith(path)


def test_nesting_is_limited():
    value_to_payload(_nested(DEPTH_MAX))

    with pytest.raises(InvalidTask, match="deeper than 32 levels"):
        value_to_payload(_nested(DEPTH_MAX + 1))


def test_the_deepest_value_survives_the_deepest_frame():
    """Protobuf parsers stop at 100 nested messages: the limit of 32 levels must keep below it."""
    task = make_task()
    task.outputs["translate"].CopyFrom(value_to_payload(_nested(DEPTH_MAX)))
    frame = dispatcher_service_pb2.WatchTaskResponse(snapshot=task)

    parsed = dispatcher_service_pb2.WatchTaskResponse.FromString(frame.SerializeToString())

    assert payload_to_value(parsed.snapshot.outputs["translate"]) == _nested(DEPTH_MAX)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e300])
def test_a_delay_that_is_no_number_of_seconds_is_refused(seconds):
    with pytest.raises(InvalidTask) as caught:
        seconds_to_duration(seconds, "delay")

    assert caught.value.field == "delay"


@pytest.mark.parametrize(
    ("words", "enum", "prefix"),
    [
        (types.Phase, task_pb2.Phase, "PHASE_"),
        (types.EventType, task_pb2.EventType, "EVENT_TYPE_"),
    ],
)
def test_words_are_those_of_the_protocol(words, enum, prefix):
    assert [word.value for word in words] == [
        name.removeprefix(prefix) for name in enum.DESCRIPTOR.values_by_name
    ]


def test_decisions_are_those_of_the_protocol():
    names = dispatcher_service_pb2.ReviewDecision.keys()[1:]

    assert [f"REVIEW_DECISION_{word.upper()}" for word in types.ReviewDecision] == names


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (task_pb2.Task, types.Task),
        (task_pb2.AttemptError, types.AttemptError),
        (dispatcher_service_pb2.SubmitResponse, types.Submitted),
        (dispatcher_service_pb2.GetStatsResponse, types.Stats),
        (dispatcher_service_pb2.WorkerStats, types.WorkerStats),
        (dispatcher_service_pb2.QueueStats, types.QueueStats),
    ],
)
def test_each_field_of_the_protocol_has_its_attribute(message, kind):
    assert {field.name for field in message.DESCRIPTOR.fields} == set(kind.__struct_fields__)


def test_a_phase_from_a_newer_server_is_its_number():
    assert task_from_message(make_task(phase=99)).phase == "99"


def test_a_task_knows_whether_it_has_ended_or_waits():
    done = task_from_message(make_task(state="done", phase="PHASE_SUCCEEDED"))
    waiting = task_from_message(make_task(state="editing", phase="PHASE_WAITING_FOR_REVIEW"))

    assert (done.finished, done.waiting_for_review) == (True, False)
    assert (waiting.finished, waiting.waiting_for_review) == (False, True)
