"""docs/configuration.md says of the shipped worker what its settings class says."""

import re
from typing import get_args

import msgspec

from stepstream_worker.settings import EngineSettings
from tests.support.tree import ROOT


def test_each_setting_has_its_row_with_default_and_range():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = page.partition("## The shipped worker")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.+?) \|", section, re.MULTILINE)

    assert rows == [
        (
            field.encode_name,
            f"`{field.default:g}`" if isinstance(field.default, float) else "(empty)",
            get_args(field.type)[1].description,
        )
        for field in msgspec.structs.fields(EngineSettings)
    ]
