"""JSON becomes a message as json_format reads it, and what can't is named."""

import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from stepstream.errors import InvalidTask
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import task_pb2 as pb
from stepstream_dispatcher.rpc.transcoding.reader import DEPTH_MAX, fill

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | TEXT | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)
PAYLOADS = st.one_of(
    st.fixed_dictionaries({"json": st.dictionaries(TEXT, VALUES, max_size=3)}),
    st.fixed_dictionaries({"text": TEXT}),
    st.fixed_dictionaries({"data": st.sampled_from(["", "AA==", "-_-_", "+/+/", "AAA"])}),
    st.just({}),
)
DURATIONS = st.sampled_from(["0s", "1.5s", "-0.000000001s", "315576000000s"])
SUBMISSIONS = st.fixed_dictionaries(
    {"pipeline": TEXT},
    optional={
        "input": PAYLOADS,
        "requestId": TEXT,
        "deadline": st.none(),
        "delay": DURATIONS,
        "labels": st.dictionaries(TEXT, TEXT, max_size=3),
        "requireDurable": st.booleans(),
        "retry": st.fixed_dictionaries(
            {}, optional={"maxRetries": st.integers(-(2**31), 2**31 - 1), "timeout": DURATIONS}
        ),
    },
)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def nested_lists(levels: int) -> dict[str, Any]:
    value: list[Any] = []
    for _ in range(levels - 2):
        value = [value]
    return {"a": value}


def read(body: object, kind: type[Any] = api.SubmitRequest) -> Any:
    message = kind()
    fill(message, body)
    return message


@given(SUBMISSIONS)
def test_read_as_json_format_reads(body: dict[str, Any]):
    assert read(body) == json_format.ParseDict(body, api.SubmitRequest())


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (None, "", "the body must be an object"),
        ([], "", "the body must be an object"),
        ({"pipelin": "x"}, "pipelin", "pipelin is not a field of SubmitRequest"),
        ({"retry": {"max": 1}}, "retry.max", "retry.max is not a field of RetryOverride"),
        ({"requestId": "a", "request_id": "b"}, "request_id", "request_id is given twice"),
        (
            {"input": {"text": "a", "json": {}}},
            "input.json",
            "input.json stands beside another of its kind",
        ),
        ({"pipeline": 1}, "pipeline", "pipeline must be a string"),
        ({"pipeline": "\ud800"}, "pipeline", "pipeline holds half of a surrogate pair"),
        ({"\ud800": 1}, "?", "? is not a field"),
        ({"input": "text"}, "input", "input must be an object"),
        ({"input": {"json": []}}, "input.json", "input.json must be an object"),
        ({"input": {"data": "!"}}, "input.data", "input.data must be base64"),
        ({"input": {"data": "\u00e9"}}, "input.data", "input.data must be base64"),
        ({"input": {"data": 1}}, "input.data", "input.data must be a string"),
        ({"input": {"json": {"a": {"b": [0, math.inf]}}}}, "input.json.a.b[1]", "a double holds"),
        ({"input": {"json": {"a": 2**53 + 1}}}, "input.json.a", "beyond 2^53"),
        ({"input": {"json": {"a": "\udfff"}}}, "input.json.a", "surrogate"),
        ({"input": {"json": {"\udfff": 1}}}, "input.json", "surrogate"),
        ({"input": {"json": nested(DEPTH_MAX + 1)}}, None, "nested deeper than 32 levels"),
        ({"input": {"json": nested_lists(DEPTH_MAX + 1)}}, None, "nested deeper than 32 levels"),
        ({"labels": []}, "labels", "labels must be an object"),
        ({"labels": {"a": 1}}, "labels.a", "labels.a must be a string"),
        ({"labels": {"a": None}}, "labels.a", "labels.a must be a string"),
        ({"requireDurable": "true"}, "requireDurable", "must be true or false"),
        ({"requireDurable": 1}, "requireDurable", "must be true or false"),
        ({"delay": 5}, "delay", "must be a duration"),
        ({"delay": "5"}, "delay", "must be a duration"),
        ({"delay": "\uff11s"}, "delay", "must be a duration"),
        ({"delay": "1_0s"}, "delay", "must be a duration"),
        ({"delay": "315576000001s"}, "delay", "is out of range"),
        ({"retry": {"maxRetries": True}}, "retry.maxRetries", "must be an integer"),
        ({"retry": {"maxRetries": 1.5}}, "retry.maxRetries", "must be an integer"),
        ({"retry": {"maxRetries": math.inf}}, "retry.maxRetries", "must be an integer"),
        ({"retry": {"maxRetries": "\uff11"}}, "retry.maxRetries", "must be an integer"),
        ({"retry": {"maxRetries": 2**31}}, "retry.maxRetries", "must fit into 32 bits"),
    ],
)
def test_what_cannot_be_read_is_named(body: object, field: str | None, words: str):
    with pytest.raises(InvalidTask) as caught:
        read(body)

    assert words in caught.value.message
    assert field in {None, caught.value.field}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"requests": {}}, "requests", "must be a list"),
        ({"requests": [{}, {"foo": 1}]}, "requests[1].foo", "is not a field"),
        ({"requests": [None]}, "requests[0]", "must be an object"),
    ],
)
def test_an_item_is_named_by_its_place(body: object, field: str, words: str):
    with pytest.raises(InvalidTask, match=words) as caught:
        read(body, api.SubmitBatchRequest)

    assert caught.value.field == field


@pytest.mark.parametrize("version", [7, 7.0, "7"])
def test_a_long_integer_may_be_a_number_or_a_string(version: object):
    assert read({"version": version}, api.DecideReviewRequest).version == 7


@pytest.mark.parametrize("decision", ["REVIEW_DECISION_EDITED", 2])
def test_an_enum_is_a_name_or_a_number(decision: object):
    request = read({"decision": decision}, api.DecideReviewRequest)

    assert request.decision == api.REVIEW_DECISION_EDITED


@pytest.mark.parametrize("decision", ["EDITED", "", 2.5, True, 2**40, []])
def test_an_unknown_enum_is_refused(decision: object):
    with pytest.raises(InvalidTask) as caught:
        read({"decision": decision}, api.DecideReviewRequest)

    assert caught.value.field == "decision"


@pytest.mark.parametrize("deep", [nested(DEPTH_MAX), nested_lists(DEPTH_MAX)])
def test_the_deepest_that_is_allowed_survives_the_wire(deep: dict[str, Any]):
    message = read({"json": deep}, pb.Payload)

    assert pb.Payload.FromString(message.SerializeToString()) == message


def test_a_long_name_is_cut_in_the_complaint():
    with pytest.raises(InvalidTask) as caught:
        read({"x" * 100_000: 1})

    assert caught.value.field == "x" * 64
