"""The ten-line worker of README.md, with the pipeline that stands beside it, really works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.cluster import running_cluster
from tests.support.tree import ROOT

pytestmark = [pytest.mark.parallel]

LINES_MAX = 10
FILE = re.compile(r"^A \w+, `(words\.\w+)`.*?^```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The files that the README shows, as a reader saves them."""
    found = dict(FILE.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    for name, text in found.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return {name: tmp_path / name for name in found}


def test_the_readme_shows_a_pipeline_and_a_worker_of_ten_lines(files: dict[str, Path]):
    assert sorted(files) == ["words.py", "words.toml"]
    assert len(files["words.py"].read_text(encoding="utf-8").splitlines()) <= LINES_MAX


async def test_the_worker_of_the_readme_counts_words(files: dict[str, Path], tmp_path: Path):
    pipelines = {"STEPSTREAM_PIPELINES": str(files["words.toml"])}
    async with running_cluster(tmp_path / "run", workers=0, **pipelines) as cluster:
        await cluster.start_worker(argv=(sys.executable, str(files["words.py"])))
        submitted = await cluster.client().submit("words", "one two three")

        (task,) = await cluster.finished([submitted.task_id])

        assert (task.state, task.result) == ("done", {"words": 3})
