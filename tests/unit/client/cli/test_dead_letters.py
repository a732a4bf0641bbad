"""`stepstream dead-letters` and `redrive`."""

import json

import pytest

from stepstream._convert import payload_to_value, value_to_payload
from stepstream.cli.dead_letters import new_input
from stepstream.v1 import task_pb2
from tests.unit.client.dispatcher_stub import make_task


@pytest.fixture
def failed(stub):
    """Three tasks that have failed, and one that has not."""
    for number in range(3):
        error = task_pb2.AttemptError(
            step="translate", attempt=4, code="HANDLER_ERROR", message=f"no {number}\ntrace"
        )
        stub.tasks[f"t{number}"] = make_task(
            f"t{number}",
            "failed",
            step="translate",
            attempt=4,
            errors=[error],
            input=value_to_payload({"text": "old", "n": 1}),
        )
    stub.tasks["alive"] = make_task("alive")
    return stub


def test_dead_letters_in_a_pipe_have_the_last_error(run, failed):
    lines = [line.split("\t") for line in run("dead-letters").stdout.splitlines()]

    assert [line[0] for line in lines] == ["t0", "t1", "t2"]
    assert lines[0][1:5] == ["translation", "translate", "4", "HANDLER_ERROR"]
    assert lines[0][6] == "no 0"


def test_dead_letters_are_limited(run, failed):
    assert len(json.loads(run("dead-letters", "-n", "2", "--json").stdout)) == 2


@pytest.mark.parametrize("columns", [80, 120])
def test_dead_letters_on_a_terminal_fit_and_say_what_to_do(on_terminal, failed, columns):
    terminal = on_terminal("dead-letters", columns=columns)

    assert terminal.end() == 0
    assert "HANDLER_ERROR" in terminal.text
    assert "redrive TASK_ID" in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= columns


def test_none_is_said(on_terminal):
    terminal = on_terminal("dead-letters")

    assert terminal.end() == 0
    assert "no task has failed for good" in terminal.text


def test_redrive_of_one(run, failed):
    result = run("redrive", "t0")

    assert (result.exit_code, result.stdout) == (0, "t0\tREDRIVEN\n")


def test_a_task_named_twice_is_redriven_once(run, failed):
    assert run("redrive", "t0", "t0").exit_code == 0


def test_redrive_waits_for_the_end(run, failed):
    result = run("redrive", "t0", "t1", "--wait")

    assert (result.exit_code, result.stdout) == (0, "t0\tdone\nt1\tdone\n")


@pytest.mark.parametrize(
    ("ids", "code", "reason"),
    [
        (("nope",), 3, "TASK_NOT_FOUND"),
        (("alive",), 1, "TASK_NOT_FAILED"),
        (("t0", "nope", "alive"), 1, "TASK_NOT_FOUND"),
    ],
)
def test_what_cannot_be_redriven_is_said_task_by_task(run, failed, ids, code, reason):
    result = run("redrive", *ids)

    assert result.exit_code == code
    assert reason in result.stderr


def test_all_needs_yes_where_nobody_can_be_asked(run, failed):
    refused = run("redrive", "--all")
    done = run("redrive", "--all", "--yes")

    assert (refused.exit_code, refused.stderr) == (
        2,
        "error: --all needs --yes where nobody can be asked\n",
    )
    assert done.exit_code == 0
    assert [failed.tasks[f"t{number}"].state for number in range(3)] == ["done"] * 3


def test_all_of_none_is_no_failure(run):
    result = run("redrive", "--all")

    assert (result.exit_code, result.stdout) == (0, "no task has failed for good\n")


@pytest.mark.parametrize(("answer", "code", "state"), [("y", 0, "done"), ("n", 1, "failed")])
def test_all_asks_on_a_terminal(on_terminal, failed, answer, code, state):
    terminal = on_terminal("redrive", "--all")
    terminal.until("start 3 failed tasks anew?")
    terminal.type(answer)

    assert terminal.end() == code
    assert failed.tasks["t0"].state == state


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("t0", "--all"),
        ("t0", "t1", "--edit"),
        ("--all", "--input", "x"),
        ("t0", "--edit", "--input", "x"),
        ("t0", "--input", "/nonexistent"),
        ("t0", "--timeout", "soon"),
    ],
)
def test_a_wrong_choice_is_exit_2_before_anything_is_called(run, failed, words):
    result = run("redrive", *words)

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert failed.requests == []


def test_another_input_goes_first(run, failed, tmp_path):
    file = tmp_path / "better.json"
    file.write_text('{"text": "new"}', encoding="utf-8")

    result = run("redrive", "t0", "--input", str(file))

    assert result.exit_code == 0
    assert payload_to_value(failed.tasks["t0"].input) == {"text": "new"}
    assert failed.requests[1].version == 1


def test_the_input_can_be_edited(on_terminal, failed, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i s/old/edited/ $1\n", encoding="utf-8")
    editor.chmod(0o755)

    terminal = on_terminal("redrive", "t0", "--edit", VISUAL=str(editor))

    assert terminal.end() == 0, terminal.text
    assert payload_to_value(failed.tasks["t0"].input) == {"text": "edited", "n": 1}


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ('{"a": 1}', "x", {"a": 1}),
        ("words", {"text": "x", "n": 1}, {"text": "words", "n": 1}),
        ("words", {"n": 1}, "words"),
        ("[1]", "x", "[1]"),
        ("7", None, "7"),
    ],
)
def test_a_text_stands_for_an_input(text, old, new):
    assert new_input(text, old) == new
