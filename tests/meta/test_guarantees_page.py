"""Every test that docs/guarantees.md names exists, so that no promise leans on a lost one."""

import re

from tests.support import tree

PAGE = tree.ROOT / "docs" / "guarantees.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`")


def named() -> list[tuple[str, str]]:
    """(file, test) of the page, in order; a test without a file belongs to the one before."""
    found, file = [], ""
    for path, test in NAMED.findall(PAGE.read_text(encoding="utf-8")):
        file = path or file
        found.append((file, test))
    return [pair for pair in found if any(pair)]


def defined(file: str) -> set[str]:
    return {function.name for function in tree.functions(tree.ROOT / file)}


def test_every_test_that_is_named_exists():
    assert len(named()) > 20
    for file, test in named():
        assert (tree.ROOT / file).is_file(), file
        assert not test or test in defined(file), f"{file}::{test}"
