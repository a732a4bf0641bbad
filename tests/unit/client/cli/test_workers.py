"""`stepstream workers`, `drain`, `pause` and `resume`."""

import json

import pytest

from tests.unit.client.operator_stub import make_worker


def test_workers_in_a_pipe_are_a_line_each(run, stub):
    stub.workers[0] = [
        make_worker(in_flight=2, processed=5),
        make_worker("w1", draining=True),
        make_worker("w2", dispatcher_id=""),
    ]

    lines = [line.split("\t") for line in run("workers").stdout.splitlines()]

    assert [line[:4] for line in lines] == [
        ["worker-0", "connected", "2", "3"],
        ["w1", "draining", "0", "3"],
        ["w2", "gone", "0", "3"],
    ]
    assert lines[0][6:8] == ["default", "translate,verify"]


def test_workers_json_is_a_list(run, stub):
    stub.workers[0] = [make_worker()]

    assert json.loads(run("workers", "--json").stdout)[0]["step_types"] == ["translate", "verify"]


@pytest.mark.parametrize("columns", [80, 120])
def test_workers_on_a_terminal_are_a_table_that_fits(on_terminal, stub, columns):
    stub.workers[0] = [make_worker(in_flight=2)]

    terminal = on_terminal("workers", columns=columns)

    assert terminal.end() == 0
    assert "2/3" in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= columns


def test_no_worker_says_how_to_start_one(on_terminal):
    terminal = on_terminal("workers")

    assert terminal.end() == 0
    assert "stepstream worker" in terminal.text


def test_drain_returns_at_once(run, stub):
    stub.workers[0] = [make_worker()]

    result = run("drain", "worker-0")

    assert (result.exit_code, result.stdout) == (0, "worker-0 drains\n")


def test_drain_waits_until_the_process_has_left(run, stub):
    """A successor of the same name is another process."""
    stub.workers.clear()
    stub.workers.extend(
        [
            [make_worker()],
            [make_worker(in_flight=1, draining=True)],
            [make_worker(instance_id="the next")],
        ]
    )

    result = run("drain", "worker-0", "--wait", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"worker": "worker-0", "left": True}
    assert len(stub.workers) == 1


def test_drain_that_takes_too_long_is_exit_6(run, stub):
    stub.workers[0] = [make_worker(in_flight=2)]

    result = run("drain", "worker-0", "--wait", "--timeout", "10ms")

    assert result.exit_code == 6
    assert result.stderr == "error: worker-0 still runs 2 after 0.01 s\n"


def test_drain_shows_what_still_runs_and_goes_on_after_ctrl_c(on_terminal, stub):
    stub.workers[0] = [make_worker(in_flight=2, draining=True)]

    terminal = on_terminal("drain", "worker-0", "--wait")
    terminal.until("worker-0 still runs 2 of 3")
    terminal.interrupt()

    assert terminal.end() == 130
    assert "worker-0 drains on" in terminal.text


@pytest.mark.parametrize("words", [("drain", "x"), ("pause", "x"), ("resume", "x")])
def test_an_unknown_name_is_exit_3(run, words):
    result = run(*words)

    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1


def test_pause_says_how_to_go_on(run, stub):
    result = run("pause", "default")

    assert result.exit_code == 0
    assert "resume default" in result.stdout
    assert stub.requests[0].queue == "default"


def test_resume_and_json(run):
    assert run("resume", "default").stdout == "resumed default\n"
    assert json.loads(run("pause", "default", "--json").stdout) == {
        "queue": "default",
        "paused": True,
    }
