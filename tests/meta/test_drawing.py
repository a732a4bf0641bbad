"""The drawing of a task's life in ARCHITECTURE.md is what the table of the core says."""

import importlib.util
from types import ModuleType

from tests.support.tree import ROOT


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_life", ROOT / "tools" / "draw_life.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_drawing_is_current():
    tool = load_tool()
    page = tool.PAGE.read_text(encoding="utf-8")

    assert tool.redrawn(page) == page, "run tools/draw_life.py"


def test_a_stale_drawing_is_noticed():
    tool = load_tool()
    page = tool.PAGE.read_text(encoding="utf-8")

    assert (
        tool.redrawn(page.replace("queued --> leased: Leased", "queued --> ended: Leased")) == page
    )
