"""Large and hostile texts cost time in proportion to their length."""

import time

import pytest

from stepstream_worker.checks import CHECKS, compare
from stepstream_worker.engines import choose
from stepstream_worker.translation import translate_document

CHARACTERS = 100_000

# Ten times what the slowest takes alone on one core; a quadratic pattern takes minutes.
SECONDS_MAX = 20.0

UNITS = [
    "`",
    "``a",
    "```",
    "{",
    "{{",
    "<",
    "<a ",
    "<!--",
    "a@",
    "a.",
    "%(",
    "](",
    "https://.",
    "- ",
]
UNITS += [
    "[",
    "|",
    "| - ",
    "> ",
    "1.",
    "1,",
    "-",
    " ",
    "\t",
    "\n",
    "一",
    "十万",
    "软件。",
    "#",
    "~~~\n",
    "\\",
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_hostile_text_is_read_in_linear_time(unit: str) -> None:
    text = unit * (CHARACTERS // len(unit))
    engine = choose("zh-CN", "zh-TW")
    started = time.monotonic()

    translated = translate_document(text, engine).text
    comparison = compare(text, translated, target_language="zh-TW", translate=engine.translate)
    findings = [finding for check in CHECKS for finding in check(comparison)]

    assert findings == []
    assert time.monotonic() - started < SECONDS_MAX
