"""The shipped pipelines, and the files beside them."""

from pathlib import Path

import pytest

from stepstream_dispatcher.core.pipeline import Pipeline, PipelineError
from stepstream_dispatcher.pipelines import read_pipelines

OWN = """\
[pipeline.{name}]
[[pipeline.{name}.step]]
name = "work"
state = "working"
on = {{ completed = "done" }}
"""


def by_name(pipelines: list[Pipeline]) -> dict[str, Pipeline]:
    return {each.name: each for each in pipelines}


def test_translation_is_shipped():
    pipeline = by_name(read_pipelines())["translation"]

    assert [step.state for step in pipeline.steps.values()] == [
        "translating",
        "llm_verification",
        "human_review",
    ]
    assert pipeline.queues == {"default"}
    assert pipeline.step("verify").on == {"passed": "done", "rejected": "review"}
    assert pipeline.step("review").max_revisions == 3
    assert pipeline.result == ("review", "translate")


def test_own_file_is_added(tmp_path: Path):
    (tmp_path / "own.toml").write_text(OWN.format(name="own"))

    pipelines = read_pipelines([tmp_path / "own.toml"])

    assert set(by_name(pipelines)) == {"translation", "own"}


def test_own_file_may_replace_the_shipped_one(tmp_path: Path):
    (tmp_path / "own.toml").write_text(OWN.format(name="translation"))

    pipeline = by_name(read_pipelines([tmp_path / "own.toml"]))["translation"]

    assert list(pipeline.steps) == ["work"]


def test_two_files_may_not_define_the_same_one(tmp_path: Path):
    paths = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for path in paths:
        path.write_text(OWN.format(name="own"))

    with pytest.raises(PipelineError, match=r"b\.toml:1: a second pipeline named 'own'"):
        read_pipelines(paths)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes | None):
    path = tmp_path / "own.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(PipelineError, match=r"own\.toml:1: cannot be read"):
        read_pipelines([path])
