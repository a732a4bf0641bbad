"""Messages become JSON as json_format writes them, and numbers that it gives up on too."""

import math

import msgspec
import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import task_pb2 as pb
from stepstream_dispatcher.rpc.transcoding.writer import written

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
MEMBERS = st.dictionaries(TEXT, st.none() | st.booleans() | TEXT | NUMBERS | st.lists(NUMBERS))
PAYLOADS = st.one_of(
    TEXT.map(lambda text: pb.Payload(text=text)),
    st.binary(max_size=8).map(lambda data: pb.Payload(data=data)),
    MEMBERS.map(lambda members: json_format.ParseDict({"json": members}, pb.Payload())),
    st.just(pb.Payload()),
)
TASKS = st.builds(
    pb.Task,
    task_id=TEXT,
    phase=st.sampled_from([*pb.Phase.values(), 99]),
    version=st.integers(-(2**63), 2**63 - 1),
    progress=st.floats(),
    create_time=st.none() | st.builds(Timestamp, seconds=st.integers(0, 2**33)),
    labels=st.dictionaries(TEXT, TEXT, max_size=2),
    input=st.none() | PAYLOADS,
    outputs=st.dictionaries(TEXT, PAYLOADS, max_size=2),
    errors=st.lists(st.builds(pb.AttemptError, attempt=st.integers(0, 9)), max_size=2),
    cancel_requested=st.booleans(),
)


@given(TASKS)
def test_written_as_json_format_writes(task: pb.Task):
    expected = json_format.MessageToDict(task, always_print_fields_with_no_presence=True)

    assert written(task) == expected
    msgspec.json.encode(written(task))


def test_an_answer_with_a_choice_has_the_one_that_is_set():
    refused = api.SubmitResult(error=api.ItemError(reason="QUEUE_FULL"))

    answer = written(refused)

    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "reason", "message", "field"}


@pytest.mark.parametrize(
    ("number", "word"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_numbers_that_json_lacks_are_words(number: float, word: str):
    payload = pb.Payload()
    payload.json["a"] = [number]

    assert written(payload) == {"json": {"a": [word]}}


@pytest.mark.parametrize(("number", "kind"), [(3.0, int), (2.0**53, int), (1e300, float)])
def test_a_number_is_an_integer_where_that_is_exact(number: float, kind: type):
    payload = pb.Payload()
    payload.json["a"] = number

    value = written(payload)["json"]["a"]

    assert (value, type(value)) == (number, kind)
