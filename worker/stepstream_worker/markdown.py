"""Lines of a Markdown or plain document, each with its kind, its marker and its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

__all__ = ["Line", "LineKind", "scan_lines"]

LineKind = Literal["blank", "fence", "code", "heading", "list", "table", "text"]

# Indentation and quote marks, then at most one heading mark or list marker with its check box.
# U+3001 and U+FF0E end an item number in Chinese lists, with no space behind.
_PREFIX = re.compile(
    r"(?P<lead>[ \t]*(?:>[ \t]*)*)"
    r"(?P<mark>#{1,6}[ \t]+"
    r"|(?:[-*+\u2022][ \t]+|[0-9]{1,9}[.)][ \t]+|[0-9]{1,9}[\u3001\uff0e][ \t]*)"
    r"(?:\[[ xX]\][ \t]+)?"
    r")?"
)
_FENCE = re.compile(r"[ \t>]*(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)")
_CELL_EDGE = re.compile(r"(?<!\\)\|")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a document."""

    number: int  # counted from 1
    kind: LineKind  # what the line is
    prefix: str  # indentation, quote marks, heading or list marker
    body: str  # what follows the prefix, without the line ending
    ending: str  # "\n", "\r\n" or "" on the last line
    shape: str  # what a translation has to keep, in words

    @property
    def text(self) -> str:
        """The line without its ending."""
        return self.prefix + self.body


def scan_lines(text: str) -> list[Line]:
    """Split a document into lines; joining prefix, body and ending of each gives it back.

    A fence that is never closed reaches to the end of the document, as in CommonMark. Indented code
    is not recognised: it cannot be told from a continued list item by looking at one line.
    """
    return list(_scan(text))


def _scan(text: str) -> Iterator[Line]:
    fence = ""
    for number, (content, ending) in enumerate(_split(text), start=1):
        match = _FENCE.fullmatch(content)
        if fence:
            closes = match is not None and _closes(match, fence)
            fence = "" if closes else fence
            yield _verbatim(number, content, ending, "fence" if closes else "code")
        elif match is not None and _opens(match):
            fence = match["fence"]
            yield _verbatim(number, content, ending, "fence")
        else:
            yield _classify(number, content, ending)


def _split(text: str) -> Iterator[tuple[str, str]]:
    lines = text.split("\n")
    for content in lines[:-1]:
        bare = content.removesuffix("\r")
        yield bare, content[len(bare) :] + "\n"
    if lines[-1]:
        yield lines[-1], ""


def _opens(match: re.Match[str]) -> bool:
    return not (match["fence"][0] == "`" and "`" in match["info"])


def _closes(match: re.Match[str], fence: str) -> bool:
    return match["fence"].startswith(fence) and not match["info"].strip()


def _verbatim(number: int, content: str, ending: str, kind: LineKind) -> Line:
    return Line(number=number, kind=kind, prefix="", body=content, ending=ending, shape=kind)


def _classify(number: int, content: str, ending: str) -> Line:
    match = _PREFIX.match(content)
    assert match is not None  # every part of the pattern is optional
    prefix, body = content[: match.end()], content[match.end() :]
    kind, shape = _shape(match["lead"], (match["mark"] or "").strip(), body)
    return Line(number=number, kind=kind, prefix=prefix, body=body, ending=ending, shape=shape)


def _shape(lead: str, mark: str, body: str) -> tuple[LineKind, str]:
    depth = lead.count(">")
    quote = f"quote of depth {depth}, " if depth else ""
    indent = len(lead.replace("\t", "    "))
    if mark.startswith("#"):
        return "heading", f"{quote}heading of level {len(mark)}"
    if mark:
        return "list", f"{quote}list item {mark} indented by {indent}"
    if not body.strip():
        return "blank", f"{quote}blank line"
    if body.startswith("|"):
        return "table", f"{quote}table row with {len(_CELL_EDGE.findall(body))} bars"
    return "text", f"{quote}text"
