"""The plot: bars on one scale, and text that XML can hold."""

from xml.etree import ElementTree as ET

from bench.figures import Spread
from bench.plot import LABELS, NUMBERS, WIDTH, Bar, svg_of

SVG = "{http://www.w3.org/2000/svg}"
ROOM = WIDTH - LABELS - NUMBERS


def bar(label: str, *, least: float, median: float, most: float) -> Bar:
    return Bar(label, Spread(median=median, least=least, most=most, rounds=3))


def drawn(*bars: Bar) -> ET.Element:
    return ET.fromstring(svg_of(bars, title="a & b"))  # noqa: S314 - it was made here


def test_bars_are_as_long_as_their_medians():
    svg = drawn(
        bar("one", least=40, median=50, most=100), bar("other", least=25, median=25, most=25)
    )

    lengths = [float(one.attrib["width"]) for one in svg.iter(f"{SVG}rect")]
    assert lengths == [ROOM / 2, ROOM / 4]


def test_the_range_of_the_rounds_is_a_line():
    (line,) = drawn(bar("one", least=40, median=50, most=100)).iter(f"{SVG}line")

    assert float(line.attrib["x1"]) == LABELS + ROOM * 0.4
    assert float(line.attrib["x2"]) == LABELS + ROOM


def test_names_and_medians_are_written():
    svg = drawn(bar("<one>", least=1, median=1234.5, most=2000))

    assert [text.text for text in svg.iter(f"{SVG}text")] == ["a & b", "<one>", "1,234"]


def test_nothing_measured_is_an_empty_plot():
    assert list(drawn().iter(f"{SVG}rect")) == []
