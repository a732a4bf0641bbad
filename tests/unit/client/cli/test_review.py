"""`stepstream review`."""

import getpass
import json

import pytest

from stepstream._convert import payload_to_value, value_to_payload
from stepstream.v1 import dispatcher_service_pb2 as pb2
from tests.unit.client.dispatcher_stub import make_task


@pytest.fixture
def waiting(stub):
    finding = {
        "check": "numbers",
        "message": "17 is missing",
        "line": 3,
        "source": "",
        "target": "",
    }
    task = make_task(
        state="human_review",
        phase="PHASE_WAITING_FOR_REVIEW",
        version=5,
        labels={"title": "A letter"},
        input=value_to_payload({"text": "一\n二"}),
    )
    task.outputs["translate"].CopyFrom(value_to_payload({"text": "壹\n貳", "engine": "opencc"}))
    verdict = {"verdict": "rejected", "score": 71.5, "threshold": 80, "findings": [finding]}
    task.outputs["verify"].CopyFrom(value_to_payload(verdict))
    stub.tasks["t1"] = task
    return task


def test_without_a_task_it_lists_what_waits(run, stub, waiting):
    result = run("review")

    assert result.exit_code == 0
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["t1"]
    assert result.stdout.rstrip().endswith("1\tA letter")
    assert stub.requests[0].state == "human_review"


def test_with_a_task_it_shows_findings_source_and_translation(run, stub, waiting):
    result = run("review", "t1")

    assert result.exit_code == 0
    for words in (
        "score 71.5 of 100, 80 needed",
        "line 3: numbers: 17 is missing",
        "一\n二",
        "壹\n貳",
    ):
        assert words in result.stdout
    assert not any(isinstance(request, pb2.DecideReviewRequest) for request in stub.requests)


def test_json_shows_the_task(run, waiting):
    result = json.loads(run("review", "t1", "--json").stdout)

    assert result["outputs"]["verify"]["findings"][0]["check"] == "numbers"


def test_approve_is_fenced_by_the_version_that_was_read(run, stub, waiting):
    result = run("review", "t1", "--approve")

    assert result.exit_code == 0
    assert result.stdout == f"approved by {getpass.getuser()}: the task is now done\n"
    assert stub.requests[-1] == pb2.DecideReviewRequest(
        task_id="t1",
        decision="REVIEW_DECISION_APPROVED",
        reviewer=getpass.getuser(),
        version=5,
    )


@pytest.mark.parametrize("way", ["file", "stdin", "text"])
def test_edit_sends_the_text_as_the_result(run, stub, waiting, tmp_path, way):
    path = tmp_path / "better.txt"
    path.write_text("更好", encoding="utf-8")
    words = {
        "file": ("--edit", str(path)),
        "stdin": ("--edit", "-"),
        "text": ("--edit-text", "更好"),
    }

    result = run("review", "t1", *words[way], "--reviewer", "ana", text="更好")

    assert result.exit_code == 0
    request = stub.requests[-1]
    assert (request.decision, request.reviewer) == (pb2.REVIEW_DECISION_EDITED, "ana")
    assert payload_to_value(request.output) == {"text": "更好"}


def test_reject_sends_the_feedback(run, stub, waiting):
    run("review", "t1", "--reject", "too stiff")

    request = stub.requests[-1]
    assert (request.decision, request.feedback) == (pb2.REVIEW_DECISION_REJECTED, "too stiff")
    assert not request.HasField("output")


@pytest.mark.parametrize(
    "words",
    [
        ("t1", "--approve", "--reject", "x"),
        ("t1", "--edit", "a", "--edit-text", "b"),
        ("t1", "--edit", "/nowhere/x"),
        ("--approve",),
    ],
)
def test_a_contradiction_is_exit_2_and_decides_nothing(run, stub, waiting, words):
    assert run("review", *words).exit_code == 2
    assert stub.requests == []


def test_a_data_directory_without_data_is_exit_3(run, tmp_path):
    result = run("review", "t1", "--data-dir", str(tmp_path / "none"))

    assert result.exit_code == 3
    assert "stepstream demo" in result.stderr
