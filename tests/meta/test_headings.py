"""Every test of the whole system stands under one of the six headings, and none is empty."""

import re
from collections import Counter

from tests.support.headings import HEADINGS
from tests.support.tree import ROOT

FOLDERS = ("integration", "interop")


def marked() -> set[str]:
    """Modules whose tests `make test-parallel` runs."""
    paths = (path for folder in FOLDERS for path in (ROOT / "tests" / folder).glob("test_*.py"))
    return {path.stem for path in paths if "pytest.mark.parallel" in path.read_text("utf-8")}


def test_each_module_stands_under_one_heading():
    named = Counter(name for names in HEADINGS.values() for name in names)

    assert set(named) == marked()
    assert [name for name, times in named.items() if times > 1] == []


def test_the_headings_are_those_of_the_guide():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

    assert re.findall(r"^- \*\*([a-z ]+)\*\*", text, re.MULTILINE) == list(HEADINGS)
