"""`stepstream review` on a terminal: it asks for the decision."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from stepstream._convert import payload_to_value, value_to_payload
from stepstream.settings import child_environment
from stepstream.v1 import dispatcher_service_pb2 as pb2
from tests.unit.client.dispatcher_stub import make_task, serving

_LIMIT_S = 20.0


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, *words: str, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stepstream.cli", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=child_environment(environment),
        )
        os.close(slave)
        self.shown = ""

    def until(self, words: str) -> None:
        """Reads on until the words are shown."""
        give_up_mono = time.monotonic() + _LIMIT_S
        while words not in self.shown:
            assert time.monotonic() < give_up_mono, self.shown
            if select.select([self._master], [], [], 0.1)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")

    def type(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(stub, tmp_path) -> Iterator[Terminal]:
    task = make_task(state="human_review", phase="PHASE_WAITING_FOR_REVIEW", version=5)
    task.input.CopyFrom(value_to_payload({"text": "软件"}))
    task.outputs["translate"].CopyFrom(value_to_payload({"text": "軟體\n"}))
    stub.tasks["t1"] = task
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf better > $1\n", encoding="utf-8")
    editor.chmod(0o755)
    with serving(stub) as address:
        environment = {"STEPSTREAM_ADDRESS": address, "VISUAL": str(editor), "COLUMNS": "100"}
        opened = Terminal("review", "t1", "--reviewer", "ana", environment=environment)
        yield opened
        opened.close()


def _decision(stub) -> pb2.DecideReviewRequest:
    return stub.requests[-1]


def test_it_shows_both_texts_and_takes_an_approval(terminal, stub):
    terminal.until("[q]uit")
    terminal.type("a")
    terminal.until("approved by ana: the task is now done")

    assert terminal.process.wait(_LIMIT_S) == 0
    assert "软件" in terminal.shown
    assert "軟體" in terminal.shown
    assert (_decision(stub).decision, _decision(stub).version) == (pb2.REVIEW_DECISION_APPROVED, 5)


def test_edit_opens_the_editor(terminal, stub):
    terminal.until("[q]uit")
    terminal.type("e")
    terminal.until("edited by ana")

    assert terminal.process.wait(_LIMIT_S) == 0
    assert payload_to_value(_decision(stub).output) == {"text": "better"}


def test_reject_asks_for_words(terminal, stub):
    terminal.until("[q]uit")
    terminal.type("r")
    terminal.until("done better")
    terminal.type("keep the dates")
    terminal.until("rejected by ana")

    assert _decision(stub).feedback == "keep the dates"


def test_enter_leaves_the_task_as_it_is(terminal, stub):
    terminal.until("[q]uit")
    terminal.type("")

    assert terminal.process.wait(_LIMIT_S) == 0
    assert not any(isinstance(request, pb2.DecideReviewRequest) for request in stub.requests)
