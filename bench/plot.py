"""Horizontal bars as SVG: the median of each figure, and the range of its rounds as a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from bench.figures import Spread

__all__ = ["Bar", "svg_of"]

WIDTH: Final = 760
LABELS: Final = 170  # where the bars begin
NUMBERS: Final = 80  # room behind the longest bar
ROW: Final = 26
TOP: Final = 40
BAR: Final = 14  # height of a bar
STYLE: Final = (
    "text{font:13px sans-serif;fill:#222}.title{font-weight:bold}"
    ".bar{fill:#4a7ebb}.range{stroke:#1c2f4a;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.range{stroke:#dde}}"
)


class Bar(NamedTuple):
    """One row."""

    label: str
    spread: Spread


def svg_of(bars: Sequence[Bar], *, title: str) -> str:
    """Draw bars of one unit on a scale from 0 to the highest sample."""
    height = TOP + ROW * len(bars) + 10
    highest = max((bar.spread.most for bar in bars), default=0.0) or 1.0
    rows = [_row(bar, TOP + ROW * index, highest) for index, bar in enumerate(bars)]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<text class="title" x="8" y="22">{escape(title)}</text>',
            *rows,
            "</svg>\n",
        )
    )


def _row(bar: Bar, top: int, highest: float) -> str:
    scale = (WIDTH - LABELS - NUMBERS) / highest
    spread = bar.spread
    least, median, most = (
        round(LABELS + value * scale, 1) for value in (spread.least, spread.median, spread.most)
    )
    length = round(median - LABELS, 1)
    middle, baseline = top + BAR / 2, top + BAR - 2
    return "\n".join(
        (
            f'<text x="{LABELS - 8}" y="{baseline}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="bar" x="{LABELS}" y="{top}" width="{length}" height="{BAR}"/>',
            f'<line class="range" x1="{least}" y1="{middle}" x2="{most}" y2="{middle}"/>',
            f'<text x="{most + 6}" y="{baseline}">{spread.median:,.0f}</text>',
        )
    )
