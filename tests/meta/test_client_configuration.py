"""The page on configuration says what the SDK's settings say."""

import re
from typing import get_args

import msgspec
import pytest

from stepstream.settings import ClientSettings, LocalSettings
from stepstream.worker.settings import WorkerSettings
from tests.support.tree import ROOT

PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| ([^|`]+|`stepstream start`) \| `(\w+)` \| (.+?) \| (.+?) \| .+ \|$", re.MULTILINE
)
READERS = {
    "clients": ClientSettings,
    "workers": WorkerSettings,
    "`stepstream start`": LocalSettings,
}


def rows() -> dict[tuple[str, str], tuple[str, str]]:
    """Default and range as the page has them, by reader and variable."""
    return {
        (reader, name): (default, takes)
        for readers, name, default, takes in ROW.findall(PAGE)
        for reader in readers.split(", ")
    }


SETTINGS = {
    (reader, setting.encode_name): setting
    for reader, kind in READERS.items()
    for setting in msgspec.structs.fields(kind)
}


def test_page_has_a_row_for_each_setting_and_no_other():
    assert set(rows()) == set(SETTINGS)


@pytest.mark.parametrize("place", SETTINGS)
def test_row_has_default_and_range(place: tuple[str, str]):
    setting = SETTINGS[place]

    assert rows()[place] == (shown(setting.default), get_args(setting.type)[1].description)


def shown(default: object) -> str:
    match default:
        case "":
            return "(empty)"
        case bool():
            return f"`{str(default).lower()}`"
        case float():
            return f"`{default:g}`"
    return f"`{default}`"
