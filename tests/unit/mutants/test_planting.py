"""A bug is in the process that asked for it, or the process says that it is not."""

import os
import subprocess
import sys

import pytest

from tests.mutants.launch import UNPLANTED, launched
from tests.mutants.planting import VARIABLE, Bug, Edit, PlantingError, edited, plant
from tests.mutants.seeds import BUGS, bug_of
from tests.support.tree import ROOT

RUN = (sys.executable, "-m", "stepstream_dispatcher", "--version")
PLANT_AND_IMPORT = """
import importlib, sys
from tests.mutants.planting import plant
from tests.mutants.seeds import bug_of
bug = bug_of(sys.argv[1])
plant(bug)
for edit in bug.edits:
    if not edit.where.endswith(".lua"):
        loader = importlib.import_module(edit.where).__spec__.loader
        assert type(loader).__module__ == "tests.mutants.planting", edit
from stepstream_dispatcher.store.redis_scripts import FORGET, SETTLE, SUBMIT
scripts = {"commit.lua": [SUBMIT, SETTLE], "forget.lua": [FORGET]}
for edit in bug.edits:
    for script in scripts.get(edit.where, []):
        assert edit.old not in script.source, edit
        assert not edit.new or edit.new in script.source, edit
"""


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )


def bug(where: str, old: str, times: int = 1) -> Bug:
    edit = Edit(where=where, old=old, new="", times=times)
    return Bug(name="test", number="", breaks="", edits=(edit,), tests=())


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_of_the_table_fits_the_source(bug: Bug):
    texts = edited(bug)

    for where, text in texts.items():
        if not where.endswith(".lua"):
            compile(text, where, "exec")


@pytest.mark.parametrize(
    "name",
    ["no-token-compare", "consumer-deleted-with-its-entries", "result-forgotten-when-sent"],
)
def test_a_planted_bug_is_what_is_imported(name: str):
    done = run(sys.executable, "-c", PLANT_AND_IMPORT, name)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("where", "old", "times"),
    [
        ("stepstream_dispatcher.inspection", "no such piece", 1),
        ("stepstream_dispatcher.inspection", "import", 1),
        ("stepstream_dispatcher.nowhere", "import", 1),
    ],
)
def test_a_piece_that_is_not_there_as_often_as_said_is_refused(where: str, old: str, times: int):
    before = list(sys.meta_path)

    with pytest.raises(PlantingError):
        plant(bug(where, old, times))

    assert sys.meta_path == before


def test_a_module_that_is_imported_already_is_refused():
    with pytest.raises(PlantingError, match="imported before"):
        plant(bug("stepstream.errors", "class StaleLease"))


def test_an_unknown_bug_names_those_that_there_are():
    with pytest.raises(LookupError, match="no-token-compare"):
        bug_of("no such bug")


def test_a_process_starts_as_it_is_without_a_bug(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)

    assert launched(RUN) == list(RUN)


def test_a_process_of_python_starts_with_the_bug_and_others_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(VARIABLE, "no-token-compare")

    assert launched(RUN) == [
        *RUN[:2],
        "tests.mutants.launch",
        "no-token-compare",
        *RUN[2:],
    ]
    assert launched(["valkey-server", "-m"]) == ["valkey-server", "-m"]


def test_a_launched_program_gets_its_arguments():
    module = ("stepstream_dispatcher", "--version")

    done = run(sys.executable, "-m", "tests.mutants.launch", "no-token-compare", *module)

    assert (done.returncode, done.stdout) == (run(*RUN).returncode, run(*RUN).stdout)


def test_a_program_whose_bug_cannot_be_planted_does_not_start():
    done = run(sys.executable, "-m", "tests.mutants.launch", "no such bug", "stepstream_dispatcher")

    assert done.returncode == UNPLANTED
    assert "is not planted: no bug no such bug" in done.stderr


def test_names_are_unique_and_each_listed_bug_is_there():
    numbers = {bug.number for bug in BUGS}

    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert numbers >= {str(number) for number in range(1, 17)}
