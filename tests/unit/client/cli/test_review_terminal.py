"""`stepstream review` on a terminal: it asks for the decision."""

from collections.abc import Iterator

import pytest

from stepstream._convert import payload_to_value, value_to_payload
from stepstream.v1 import dispatcher_service_pb2 as pb2
from tests.support.terminal import LIMIT_S, Terminal
from tests.unit.client.dispatcher_stub import make_task, serving


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

    assert terminal.process.wait(LIMIT_S) == 0
    assert "软件" in terminal.shown
    assert "軟體" in terminal.shown
    assert (_decision(stub).decision, _decision(stub).version) == (pb2.REVIEW_DECISION_APPROVED, 5)


def test_edit_opens_the_editor(terminal, stub):
    terminal.until("[q]uit")
    terminal.type("e")
    terminal.until("edited by ana")

    assert terminal.process.wait(LIMIT_S) == 0
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

    assert terminal.process.wait(LIMIT_S) == 0
    assert not any(isinstance(request, pb2.DecideReviewRequest) for request in stub.requests)
