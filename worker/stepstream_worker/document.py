"""A document as segments of pieces: what is to be translated and what is kept byte for byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import groupby

import msgspec

from stepstream_worker.markdown import Line, scan_lines
from stepstream_worker.spans import find_spans

__all__ = ["Piece", "Segment", "parse_document", "render_segment", "segment_prose"]

_CELL_EDGE = re.compile(r"(?<!\\)\|")


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a segment."""

    text: str  # never empty
    kept: bool  # true: comes out as it went in


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A paragraph, heading, list item, table row, or a stretch kept whole."""

    line: int  # number of its first line, counted from 1
    pieces: tuple[Piece, ...]  # in order; joined they are the segment

    @property
    def translatable(self) -> bool:
        """Whether anything in it is to be translated."""
        return any(not piece.kept for piece in self.pieces)


def parse_document(text: str) -> list[Segment]:
    """Split a document into segments, paragraph by paragraph.

    Code fences, blank lines, markers, table bars, links, addresses, placeholders and tags are kept.

    Args:
        text: Markdown or plain text of any length.

    Returns:
        Segments in order; the text of all their pieces joined is the document.
    """
    blocks = groupby(scan_lines(text), key=_block_key)
    return [_segment(list(lines)) for _, lines in blocks]


def render_segment(segment: Segment, translate: Callable[[str], str]) -> str:
    """Join a segment's pieces, each that is not kept passed through `translate`."""
    return "".join(piece.text if piece.kept else translate(piece.text) for piece in segment.pieces)


def segment_prose(segment: Segment) -> str:
    """Give a segment's text without what is kept."""
    return "".join(piece.text for piece in segment.pieces if not piece.kept)


def _block_key(line: Line) -> tuple[str, int]:
    """Lines of one paragraph, and of one stretch kept whole, share a key."""
    if line.kind == "text":
        return "text", 0
    if line.kind in {"blank", "fence", "code"}:
        return "kept", 0
    return "line", line.number


def _segment(lines: list[Line]) -> Segment:
    pieces = (piece for line in lines for piece in _line_pieces(line))
    return Segment(line=lines[0].number, pieces=tuple(piece for piece in pieces if piece.text))


def _line_pieces(line: Line) -> Iterator[Piece]:
    if line.kind in {"blank", "fence", "code"}:
        yield Piece(text=line.text + line.ending, kept=True)
        return
    yield Piece(text=line.prefix, kept=True)
    yield from _body_pieces(line)
    yield Piece(text=line.ending, kept=True)


def _body_pieces(line: Line) -> Iterator[Piece]:
    position = 0
    for span in find_spans(line.body):
        yield from _prose_pieces(line, line.body[position : span.start])
        yield Piece(text=span.text, kept=True)
        position = span.end
    yield from _prose_pieces(line, line.body[position:])


def _prose_pieces(line: Line, text: str) -> Iterator[Piece]:
    position = 0
    for mark in _CELL_EDGE.finditer(text) if line.kind == "table" else ():
        yield _piece(text[position : mark.start()])
        yield Piece(text=mark.group(), kept=True)
        position = mark.end()
    yield _piece(text[position:])


def _piece(text: str) -> Piece:
    return Piece(text=text, kept=not any(map(str.isalpha, text)))
