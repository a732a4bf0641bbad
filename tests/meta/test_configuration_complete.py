"""The page on configuration says what the code says."""

import re
from pathlib import Path

import pytest

from stepstream_dispatcher.settings import Settings, environment_name, expected_value
from tests.support.tree import ROOT

ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .+ \|$", re.MULTILINE)
ROWS = {
    name: (default, takes)
    for name, default, takes in ROW.findall(
        (ROOT / "docs/configuration.md")
        .read_text(encoding="utf-8")
        .partition("\n## The shipped worker")[0]
    )
}


def test_page_has_a_row_for_each_setting_and_no_other():
    assert list(ROWS) == [environment_name(field) for field in Settings.model_fields]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_row_has_default_and_range(field: str):
    default, takes = ROWS[environment_name(field)]

    assert takes == expected_value(field)
    assert default == shown(Settings.model_fields[field].default)


def shown(default: object) -> str:
    match default:
        case "" | ():
            return "(empty)"
        case bool():
            return f"`{str(default).lower()}`"
        case int() | float():
            return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        case str() | Path():
            return f"`{default}`"
    raise AssertionError(default)
