"""The page on pipelines shows the pipeline that is shipped."""

import re

from stepstream_dispatcher.core.pipeline_file import load
from stepstream_dispatcher.pipelines import read_pipelines
from tests.support.tree import ROOT


def test_example_is_the_shipped_pipeline():
    page = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")

    (example,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)

    assert load("pipelines.md", example) == read_pipelines()
