"""The shipped pipelines, and the files that a user adds to them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Final

from stepstream_dispatcher.core.pipeline import Pipeline, PipelineError
from stepstream_dispatcher.core.pipeline_file import load

__all__ = ["check_files", "read_pipelines"]

_SHIPPED: Final = ("translation.toml",)


def read_pipelines(paths: Iterable[Path] = ()) -> list[Pipeline]:
    """Read the shipped pipelines and those of the given files.

    A file may replace a shipped pipeline by name; two files may not define the same one.

    Raises:
        PipelineError: A file cannot be read or is wrong, as `file:line: words`.
    """
    shipped = resources.files(__name__)
    pipelines = {
        each.name: each
        for name in _SHIPPED
        for each in load(name, shipped.joinpath(name).read_text(encoding="utf-8"))
    }
    return list((pipelines | _read_files(paths)).values())


def check_files(paths: Iterable[Path]) -> tuple[list[tuple[Path, Pipeline]], list[str]]:
    """Read files as a dispatcher would, and go on behind one that is wrong.

    Returns:
        Each pipeline with its file, and for each file that is wrong its first error.
    """
    found: list[tuple[Path, Pipeline]] = []
    errors: list[str] = []
    for path in paths:
        try:
            loaded = load(str(path), _read_text(path))
        except PipelineError as error:
            errors.append(str(error))
            continue
        known = {pipeline.name for _, pipeline in found}
        errors += [
            f"{path}:1: a second pipeline named {pipeline.name!r}"
            for pipeline in loaded
            if pipeline.name in known
        ]
        found += [(path, pipeline) for pipeline in loaded]
    return found, errors


def _read_files(paths: Iterable[Path]) -> dict[str, Pipeline]:
    pipelines: dict[str, Pipeline] = {}
    for path in paths:
        for pipeline in load(str(path), _read_text(path)):
            if pipeline.name in pipelines:
                raise PipelineError(f"{path}:1: a second pipeline named {pipeline.name!r}")
            pipelines[pipeline.name] = pipeline
    return pipelines


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise PipelineError(f"{path}:1: cannot be read: {error}") from error
