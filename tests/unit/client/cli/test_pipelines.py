"""`stepstream pipelines` and `pipelines check`."""

import json
from pathlib import Path

import pytest

from stepstream.v1 import operator_service_pb2 as pb2
from tests.support.tree import ROOT

GOOD = ROOT / "tests" / "integration" / "pipelines.toml"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.toml"
    path.write_text('[[x]]\nname = "a"\n', encoding="utf-8")
    return path


def test_pipelines_are_a_line_per_step(run, stub):
    steps = [
        pb2.PipelineStep(name="a", state="s", kind="worker", queue="q", on={"completed": "b"}),
        pb2.PipelineStep(name="b", state="t", kind="human", on={"approved": "done"}),
    ]
    stub.pipelines = [pb2.Pipeline(name="p", version="1f", steps=steps)]

    lines = [line.split("\t") for line in run("pipelines").stdout.splitlines()]

    assert lines == [
        ["p", "1f", "a", "worker", "q", "completed → b"],
        ["p", "1f", "b", "human", "", "approved → done"],
    ]
    assert json.loads(run("pipelines", "--json").stdout)[0]["steps"][1]["kind"] == "human"


def test_right_files_are_exit_0(run, stub):
    result = run("pipelines", "check", str(GOOD))

    assert result.exit_code == 0, result.stderr
    assert f"{GOOD}: chain (" in result.stdout
    assert "first → second → third" in result.stdout
    assert stub.requests == []


def test_each_wrong_file_is_named_with_its_line(run, broken):
    result = run("pipelines", "check", str(broken), str(GOOD), "/nonexistent.toml")

    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first == f"error: {broken}:1: unknown key 'x'"
    assert second.startswith("error: /nonexistent.toml:1: cannot be read")
    assert "chain" in result.stdout


def test_two_files_may_not_define_the_same_pipeline(run, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(GOOD.read_text(encoding="utf-8"), encoding="utf-8")

    result = run("pipelines", "check", str(GOOD), str(other), "--json")

    assert result.exit_code == 2
    assert "a second pipeline named 'single'" in json.loads(result.stdout)["errors"][0]


def test_a_file_may_look_like_an_option(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("--config").write_text(GOOD.read_text(encoding="utf-8"), encoding="utf-8")

    assert run("pipelines", "check", "--", "--config").exit_code == 0
