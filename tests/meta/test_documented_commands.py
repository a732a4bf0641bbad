"""What the documents tell a reader to type exists: targets, commands, options, calls."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from google.protobuf import descriptor_pool, json_format, message_factory

from stepstream.cli.app import app
from stepstream.v1 import dispatcher_service_pb2, operator_service_pb2, worker_service_pb2
from tests.support.tree import ROOT

SERVED = (dispatcher_service_pb2, operator_service_pb2, worker_service_pb2)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"^([a-z-]+):.*?##", re.MULTILINE)
CALL = re.compile(r"(stepstream\.v1\.\w+)/(\w+)")
OURS = {"stepstream", ".venv/bin/stepstream"}


def lines(path: Path) -> Iterator[list[str]]:
    """The words of each command of a document: comments off, continued lines joined."""
    for block in SHELL.findall(path.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def simple(words: list[str]) -> list[str]:
    """A command up to its first pipe or redirection."""
    ends = [at for at, word in enumerate(words) if word in {"|", "<", ">", "&", "&&"}]
    return words[: min(ends, default=len(words))]


def options(command: str) -> set[str]:
    commands = vars(typer.main.get_command(app))["commands"]
    assert command in commands, f"no command {command!r}"
    return {
        name
        for parameter in commands[command].params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("-")
    } | {"--help", "-h"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_targets_exist(document: Path):
    targets = {*TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8"))}
    named = {
        word
        for words in lines(document)
        if words[0] == "make"
        for word in simple(words)[1:]
        if "=" not in word
    }

    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path):
    for words in lines(document):
        if words[0] not in OURS or len(words) < 2 or words[1].startswith(("-", "COMMAND")):
            continue
        named = {word for word in simple(words)[2:] if word.startswith("-") and word != "-"}
        assert named <= options(words[1]), " ".join(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_calls_name_methods_and_fields_that_exist(document: Path):
    pool = descriptor_pool.Default()
    assert SERVED
    for words in lines(document):
        for service, method in CALL.findall(" ".join(words)):
            found = pool.FindServiceByName(service).methods_by_name[method]
            request = message_factory.GetMessageClass(found.input_type)()
            bodies = [words[at + 1] for at, word in enumerate(words) if word == "-d"]
            for body in bodies:
                json_format.ParseDict(json.loads(body), request)
