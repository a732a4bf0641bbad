"""The lock files name every dependency, by hash, and no place to get it from."""

import re
import tomllib
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.tree import ROOT

FILES = ("dev.txt", "run.txt", "tools.txt")
PINNED = re.compile(r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==(\S+)(?: ; (.+?))?(?: \\)?$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")
# What `make demo` runs on: everything but telemetry.
RUN_EXTRAS = ("dispatcher", "embedded", "worker")


def lines(name: str) -> list[str]:
    return (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()


def pins(name: str) -> dict[str, set[Version]]:
    """The versions of each package; several where they differ by Python version."""
    found: dict[str, set[Version]] = {}
    for match in filter(None, map(PINNED.match, lines(name))):
        found.setdefault(match[1], set()).add(Version(match[2]))
    return found


def declared(*, run_only: bool) -> list[Requirement]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = document["project"], document["dependency-groups"]
    extras = project["optional-dependencies"]
    names = RUN_EXTRAS if run_only else [name for name in extras if name != "all"]
    wanted = chain(project["dependencies"], *(extras[name] for name in names), groups["build"])
    return [Requirement(text) for text in chain(wanted, [] if run_only else groups["dev"])]


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_a_pin_or_a_hash(name: str):
    strange = [line for line in lines(name) if not PINNED.match(line) and not HASH.match(line)]

    assert strange == []


@pytest.mark.parametrize("name", FILES)
def test_every_pin_has_a_hash(name: str):
    text = lines(name)

    bare = [line for line, after in zip(text, [*text[1:], ""], strict=True) if lacks(line, after)]

    assert bare == []


def lacks(line: str, after: str) -> bool:
    return bool(PINNED.match(line)) and not HASH.match(after)


@pytest.mark.parametrize(("name", "run_only"), [("dev.txt", False), ("run.txt", True)])
def test_what_the_project_declares_is_locked_at_a_version_it_allows(name: str, *, run_only: bool):
    locked = pins(name)

    stale = [
        str(requirement)
        for requirement in declared(run_only=run_only)
        if not any(
            requirement.specifier.contains(version, prereleases=True)
            for version in locked.get(canonicalize_name(requirement.name), ())
        )
    ]

    assert stale == [], "run: make lock"


def test_the_full_lock_contains_the_small_one():
    small, full = pins("run.txt"), pins("dev.txt")

    assert {name: full.get(name) for name in small} == small


def test_the_generator_is_older_than_what_runs():
    """Generated code asks for at least the versions that made it."""
    generator, runtime = pins("tools.txt")["grpcio-tools"], pins("dev.txt")["grpcio"]
    floor = next(r for r in declared(run_only=True) if r.name == "grpcio")

    assert max(generator) < min(runtime)
    assert floor.specifier.contains(max(generator))
