"""`stepstream explain`."""

import json

import pytest

from stepstream._convert import task_from_message
from stepstream.cli.explain import REASON_NAMES, next_command, span_words
from stepstream.types import ExplainReason, Explanation
from stepstream.v1 import dispatcher_service_pb2 as pb2
from tests.unit.client.dispatcher_stub import make_task


@pytest.fixture
def explained(stub):
    task = make_task(step="translate")
    task.update_time.FromSeconds(60)
    stub.tasks["t1"] = task
    stub.explanation = pb2.ExplainTaskResponse(
        reason="EXPLAIN_REASON_NO_WORKER", message="no connected worker serves translate"
    )
    stub.explanation.until.FromSeconds(90)
    return stub


def test_in_a_pipe_it_is_one_line(run, explained):
    assert run("explain", "t1").stdout.rstrip("\n").split("\t") == [
        "NO_WORKER",
        "1970-01-01T00:01:00+00:00",
        "1970-01-01T00:01:30+00:00",
        "no connected worker serves translate",
    ]


def test_json_has_reason_words_and_times(run, explained):
    assert json.loads(run("explain", "t1", "--json").stdout) == {
        "task_id": "t1",
        "since": "1970-01-01T00:01:00Z",
        "reason": "NO_WORKER",
        "message": "no connected worker serves translate",
        "until": "1970-01-01T00:01:30Z",
    }


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_it_says_what_to_type_next(on_terminal, explained, columns):
    terminal = on_terminal("explain", "t1", columns=columns)

    assert terminal.end() == 0
    for words in (
        "task t1 of translation",
        "no connected worker serves",
        "since",
        "until",
        "workers",
    ):
        assert words in terminal.text


def test_a_running_attempt_is_shown_with_how_far_it_is(on_terminal, explained):
    explained.tasks["t1"].progress_note = "loading the model"
    explained.explanation = pb2.ExplainTaskResponse(reason="EXPLAIN_REASON_RUNNING")

    terminal = on_terminal("explain", "t1")

    assert terminal.end() == 0
    assert "so far 0% loading the model" in terminal.text


def test_an_unknown_task_is_exit_3(run):
    assert run("explain", "nope").exit_code == 3


@pytest.mark.parametrize("reason", [one for one in ExplainReason if one != "UNSPECIFIED"])
def test_each_reason_has_a_name(reason):
    assert REASON_NAMES[reason]


def test_a_failed_task_leads_to_redrive(run, stub):
    with_id = make_task(state="failed")
    stub.tasks["t1"] = with_id
    finished = Explanation(reason="FINISHED", message="", until=None)

    assert next_command(task_from_message(with_id), finished).endswith("redrive t1")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3_725, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_spans_have_two_units(seconds, words):
    assert span_words(seconds) == words
