"""What `stepstream worker MODULE:APP` runs."""

import sys

import pytest

from stepstream import Worker
from stepstream.cli.exits import CommandError, Exit
from stepstream.cli.processes import load_worker

_STEPS = """
from stepstream import step

@step("one")
def one(ctx):
    return None

@step("two")
async def two(ctx):
    return None

some = [one]
number = 7
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with own_steps.py, current, and not on the import path."""
    (tmp_path / "own_steps.py").write_text(_STEPS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_steps", None)


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("own_steps.py", {"one", "two"}),
        ("own_steps", {"one", "two"}),
        ("own_steps:some", {"one"}),
        ("own_steps.py:some", {"one"}),
    ],
)
def test_a_file_is_searched_for_steps(here, target, steps):
    worker = load_worker(target, name="w", slots=2, address="127.0.0.1:1")

    assert isinstance(worker, Worker)
    assert set(worker._steps) == steps
    assert (worker._name, worker._slots) == ("w", 2)


def test_a_ready_made_worker_is_taken_as_it_is(here):
    text = f"{_STEPS}\nfrom stepstream import Worker\napp = Worker(steps=[one], name='mine')\n"
    (here / "own_steps.py").write_text(text, encoding="utf-8")

    assert load_worker("own_steps:app")._name == "mine"
    assert load_worker("own_steps.py")._name == "mine"
    with pytest.raises(CommandError, match="is a Worker: set slots there"):
        load_worker("own_steps:app", slots=2)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "no module and no file nowhere.py"),
        ("nowhere.deep:app", "no module and no file nowhere/deep.py"),
        ("own_steps:missing", "has no 'missing'"),
        ("own_steps:number", "own_steps:number: "),
        ("json", "json: a worker needs at least one step"),
    ],
)
def test_what_is_no_worker_is_a_usage_error(here, target, message):
    with pytest.raises(CommandError, match=message) as caught:
        load_worker(target)

    assert caught.value.code == Exit.USAGE


def test_the_command_says_it_in_one_line(run, here):
    result = run("worker", "nowhere")

    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
