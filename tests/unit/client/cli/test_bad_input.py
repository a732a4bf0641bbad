"""Hostile values of each argument and option: exit 2 and one line, or taken as text."""

import itertools

import grpc
import pytest
from typer.testing import Result

from stepstream.cli.exits import Exit
from tests.support.command_tree import commands, names_of
from tests.unit.client.dispatcher_stub import BareStatus, make_task
from tests.unit.client.operator_stub import make_worker

REFUSED = {
    "integer": ["", " ", "-1", "1.5", "NaN", "inf", "true", "9" * 30, "0x10", "1e3", "1 2", "--"],
    "duration": ["", " ", "-1", "soon", "NaN", "inf", "1e9", "5 s", "9" * 30, "1y", "1h30m"],
    "address": ["", "x", "h:", ":1", "h:0", "h:65536", "h:-1", "http://h:1", "a:1,,b:2", "h:1;x"],
    "label": ["", "x", "=x", "="],
    "name": ["", " ", "a b", "x" * 65, "../x", "名", "a\n", "\x1b[31m"],
    "json": ["", "{", "[]", "null", "1", "NaN", '{"a": NaN}', '{"a": 1e999}', '{"a":' * 5000],
    "file": ["", "/nonexistent", "/", "a\udcffb"],
    "directory": [__file__, f"{__file__}/below", "/dev/null"],
    "target": ["", "..", "a b", "no_such_module", "nothing.py", "os:nothing", "os:path", "\x1b"],
}
TEXTS = [
    "",
    " ",
    "x" * 70_000,
    "\x1b[31mred",
    "\u202eturned",
    "e\u0301" * 1000,
    "a\udcffb",
    "../../x",
    "*?[",
    "{tag}",
    "'\";--",
    "%00",
    "${jndi:x}",
    "null",
    "a\r\nb",
    "😀",
]
KINDS = {
    "--address": "address",
    "--after": "integer",
    "--data-dir": "directory",
    "--deadline": "duration",
    "--delay": "duration",
    "--edit": "file",
    "--edit-text": "text",
    "--file": "file",
    "--from": "text",
    "--input": "file",
    "--input-json": "json",
    "--label": "label",
    "--limit": "integer",
    "--name": "name",
    "--pipeline": "text",
    "--queue": "name",
    "--reason": "text",
    "--reject": "text",
    "--request-id": "text",
    "--reviewer": "text",
    "--slots": "integer",
    "--state": "text",
    "--timeout": "duration",
    "--to": "text",
    "FILE...": "file",
    "NAME": "text",
    "QUEUE": "text",
    "TASK_ID": "text",
    "[MODULE:APP]": "target",
    "[TASK_ID...]": "text",
    "[TASK_ID]": "text",
    "[TEXT]": "text",
}
# What makes a command whole, to add one hostile value to.
WHOLE = {
    "submit": ["--pipeline", "p"],
    "get": ["t1"],
    "watch": ["t1"],
    "review": ["t1"],
    "cancel": ["t1"],
    "explain": ["t1"],
    "drain": ["worker-0"],
    "pause": ["default"],
    "resume": ["default"],
    "redrive": ["t1"],
}
INSTEAD = {  # where an option makes another command line whole
    ("watch", "--label"): [],
    ("watch", "--pipeline"): [],
    ("watch", "--state"): [],
    ("worker", "--slots"): ["nothing.py"],
    ("worker", "--address"): ["nothing.py"],
    ("worker", "--name"): ["nothing.py"],
    ("worker", "--queue"): ["nothing.py"],
}
PARAMETERS = [
    (command, names_of(parameter)[0], parameter)
    for command, found in commands().items()
    for parameter in found.params
    if not getattr(parameter, "is_flag", False)
]


def words_of(command: str, name: str, value: str) -> list[str]:
    """A command line with the value in its place; nothing in it can be taken for an option."""
    if not name.startswith("-"):
        return [*command.split(), "--", value]
    whole = INSTEAD.get((command, name), WHOLE.get(command, []))
    return [*command.split(), *whole, f"{name}={value}"]


def parameters(*, text: bool) -> list[tuple[str, str]]:
    return [(command, name) for command, name, _ in PARAMETERS if (KINDS[name] == "text") is text]


def is_refused(result: Result) -> bool:
    """Whether a command ended with exit 2 and one line, before it did anything."""
    one_line = result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.exit_code == Exit.USAGE and not result.stdout and one_line


def is_orderly(result: Result) -> bool:
    """Whether a command ended with a status of ours, and with one line at most."""
    ended = isinstance(result.exception, SystemExit | None) and result.exit_code in set(Exit)
    return ended and result.stderr.count("\n") <= 1


@pytest.fixture(autouse=True)
def tasks(stub):
    stub.tasks["t1"] = make_task(state="done", version=1)
    stub.workers[0] = [make_worker()]
    refused = BareStatus(code=grpc.StatusCode.INVALID_ARGUMENT, details="the end of the test")
    stub.streams.extend([[refused]] * 50)
    stub.changes.extend([[refused]] * 50)


def test_each_parameter_has_a_kind():
    """A new one says here what it must refuse."""
    assert {name for _, name, _ in PARAMETERS} == set(KINDS)


@pytest.mark.parametrize(("command", "name"), parameters(text=False))
def test_each_hostile_value_is_exit_2_and_one_line(run, stub, command, name):
    results = {value: run(*words_of(command, name, value)) for value in REFUSED[KINDS[name]]}

    assert {value: one.output for value, one in results.items() if not is_refused(one)} == {}
    assert stub.requests == []


@pytest.mark.parametrize(("command", "name"), parameters(text=True))
def test_no_hostile_text_ends_in_a_traceback(run, stub, command, name):
    results = {value: run(*words_of(command, name, value), text="") for value in TEXTS}

    assert {value: one.output for value, one in results.items() if not is_orderly(one)} == {}


@pytest.mark.parametrize("command", commands())
def test_an_unknown_option_is_exit_2_and_one_line(run, command):
    result = run(*command.split(), "--no-such-option")

    assert is_refused(result)
    assert f"stepstream {command} --help" in " ".join(result.stderr.split())


@pytest.mark.parametrize("words", [("nonsense",), ("pipelines", "nonsense"), ("get",), ("drain",)])
def test_what_is_missing_or_unknown_is_exit_2_and_one_line(run, words):
    result = run(*words)

    assert result.exit_code == Exit.USAGE
    assert result.stderr.count("\n") == 1


def test_no_word_at_all_is_help(run):
    result = run()

    assert result.exit_code == Exit.USAGE
    assert "doctor" in result.stdout


@pytest.mark.parametrize("command", commands())
def test_each_command_explains_itself(run, command):
    result = run(*command.split(), "--help")

    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_there_is_something_to_refuse():
    counts = {kind: len(list(group)) for kind, group in itertools.groupby(sorted(KINDS.values()))}

    assert set(counts) == {*REFUSED, "text"}
