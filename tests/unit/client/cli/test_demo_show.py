"""When the demo counts as good, and the commands that it prints."""

import sys

import pytest

from stepstream._convert import task_from_message
from stepstream.cli.demo import telling_lines
from stepstream.cli.demo_show import judge
from stepstream.cli.program import command_line, program
from tests.unit.client.dispatcher_stub import make_task

_PHASES = {"done": "PHASE_SUCCEEDED", "human_review": "PHASE_WAITING_FOR_REVIEW"}


def _tasks(**counts: int) -> list[object]:
    return [
        task_from_message(make_task(state=state, phase=_PHASES.get(state, "PHASE_FAILED")))
        for state, count in counts.items()
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("counts", "good"),
    [
        ({"done": 5, "human_review": 1}, True),
        ({"done": 8, "human_review": 1}, True),
        ({"done": 9}, False),
        ({"done": 4, "human_review": 1}, False),
        ({"done": 3, "human_review": 6}, False),
        ({"done": 4, "human_review": 1, "failed": 4}, False),
    ],
)
def test_the_demo_is_good_when_most_are_done_and_one_waits(counts, good):
    assert judge(_tasks(**counts)).good is good


def test_the_outcome_counts_what_went_otherwise():
    assert judge(_tasks(done=5, human_review=1, failed=2)).words == (
        "5 done, 1 waiting for a person, 2 otherwise"
    )


@pytest.fixture
def own_program(tmp_path, monkeypatch):
    """A program in .venv/bin below the current directory."""
    path = tmp_path / ".venv/bin/stepstream"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_program_off_the_path_is_named_by_its_relative_path(own_program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(own_program)])

    assert command_line("review", "t 1") == ".venv/bin/stepstream review 't 1'"


def test_a_program_on_the_path_is_named_by_its_name(own_program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(own_program)])
    monkeypatch.setenv("PATH", str(own_program.parent))

    assert program() == "stepstream"


def test_a_module_run_names_its_interpreter(own_program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(own_program.parent / "cli/__main__.py")])
    monkeypatch.setattr(sys, "executable", str(own_program.parent / "python"))

    assert program() == ".venv/bin/python -m stepstream.cli"


def test_a_failed_demo_shows_the_last_words_of_what_died_first():
    log = [
        "dispatcher   | serving",
        "worker-0     | RuntimeError: broken",
        "dispatcher   | metrics",
        "supervisor   | worker-0 ended with 1; starting it again in 0.2 s",
        *["dispatcher   | metrics"] * 9,
    ]

    assert telling_lines(log) == [log[1], log[3]]


def test_a_failed_demo_in_which_nothing_died_shows_the_end_of_the_log():
    log = [f"dispatcher   | {number}" for number in range(9)]

    assert telling_lines(log) == log[-5:]
