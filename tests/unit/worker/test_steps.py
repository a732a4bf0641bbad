# ruff: noqa: RUF001  the texts are Chinese
"""The two steps, each called with a real context of the SDK."""

from collections.abc import Mapping
from typing import Any

import pytest

from stepstream import Cancelled, NotRetryable, StepContext
from stepstream._convert import value_to_payload
from stepstream.types import Value
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker.attempt import Attempt, Why
from stepstream_worker.steps import translate, verify

SOURCE = "# 软件\n\n请打开 {file}，共 3 行。\n"
TARGET = "# 軟體\n\n請開啟 {file}，共 3 行。\n"
INPUT = {"text": SOURCE, "source_lang": "zh-CN", "target_lang": "zh-TW"}


def attempt_of(step: str, payload: Value, **translated: Any) -> Attempt:
    assignment = pb.Assignment(task_id="t", step=step, attempt=1, feedback="太生硬")
    assignment.input.CopyFrom(value_to_payload(payload, "input"))
    for name, output in translated.items():
        assignment.outputs[name].CopyFrom(value_to_payload(output, "output"))
    return Attempt(assignment, lambda _: None)


def context_of(step: str, payload: Value, **translated: Any) -> StepContext:
    return StepContext(attempt_of(step, payload, **translated))


def test_translate_returns_text_engine_and_feedback() -> None:
    attempt = attempt_of("translate", INPUT)

    output = translate(StepContext(attempt))

    assert output == {
        "text": TARGET,
        "engine": "opencc:s2twp",
        "source_lang": "zh-CN",
        "target_lang": "zh-TW",
        "segments": 2,
        "feedback": "太生硬",
    }
    assert attempt.progress == (1.0, "translated")


def test_verify_passes_a_good_translation() -> None:
    result = verify(context_of("verify", INPUT, translate={"text": TARGET}))

    assert result.outcome == "passed"
    assert result.output == {
        "verdict": "passed",
        "score": 100.0,
        "threshold": 92.0,
        "findings": [],
    }


def test_verify_rejects_with_findings_that_travel() -> None:
    result = verify(context_of("verify", INPUT, translate={"text": TARGET.replace("3", "4")}))

    assert result.outcome == "rejected"
    assert "numbers" in {finding["check"] for finding in result.output["findings"]}
    assert value_to_payload(result.output, "output").ByteSize() > 0


def test_an_empty_translation_is_rejected_not_an_error() -> None:
    result = verify(context_of("verify", INPUT, translate={"text": ""}))

    assert result.outcome == "rejected"
    assert result.output["findings"][0]["check"] == "empty"


def test_the_threshold_may_be_set() -> None:
    spoilt = {"text": "# 軟體\n\n請關閉 {file}，有 3 行。\n"}

    strict = verify(context_of("verify", INPUT, translate=spoilt))
    lenient = verify(context_of("verify", INPUT | {"threshold": 10}, translate=spoilt))

    assert (strict.outcome, lenient.outcome) == ("rejected", "passed")


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ("text alone", "input"),
        (INPUT | {"text": None}, "input.text"),
        (INPUT | {"text": " \n"}, "input.text"),
        ({"text": SOURCE, "target_lang": "zh-TW"}, "source_lang"),
        (INPUT | {"target_lang": "Chinese!"}, "target_lang"),
        (INPUT | {"target_lang": "zh-Hans"}, "target_lang"),
        (INPUT | {"threshold": 101}, "threshold"),
        (INPUT | {"threshold": True}, "threshold"),
    ],
)
@pytest.mark.parametrize("step", [translate, verify])
def test_bad_input_is_not_retried_and_names_the_field(
    step: Any, payload: Value, field: str
) -> None:
    with pytest.raises(NotRetryable, match=field) as refusal:
        step(context_of(step.name, payload, translate={"text": TARGET}))
    assert refusal.value.code == "INVALID_INPUT"


def test_a_pair_without_an_engine_is_not_retried() -> None:
    with pytest.raises(NotRetryable, match="no translation engine serves en→is") as refusal:
        translate(context_of("translate", INPUT | {"source_lang": "en", "target_lang": "is"}))
    assert refusal.value.code == "NO_ENGINE"


@pytest.mark.parametrize("outputs", [{}, {"translate": {"engine": "x"}}, {"translate": "text"}])
def test_verify_without_a_translation_is_not_retried(outputs: Mapping[str, Any]) -> None:
    with pytest.raises(NotRetryable, match=r"outputs\.translate\.text"):
        verify(context_of("verify", INPUT, **outputs))


@pytest.mark.parametrize("step", [translate, verify])
def test_a_cancelled_attempt_stops(step: Any) -> None:
    attempt = attempt_of(step.name, INPUT, translate={"text": TARGET})
    attempt.cancelled_because = Why.REQUESTED

    with pytest.raises(Cancelled):
        step(StepContext(attempt))
