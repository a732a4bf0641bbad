"""`stepstream get`, `list`, `watch`, `cancel`, `stats`, and what all commands share."""

import json
import socket

import grpc
import pytest

import stepstream
from stepstream import errors
from stepstream._convert import value_to_payload
from stepstream.cli.exits import MEANINGS
from stepstream.v1 import task_pb2
from tests.unit.client.dispatcher_stub import BareStatus, frame, make_event, make_task, snapshot


def test_version_is_printed(run):
    assert run("--version").stdout == f"stepstream {stepstream.__version__}\n"


def test_help_lists_each_command_and_exit_status(run):
    shown = " ".join(run("--help").stdout.split())

    for code in MEANINGS:
        assert f"{code:d} {MEANINGS[code].split()[0]}" in shown
    for command in [
        "demo",
        "start",
        "dispatcher",
        "worker",
        "submit",
        "watch",
        "get",
        "list",
        "review",
        "cancel",
        "stats",
    ]:
        assert command in shown
        assert "Example" in run(command, "--help").stdout


def test_get_shows_facts_errors_input_and_result(run, stub):
    failure = task_pb2.AttemptError(
        step="translate", attempt=1, worker="w1", code="HANDLER_ERROR", message="ValueError: no\nx"
    )
    stub.tasks["t1"] = make_task(
        state="done",
        step="verify",
        attempt=2,
        input=value_to_payload({"text": "软件 [b]x[/b]"}),
        result=value_to_payload({"text": "軟體"}),
        errors=[failure],
    )

    result = run("get", "t1")

    assert result.exit_code == 0
    for words in (
        "state     done",
        "verify, attempt 2",
        "translate #1 at w1: HANDLER_ERROR: ValueError: no",
        "软件 [b]x[/b]",
        "軟體",
    ):
        assert words in result.stdout


def test_get_json_has_the_whole_task(run, stub):
    stub.tasks["t1"] = make_task(result=value_to_payload({"n": 1}))

    assert json.loads(run("get", "t1", "--json").stdout)["result"] == {"n": 1}


def test_an_unknown_task_is_exit_3(run):
    result = run("get", "nope")

    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "error: no task nope\n"


def test_list_in_a_pipe_is_a_line_per_task(run, stub):
    stub.tasks["t1"] = make_task(labels={"title": "one\ttwo"})
    stub.tasks["t2"] = make_task("t2", "done")

    lines = run("list").stdout.splitlines()

    assert [line.split("\t")[:3] for line in lines] == [
        ["t1", "pending", "translation"],
        ["t2", "done", "translation"],
    ]
    assert lines[0].endswith("\tone two")


def test_list_filters_and_limits(run, stub):
    stub.tasks["t1"] = make_task(state="done")
    stub.tasks["t2"] = make_task("t2", "done")

    result = run("list", "--state", "done", "-p", "translation", "-l", "a=b", "-n", "1", "--json")

    assert [task["task_id"] for task in json.loads(result.stdout)] == ["t1"]
    request = stub.requests[0]
    assert (request.state, request.pipeline, dict(request.labels)) == (
        "done",
        "translation",
        {"a": "b"},
    )


def test_watch_shows_each_event_from_the_start(run, stub):
    stub.tasks["t1"] = make_task(state="done", version=3)
    leased = make_event(2, "LEASED", "translating", step="translate", attempt=2, actor="w1")
    stub.streams.append(
        [
            snapshot(make_task(state="done", version=3)),
            frame(make_event(1, "SUBMITTED", "pending")),
            frame(leased),
            frame(make_event(3, "DONE", "done", step="verify", detail="passed")),
        ]
    )

    result = run("watch", "t1")

    assert result.exit_code == 0
    assert [" ".join(line.split()) for line in result.stdout.splitlines()] == [
        "task t1 of translation",
        "pending accepted",
        "translating translate at w1 (attempt 2)",
        "done verify passed",
    ]
    assert stub.requests[0].after_sequence == 0


def test_watch_of_a_task_that_fails_is_exit_5(run, stub):
    stub.tasks["t1"] = make_task(state="failed", version=1)
    stub.streams.append(
        [snapshot(make_task(state="failed")), frame(make_event(1, "FAILED", "failed"))]
    )

    assert run("watch", "t1").exit_code == 5


def test_watch_json_is_a_document_per_line(run, stub):
    stub.tasks["t1"] = make_task(state="done", version=2)
    stub.streams.append([snapshot(make_task()), frame(make_event(2, "DONE", "done"))])

    lines = [json.loads(line) for line in run("watch", "t1", "--json").stdout.splitlines()]

    assert lines[0]["task"]["task_id"] == "t1"
    assert lines[1]["event"]["sequence"] == 2


def test_watch_from_now_asks_for_no_history(run, stub):
    stub.tasks["t1"] = make_task(state="done")
    stub.streams.append([snapshot(make_task(state="done"))])

    run("watch", "t1", "--from-now", "--progress")

    assert not stub.requests[0].HasField("after_sequence")
    assert stub.requests[0].include_progress


def test_cancel_says_whether_a_worker_still_holds_it(run, stub):
    stub.tasks["t1"] = make_task()

    result = run("cancel", "t1", "--reason", "twice")

    assert (result.exit_code, result.stdout) == (0, "cancelled\n")
    assert stub.requests[0].reason == "twice"


def test_stats_are_names_and_numbers(run, stub):
    stub.stats.workers["worker-0"].processed = 5
    stub.stats.states["human_review"].depth = 2

    plain = run("stats").stdout.splitlines()
    as_json = json.loads(run("stats", "--json").stdout)

    assert "worker.worker-0.processed\t5" in plain
    assert "state.human_review.depth\t2" in plain
    assert as_json["workers"]["worker-0"]["processed"] == 5


def test_nobody_listening_is_exit_4_with_what_to_do(run):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"

    result = run("stats", "--address", address)

    assert result.exit_code == 4
    assert result.stderr == (
        f"error: nobody listens at {address}: start it with `stepstream start`, "
        "or say where it is with --address\n"
    )


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (errors.StoreUnavailable("redis does not answer"), 4),
        (errors.TaskFinished("t1 is done"), 1),
        (errors.InternalError("incident 1f"), 1),
        (BareStatus(code=grpc.StatusCode.DEADLINE_EXCEEDED), 6),
    ],
)
def test_each_kind_of_error_has_its_exit_status(run, stub, refusal, code):
    stub.refusals.extend([refusal] * 20)

    result = run("cancel", "t1")

    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_bad_setting_is_exit_2(run, monkeypatch):
    monkeypatch.setenv("STEPSTREAM_ADDRESS", "nonsense")

    result = run("stats")

    assert result.exit_code == 2
    assert result.stderr.startswith("error: STEPSTREAM_ADDRESS: 'nonsense' is not host:port")
