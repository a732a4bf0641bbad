"""`stepstream watch` without a task id, and what Ctrl-C says."""

import json

import grpc
import pytest

from stepstream._convert import task_from_message
from stepstream.cli.live_tasks import LatestTasks
from tests.unit.client.dispatcher_stub import HOLD, BareStatus, make_event, make_task, snapshot
from tests.unit.client.dispatcher_stub import frame as frame_of


def task(task_id: str, version: int = 1, *, at_s: int = 0, **fields):
    made = make_task(task_id, version=version, **fields)
    made.update_time.FromSeconds(at_s)
    return task_from_message(made)


def test_the_latest_change_is_first_and_the_oldest_leaves():
    latest = LatestTasks(2)

    for one in (task("a", at_s=1), task("c", at_s=3), task("b", at_s=2), task("a", 2, at_s=4)):
        latest.accept(one)

    assert [one.task_id for one in latest.newest_first()] == ["a", "c"]


def test_what_is_older_than_known_changes_nothing():
    latest = LatestTasks(2)
    latest.accept(task("a", 3))

    assert not latest.accept(task("a", 2))
    assert not latest.accept(task("a", 3))
    assert [one.version for one in latest.newest_first()] == [3]


def test_in_a_pipe_each_change_is_a_line(run, stub, unavailable):
    stub.changes.append([make_task("t1"), make_task("t2", "done"), unavailable])

    result = run("watch", "--state", "done", "-s", "pending", "-p", "translation", "-l", "a=b")

    assert [line.split("\t")[1:3] for line in result.stdout.splitlines()] == [
        ["t1", "pending"],
        ["t2", "done"],
    ]
    request = stub.requests[0]
    assert list(request.states) == ["done", "pending"]
    assert (request.pipeline, dict(request.labels)) == ("translation", {"a": "b"})


def test_json_is_a_document_per_change(run, stub, unavailable):
    stub.changes.append([make_task("t1"), unavailable])

    lines = run("watch", "--json").stdout.splitlines()

    assert [json.loads(line)["task"]["task_id"] for line in lines] == ["t1"]


@pytest.fixture
def unavailable() -> BareStatus:
    return BareStatus(code=grpc.StatusCode.INVALID_ARGUMENT, details="the end of the test")


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_it_is_a_table_until_ctrl_c(on_terminal, stub, columns):
    stub.tasks["old"] = make_task("old", "done")
    stub.changes.append([make_task("new", "translating", worker="w-7"), HOLD])

    terminal = on_terminal("watch", columns=columns)
    terminal.until("w-7")
    terminal.interrupt()

    assert terminal.end() == 130
    assert "old" in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= columns


def test_ctrl_c_says_that_the_task_goes_on(on_terminal, stub):
    stub.tasks["t1"] = make_task()
    stub.streams.append([snapshot(make_task()), frame_of(make_event(1, "SUBMITTED")), HOLD])

    terminal = on_terminal("watch", "t1")
    terminal.until("accepted")
    terminal.interrupt()

    assert terminal.end() == 130
    assert "the task goes on" in terminal.text


@pytest.mark.parametrize(
    "words", [("--after", "3"), ("--from-now",), ("t1", "--state", "done"), ("t1", "-l", "a=b")]
)
def test_options_of_one_and_of_all_do_not_mix(run, stub, words):
    result = run("watch", *words)

    assert result.exit_code == 2
    assert stub.requests == []


@pytest.fixture
def at_work(stub):
    """A task that is watched while it is at its second of eight pages, and goes on."""
    running = {"step": "translate", "worker": "w-1", "progress": 0.25, "progress_note": "2 of 8"}
    stub.tasks["t1"] = make_task(state="translating", version=2, **running)
    past = [make_event(1, "SUBMITTED"), make_event(2, "LEASED", step="translate", actor="w-1")]
    stub.streams.append([snapshot(stub.tasks["t1"]), *map(frame_of, past), HOLD])
    return stub


def test_a_terminal_shows_how_far_the_attempt_is_at_once(on_terminal, at_work):
    terminal = on_terminal("watch", "t1")
    terminal.until("translate at w-1\n")
    terminal.interrupt()
    terminal.end()

    assert terminal.passing == "translating: translate at w-1 25% 2 of 8"


def test_the_line_in_passing_follows_the_task_to_its_next_step(on_terminal, at_work):
    news = [
        make_event(0, "PROGRESS", step="translate", progress=0.5, message="4 of 8"),
        make_event(3, "COMPLETED", step="translate", detail="completed"),
        make_event(4, "QUEUED", step="verify"),
    ]
    at_work.streams[0][-1:] = [*map(frame_of, news), HOLD]

    terminal = on_terminal("watch", "t1")
    terminal.until("verify queued")
    terminal.interrupt()
    terminal.end()

    assert terminal.passing == "waiting"


def test_progress_is_shown_where_the_result_goes_into_a_file(on_terminal, at_work, tmp_path):
    """Standard error is what a person looks at then."""
    words = ("submit", "-p", "p", "--input-json", "{}", "--watch", "--wait")

    terminal = on_terminal(*words, stdout=tmp_path / "out.md")
    terminal.until("translate at w-1 25% 2 of 8")

    assert at_work.requests[-1].include_progress
