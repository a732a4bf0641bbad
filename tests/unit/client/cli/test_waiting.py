"""Where a person waits: progress in passing on a terminal, plain lines elsewhere."""

import pytest

from stepstream._convert import value_to_payload
from stepstream.cli.exits import Exit
from stepstream.cli.waiting import worst
from tests.unit.client.cli.test_watch import task
from tests.unit.client.dispatcher_stub import make_task

_SUBMIT = ("submit", "--pipeline", "p", "--input-json", "{}", "--wait")


@pytest.fixture
def slow(stub):
    """A task that a worker works on for as long as it is asked for."""
    stub.tasks["t1"] = make_task(
        state="translating",
        phase="PHASE_RUNNING",
        step="translate",
        worker="worker-0",
        progress=0.4,
        progress_note="page 2",
    )
    stub.wait_timeouts = 10_000
    return stub


def test_a_terminal_shows_where_the_task_is(on_terminal, slow):
    terminal = on_terminal(*_SUBMIT)
    terminal.until("translating: translate at worker-0 40% page 2")
    slow.tasks["t1"].state = "done"
    slow.tasks["t1"].result.CopyFrom(value_to_payload("the result"))
    slow.wait_timeouts = 0

    assert terminal.end() == 0
    assert terminal.text.rstrip().endswith("the result")


def test_ctrl_c_says_that_the_task_goes_on(on_terminal, slow):
    terminal = on_terminal(*_SUBMIT)
    terminal.until("translate at worker-0")
    terminal.interrupt()

    assert terminal.end() == 130
    assert "the task goes on; look again: " in terminal.text
    assert "watch t1" in terminal.text


def test_the_time_runs_out_on_a_terminal_too(on_terminal, slow):
    terminal = on_terminal(*_SUBMIT, "--timeout", "600ms")

    assert terminal.end() == 6
    assert "task t1 is translating after 0.6 s" in terminal.text


def test_without_a_terminal_there_is_only_the_result(run, stub):
    stub.tasks["t1"] = make_task(state="done", result=value_to_payload("the result"))

    result = run(*_SUBMIT)

    assert (result.stdout, result.stderr) == ("the result\n", "")


def test_no_color_is_honoured(on_terminal, slow):
    terminal = on_terminal("list", NO_COLOR="1")

    assert terminal.end() == 0
    assert "translating" in terminal.text
    assert "\x1b[3" not in terminal.shown


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((), Exit.OK),
        (("done",), Exit.OK),
        (("done", "failed"), Exit.TASK_FAILED),
        (("done", "human_review"), Exit.REVIEW),
        (("human_review", "cancelled"), Exit.TASK_FAILED),
    ],
)
def test_the_gravest_end_is_the_status(states, code):
    phases = {"human_review": "PHASE_WAITING_FOR_REVIEW"}
    tasks = [task("t", state=one, phase=phases.get(one, "PHASE_QUEUED")) for one in states]

    assert worst(tasks) is code
