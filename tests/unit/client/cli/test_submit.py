"""`stepstream submit`."""

import json

import pytest

from stepstream import errors
from stepstream._convert import payload_to_value, value_to_payload
from stepstream.v1 import task_pb2
from tests.unit.client.dispatcher_stub import frame, make_event, make_task, snapshot

_PAIR = ("--from", "zh-CN", "--to", "zh-TW")
_INPUT = {"text": "软件", "source_lang": "zh-CN", "target_lang": "zh-TW"}
_RESULT = value_to_payload({"text": "軟體\n"})


def _sent(stub):
    return payload_to_value(stub.requests[0].input)


def test_a_text_argument_is_a_translation_task_and_its_id_is_printed(run, stub):
    result = run("submit", *_PAIR, "软件")

    assert (result.exit_code, result.stdout) == (0, "t1\n")
    assert (stub.requests[0].pipeline, _sent(stub)) == ("translation", _INPUT)


def test_the_text_can_come_from_a_file(run, stub, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("软件", encoding="utf-8")

    assert run("submit", *_PAIR, "--file", str(path)).exit_code == 0
    assert _sent(stub) == _INPUT


@pytest.mark.parametrize("words", [(), ("--file", "-")])
def test_the_text_can_come_from_standard_input(run, stub, words):
    assert run("submit", *_PAIR, *words, text="软件").exit_code == 0
    assert _sent(stub) == _INPUT


def test_another_pipeline_takes_text_or_json(run, stub):
    run("submit", "--pipeline", "p", "words")
    run("submit", "--pipeline", "p", "--input-json", '{"a": [1]}')

    assert [payload_to_value(request.input) for request in stub.requests] == [
        "words",
        {"a": [1]},
    ]


def test_options_travel(run, stub):
    run(
        "submit", *_PAIR, "x", "--request-id", "r1", "--delay", "1.5m", "-l", "a=b", "--label", "c="
    )

    request = stub.requests[0]
    assert (request.request_id, request.delay.seconds) == ("r1", 90)
    assert dict(request.labels) == {"a": "b", "c": ""}
    assert not request.HasField("deadline")


def test_a_deadline_travels(run, stub):
    run("submit", *_PAIR, "x", "--deadline", "2h")

    assert stub.requests[0].deadline.seconds == 7200


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("submit", "x"), "--from"),
        (("submit", "--from", "zh-CN", "x"), "--from"),
        (("submit", *_PAIR, "x", "--file", "y"), "give one of"),
        (("submit", *_PAIR, "--file", "/nowhere/x"), "No such file"),
        (("submit", "--input-json", "[1]"), "not a JSON object"),
        (("submit", "--input-json", "{"), "not JSON"),
        (("submit", *_PAIR, "x", "--delay", "soon"), "not a time"),
        (("submit", *_PAIR, "x", "--deadline", "soon"), "not a time"),
        (("submit", *_PAIR, "x", "--label", "a"), "KEY=VALUE"),
        (("submit", *_PAIR, "x", "--address", "nowhere"), "not host:port"),
    ],
)
def test_wrong_usage_is_exit_2_and_sends_nothing(run, stub, words, complaint):
    result = run(*words)

    assert result.exit_code == 2
    assert complaint in result.stderr
    assert stub.requests == []


def test_json_is_one_document(run):
    result = run("submit", *_PAIR, "x", "--json")

    assert json.loads(result.stdout)["task_id"] == "t1"
    assert result.stdout.count("\n") == 1


def test_wait_prints_the_translation_alone(run, stub):
    stub.tasks["t1"] = make_task(state="done", phase="PHASE_SUCCEEDED", result=_RESULT)

    result = run("submit", *_PAIR, "x", "--wait")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "軟體\n", "")


def test_wait_for_a_task_that_fails_is_exit_5(run, stub):
    failure = task_pb2.AttemptError(code="NO_ENGINE", message="no engine serves\nthis pair")
    stub.tasks["t1"] = make_task(state="failed", phase="PHASE_FAILED", errors=[failure])

    result = run("submit", *_PAIR, "x", "--wait")

    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr == "error: task t1 failed: NO_ENGINE: no engine serves this pair\n"


def test_wait_for_a_task_that_waits_for_a_person_is_exit_7(run, stub):
    stub.tasks["t1"] = make_task(state="human_review", phase="PHASE_WAITING_FOR_REVIEW")

    result = run("submit", *_PAIR, "x", "--wait")

    assert (result.exit_code, result.stdout) == (7, "")
    assert "review t1" in result.stderr


def test_wait_that_takes_too_long_is_exit_6(run, stub):
    stub.wait_timeouts = 1_000_000

    result = run("submit", *_PAIR, "x", "--wait", "--timeout", "50ms")

    assert result.exit_code == 6
    assert result.stderr == "error: task t1 is pending after 0.05 s\n"


def test_watch_and_wait_keep_events_and_result_apart(run, stub):
    stub.tasks["t1"] = make_task(state="done", phase="PHASE_SUCCEEDED", result=_RESULT)
    stub.streams.append(
        [snapshot(make_task()), frame(make_event(2, "DONE", "done", step="verify"))]
    )

    result = run("submit", *_PAIR, "x", "--watch", "--wait")

    assert (result.exit_code, result.stdout) == (0, "軟體\n")
    assert "done" in result.stderr


def test_watch_stops_where_a_person_is_needed(run, stub):
    stub.tasks["t1"] = make_task(state="human_review", phase="PHASE_WAITING_FOR_REVIEW")
    waiting = make_event(2, "WAITING", "human_review", step="verify", detail="rejected")
    stub.streams.append([snapshot(make_task()), frame(waiting)])

    result = run("submit", *_PAIR, "x", "--watch")

    assert result.exit_code == 7
    assert "verify rejected: a person decides" in result.stdout


def test_a_refusal_is_one_line_and_exit_1(run, stub):
    stub.refusals.append(errors.QueueFull("too many live tasks", retry_after_s=3))

    result = run("submit", *_PAIR, "x")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: too many live tasks; try again in 3 s\n"


def test_a_number_that_cannot_travel_is_refused(run):
    result = run("submit", "--pipeline", "p", "--input-json", '{"n": 9007199254740993}')

    assert result.exit_code == 2
    assert "input.json.n" in result.stderr
