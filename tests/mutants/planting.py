"""Plants a seeded bug in this process: pieces of the product's source are exchanged at its import.

The product has no switch for it. A finder in front of all others compiles an edited copy of the
modules that a bug names; a Lua script is exchanged in the `Script` objects that hold it. Every
piece must stand in its file exactly as often as the bug says, and no module may have been imported
before: else nothing is planted, and the error says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import msgspec

__all__ = ["VARIABLE", "Bug", "Edit", "PlantingError", "edited", "plant", "wanted"]

VARIABLE = "STEPSTREAM_TEST_MUTANT"  # name of the bug; read by the test kit alone
SCRIPTS = "stepstream_dispatcher.store.redis_scripts"
LUA = ".lua"


class PlantingError(Exception):
    """What a bug exchanges is not there as the bug says."""


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of source, and what stands in its place."""

    where: str  # dotted name of a module; of a Lua script: the name of its file, in store/
    old: str
    new: str
    times: int = 1  # how often the piece stands there

    def apply(self, text: str) -> str:
        """The edited text.

        Raises:
            PlantingError: The piece does not stand there so often.
        """
        if (found := text.count(self.old)) != self.times:
            message = f"{self.where} has {found} of {self.times} times: {self.old!r}"
            raise PlantingError(message)
        return text.replace(self.old, self.new)


class Bug(msgspec.Struct, frozen=True, kw_only=True):
    """One seeded bug: a row of the table in seeds.py."""

    name: str
    number: str  # in the list that the table begins with; empty: one of our own
    breaks: str  # in one line
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]  # node ids or files that have to notice, the most telling first
    chaos: tuple[int, int] | None = None  # a run of chaos that has to notice: seed, seconds
    instead: str = ""  # what it stands for, where the listed bug has no place in this system


def wanted() -> str:
    """The name of the bug that the environment asks for; empty when it asks for none."""
    return os.environ.get(VARIABLE, "")


def plant(bug: Bug) -> None:
    """Have this process, from now on, import the product with the bug in it.

    Raises:
        PlantingError: A piece is missing, or a module has been imported already.
    """
    by_module: dict[str, list[Edit]] = {}
    for edit in bug.edits:
        name = SCRIPTS if edit.where.endswith(LUA) else edit.where
        by_module.setdefault(name, []).append(edit)
    if early := sorted(name for name in by_module if name in sys.modules):
        raise PlantingError(f"imported before the bug was planted: {', '.join(early)}")
    finder = _Finder(by_module)
    sys.meta_path.insert(0, finder)  # first: to look for a module imports the packages above it
    try:
        edited(bug)
    except PlantingError:
        sys.meta_path.remove(finder)
        raise


def edited(bug: Bug) -> dict[str, str]:
    """The text of every file that a bug changes, with the bug in it; nothing is planted.

    Raises:
        PlantingError: A piece is missing.
    """
    texts: dict[str, str] = {}
    for edit in bug.edits:
        texts[edit.where] = edit.apply(texts.get(edit.where) or _text_of(edit.where))
    return texts


class _Finder(MetaPathFinder):
    """Finds the modules that are edited, and no others."""

    def __init__(self, by_module: dict[str, list[Edit]]) -> None:
        self._by_module = by_module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if fullname not in self._by_module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise PlantingError(f"no module {fullname}")
        spec.loader = _Loader(fullname, spec.origin, self._by_module[fullname])
        return spec


class _Loader(SourceFileLoader):
    """Compiles the edited source, past the cache of compiled modules."""

    def __init__(self, fullname: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(fullname, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        """See importlib.abc.InspectLoader."""
        text = self.get_data(self.path).decode()
        for edit in self._edits:
            text = text if edit.where.endswith(LUA) else edit.apply(text)
        code: CodeType = compile(text, self.path, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run the module; then exchange what it read from files of Lua."""
        super().exec_module(module)
        for edit in self._edits:
            if edit.where.endswith(LUA):
                _exchange(module, edit)


def _exchange(module: ModuleType, edit: Edit) -> None:
    """Edit every script that has the piece; its digest is what the server knows it by."""
    scripts = [one for one in vars(module).values() if isinstance(one, module.Script)]
    hit = [script for script in scripts if edit.old in script.source]
    if not hit:
        raise PlantingError(f"no script has the piece of {edit.where}: {edit.old!r}")
    for script in hit:
        script.source = edit.apply(script.source)
        script.digest = hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()


def _text_of(where: str) -> str:
    if where.endswith(LUA):
        return _path_of(SCRIPTS).with_name(where).read_text(encoding="utf-8")
    return _path_of(where).read_text(encoding="utf-8")


def _path_of(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise PlantingError(f"no module {name}")
    return Path(spec.origin)
