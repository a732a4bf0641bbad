# ruff: noqa: RUF001  the texts are Chinese
"""A good translation, damaged in one way at a time: each damage is found and named."""

from collections.abc import Callable

import pytest

from stepstream_worker.engines import choose
from stepstream_worker.translation import translate_document
from stepstream_worker.verification import Verification, verify_translation

SOURCE = """\
# 夏令营通知

尊敬的 {parent_name}，您好！夏令营将于 7 月 15 日开始，为期十二天，费用是 3,600 元。

- 请带水杯和雨伞；
- 请带两套换洗衣服；
- 不要带贵重的东西。

报名请看 https://example.com/camp?year=2025 ，
或写信给 camp@example.com 。<b>名额有限</b>，已有 %d 人报名。

孩子们会学习游泳。晚上还要在草地上看星星。
"""

CORRUPTIONS: dict[str, tuple[str, Callable[[str], str]]] = {
    "digit changed": ("numbers", lambda text: text.replace("3,600", "3,800")),
    "number in words changed": ("numbers", lambda text: text.replace("十二天", "十三天")),
    "number dropped": ("numbers", lambda text: text.replace(" 15 ", "")),
    "address changed": ("urls", lambda text: text.replace("year=2025", "year=2024")),
    "address dropped": (
        "urls",
        lambda text: text.replace("https://example.com/camp?", ""),
    ),
    "e-mail changed": ("emails", lambda text: text.replace("camp@example.com", "camp@example.co")),
    "placeholder translated": ("placeholders", lambda text: text.replace("parent_name", "家長")),
    "placeholder dropped": ("placeholders", lambda text: text.replace("%d ", "")),
    "closing tag dropped": ("tags", lambda text: text.replace("</b>", "")),
    "tag changed": ("tags", lambda text: text.replace("<b>", "<i>")),
    "list line joined": ("lines", lambda text: text.replace("；\n- 不要", "；不要")),
    "list line dropped": ("structure", lambda text: text.replace("- 請帶水杯和雨傘；\n", "")),
    "list marker dropped": ("structure", lambda text: text.replace("- 不要", "不要")),
    "heading level changed": ("structure", lambda text: text.replace("# 夏", "## 夏")),
    "line dropped": ("lines", lambda text: "".join(text.splitlines(keepends=True)[:-1])),
    "line emptied": ("empty", lambda text: text.replace("- 不要帶貴重的東西。", "- ")),
    "all empty": ("empty", lambda _: "\n"),
    "sentence left": (
        "untranslated",
        lambda text: text.replace("孩子們會學習游泳。", "孩子们会学习游泳。"),
    ),
    "half a sentence left": ("untranslated", lambda text: text.replace("學習游泳", "学习游泳")),
    "nothing translated": ("untranslated", lambda _: SOURCE),
    "sentences replaced": (
        "score",
        lambda text: text.replace("孩子們會學習游泳。晚上還要在草地上看星星", "天氣很熱" * 9),
    ),
}


def good_translation() -> str:
    return translate_document(SOURCE, choose("zh-CN", "zh-TW")).text


def verify(target: str) -> Verification:
    return verify_translation(
        SOURCE,
        target,
        forward=choose("zh-CN", "zh-TW"),
        back=choose("zh-TW", "zh-CN"),
        target_language="zh-TW",
    )


def test_the_good_translation_passes() -> None:
    verification = verify(good_translation())

    assert verification.findings == ()
    assert verification.verdict == "passed"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_is_rejected_with_its_finding(name: str) -> None:
    check, corrupt = CORRUPTIONS[name]
    good = good_translation()
    damaged = corrupt(good)
    assert damaged != good

    verification = verify(damaged)

    assert verification.verdict == "rejected"
    assert check in {finding.check for finding in verification.findings}


@pytest.mark.parametrize(
    "name", ["digit changed", "address changed", "e-mail changed", "tag changed", "sentence left"]
)
def test_a_single_corruption_is_not_blamed_on_other_checks(name: str) -> None:
    check, corrupt = CORRUPTIONS[name]

    verification = verify(corrupt(good_translation()))

    assert {finding.check for finding in verification.findings} == {check}


def test_a_finding_quotes_both_sides_and_names_the_line() -> None:
    verification = verify(good_translation().replace("3,600", "3,800"))

    missing, added = verification.findings
    assert missing.message == "number 3600 is missing"
    assert added.message == "number 3800 is not in the source"
    assert "3,600 元" in missing.source
    assert "3,800 元" in missing.target
    assert missing.line == added.line == 3


def test_numbers_swapped_between_lines_are_found() -> None:
    swapped = good_translation().replace("3,600", "%d").replace("已有 %d", "已有 3,600")

    verification = verify(swapped)

    assert {"numbers", "placeholders"} <= {finding.check for finding in verification.findings}


def test_findings_are_limited() -> None:
    source = "\n".join(f"第 {number} 号" for number in range(1000))

    verification = verify_translation(
        source,
        source.replace("1", "7"),
        forward=choose("zh-CN", "zh-TW"),
        back=choose("zh-TW", "zh-CN"),
        target_language="zh-TW",
    )

    assert len(verification.findings) == 100
