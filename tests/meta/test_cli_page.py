"""The page on the command line has a section for each command and a row for each option."""

import re

import pytest

from stepstream.cli.exits import MEANINGS
from tests.support.command_tree import commands, names_of
from tests.support.tree import ROOT

PAGE = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### ([a-z -]+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (`[^|]+?`) \|", re.MULTILINE)
SECTIONS = dict(SECTION.findall(PAGE))
SHARED = PAGE[PAGE.index("| shared option |") : PAGE.index("### demo")]


def named(text: str) -> set[str]:
    """What the first cells of the rows of a text name."""
    return {word for row in ROW.findall(text) for word in re.findall(r"`([^`]+)`", row)}


def test_each_command_has_a_section_and_a_line_in_the_list():
    listed = re.findall(r"^\| \[`([a-z -]+)`\]\(#[a-z-]+\) \|", PAGE, re.MULTILINE)

    assert list(SECTIONS) == listed
    assert set(listed) == set(commands())


@pytest.mark.parametrize("command", commands())
def test_each_option_has_a_row_and_no_row_is_about_another(command):
    options = {name for each in commands()[command].params for name in names_of(each)}
    rows = named(SECTIONS[command])

    assert options - named(SHARED) <= rows
    assert {row for row in rows if row.startswith("-")} <= options


def test_each_shared_option_is_one_of_several_commands():
    for name in {name for name in named(SHARED) if name.startswith("-")}:
        users = [
            words
            for words, command in commands().items()
            if name in {one for each in command.params for one in names_of(each)}
        ]
        assert len(users) > 1, name


@pytest.mark.parametrize("status", MEANINGS)
def test_each_exit_status_has_a_row(status):
    assert f"| {status:d} | {MEANINGS[status]} |" in PAGE
