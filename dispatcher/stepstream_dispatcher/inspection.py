"""Answers that need no server: what the settings are, and whether pipeline files are right.

The command line asks in this way, because it imports no service. Answers are JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from stepstream.masking import masked
from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.pipelines import check_files
from stepstream_dispatcher.settings import (
    Settings,
    environment_name,
    expected_value,
    load_settings,
)

__all__ = ["answer"]

_OK: Final = 0
_WRONG: Final = 2


def answer(words: Sequence[str]) -> int:
    """Answer the question that the words of the command line ask, on standard output.

    Returns:
        The exit code: 0, or 2 when a setting or a file is wrong.

    Raises:
        SystemExit: With 2, the words ask nothing that is known, or a setting is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m stepstream_dispatcher",
        description="Runs a dispatcher. With an option: answers as JSON, and ends.",
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--config", action="store_true", help="what each setting is")
    asked.add_argument(
        "--check-pipelines", nargs="+", metavar="FILE", help="whether pipeline files are right"
    )
    given = parser.parse_args(words)
    return _answer_config() if given.config else _answer_check(given.check_pipelines)


def _answer_config() -> int:
    settings = load_settings()
    _write([_setting(settings, field) for field in Settings.model_fields])
    return _OK


def _setting(settings: Settings, field: str) -> dict[str, str]:
    name = environment_name(field)
    return {
        "name": name,
        "value": masked(name, _shown(getattr(settings, field))),
        "source": "environment" if field in settings.model_fields_set else "default",
        "takes": expected_value(field),
        "default": _shown(Settings.model_fields[field].default),
    }


def _shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return os.pathsep.join(map(str, value))
        case _:
            return str(value)


def _answer_check(files: Sequence[str]) -> int:
    found, errors = check_files(Path(file) for file in files)
    _write({"pipelines": [_pipeline(path, each) for path, each in found], "errors": errors})
    return _WRONG if errors else _OK


def _pipeline(path: Path, pipeline: Pipeline) -> dict[str, Any]:
    return {
        "file": str(path),
        "name": pipeline.name,
        "version": pipeline.version,
        "steps": list(pipeline.steps),
    }


def _write(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
