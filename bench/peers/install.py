"""Installs each peer at pinned versions into an environment of its own, once."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from bench.peers.peer import ADAPTERS, PINS, Peer

__all__ = ["UnavailableError", "install", "python_of", "version"]

LIMIT_S: Final = 600.0  # for one command; the longest, a build of Go from nothing, takes 60 s
STAMP: Final = ".installed"
FOUND: Final = {"python": "{}==(.+)", "node": r'"{}": "(.+)"', "go": r"/{} v(.+)"}


class UnavailableError(Exception):
    """The peer cannot be installed here; the message says what is missing."""


def install(peer: Peer, home: Path) -> None:
    """Make the environment, unless it was made of the same pins before.

    Raises:
        UnavailableError: its runtime is missing, or a command of the installation failed.
    """
    if peer.runtime == "ours" or _stamp(home) == _digest(peer):
        return
    home.mkdir(parents=True, exist_ok=True)
    for command in _commands(peer, home):
        _run(command, home)
    (home / STAMP).write_text(_digest(peer), encoding="utf-8")


def python_of(peer: Peer, home: Path) -> str:
    """The interpreter of a peer in Python."""
    return sys.executable if peer.runtime == "ours" else str(home / ".venv" / "bin" / "python")


def version(peer: Peer) -> str:
    """The version that is pinned, or our own."""
    if peer.runtime == "ours":
        return metadata.version(peer.name)
    match = re.search(FOUND[peer.runtime].format(peer.name), _pins(peer).read_text("utf-8"))
    assert match is not None, f"{peer.name} is not pinned"
    return match[1]


def _pins(peer: Peer) -> Path:
    folder = ADAPTERS / peer.name
    files = {"node": folder / "package.json", "go": folder / "go.mod"}
    return files.get(peer.runtime, PINS / f"{peer.name}.txt")


def _commands(peer: Peer, home: Path) -> Iterator[list[str]]:
    match peer.runtime:
        case "node":
            _tool("node")
            npm = _tool("npm")
            shutil.copytree(ADAPTERS / peer.name, home, dirs_exist_ok=True)
            yield [npm, "ci", "--no-audit", "--no-fund"]
        case "go":
            source = str(ADAPTERS / peer.name)
            yield [_tool("go"), "build", "-C", source, "-o", str(home / peer.name)]
        case _:
            yield [sys.executable, "-m", "venv", "--clear", str(home / ".venv")]
            pip = [python_of(peer, home), "-m", "pip", "--disable-pip-version-check", "install"]
            yield [*pip, "--quiet", "--no-deps", "--requirement", str(_pins(peer))]


def _tool(name: str) -> str:
    if found := shutil.which(name):
        return found
    raise UnavailableError(f"{name} is not on the PATH")


def _run(command: list[str], home: Path) -> None:
    try:
        subprocess.run(command, cwd=home, check=True, capture_output=True, timeout=LIMIT_S)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UnavailableError(f"{Path(command[0]).name}: {' '.join(last)}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{Path(command[0]).name} took over {LIMIT_S:.0f} s") from error


def _digest(peer: Peer) -> str:
    """Of everything that the environment is made of; adapters in Python are run in place."""
    folder = ADAPTERS / peer.name
    files = sorted(folder.iterdir()) if folder.is_dir() else [_pins(peer)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _stamp(home: Path) -> str:
    file = home / STAMP
    return file.read_text(encoding="utf-8") if file.exists() else ""
