"""The sample documents of the demo."""

import importlib.util
import tomllib
from dataclasses import dataclass
from pathlib import Path

from stepstream.cli.exits import CommandError
from stepstream.cli.stack import WORKER

__all__ = ["Document", "find_samples", "load_documents"]

_MANIFEST = "manifest.toml"
_CHECKOUT_DEPTH = 4  # clients/python/stepstream/cli/samples.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document to translate."""

    title: str
    source_lang: str
    target_lang: str
    text: str


def find_samples() -> Path:
    """Finds the documents: packed beside the worker, else in the checkout that this file is in.

    Raises:
        CommandError: they are in neither place.
    """
    spec = importlib.util.find_spec(WORKER)
    packed = (
        [Path(place, "samples") for place in (spec.submodule_search_locations or [])]
        if spec
        else []
    )
    for place in (*packed, Path(__file__).resolve().parents[_CHECKOUT_DEPTH] / "samples"):
        if (place / _MANIFEST).is_file():
            return place
    raise CommandError("the sample documents are missing from this installation")


def load_documents(directory: Path) -> list[Document]:
    """Reads the documents in the order of the manifest."""
    manifest = tomllib.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
    return [
        Document(
            title=entry["title"],
            source_lang=entry["from"],
            target_lang=entry["to"],
            text=(directory / entry["file"]).read_text(encoding="utf-8"),
        )
        for entry in manifest["document"]
    ]
