# ruff: noqa: RUF001  the texts are Chinese
"""The score falls with what does not come back."""

import pytest

from stepstream_worker.engines import choose
from stepstream_worker.score import back_translation_score, chrf


@pytest.mark.parametrize(
    ("returned", "source", "score"),
    [
        ("软件", "软件", 100.0),
        ("", "", 100.0),
        ("", "软件", 0.0),
        ("软件", "", 0.0),
        ("甲", "乙", 0.0),
    ],
)
def test_the_ends_of_the_scale(returned: str, source: str, score: float) -> None:
    assert chrf(returned, source) == pytest.approx(score)


def test_what_is_kept_does_not_raise_the_score() -> None:
    back = choose("zh-TW", "zh-CN")
    code = "```\n" + "x = 1\n" * 200 + "```\n"

    score = back_translation_score("我喜欢看书。\n" + code, "他不會游泳。\n" + code, back)

    assert score.document < 30


def test_a_weak_paragraph_is_named() -> None:
    back = choose("zh-TW", "zh-CN")
    source = (
        "今天天气很好，我们一起去公园散步吧。\n\n晚上回家的时候，在路边买了两个西瓜和一袋桃子。\n"
    )
    target = "今天天氣很好，我們一起去公園散步吧。\n\n列車因為大雪晚點，旅客都在候車室裡等。\n"

    score = back_translation_score(source, target, back)

    assert [weak.line for weak in score.weak] == [3]
