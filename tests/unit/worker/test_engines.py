"""Engines serve the pairs that they name, and a refusal says what to do."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from stepstream_worker.engines import NoEngineError, choose, served_pairs
from stepstream_worker.languages import normalise_language


@pytest.mark.parametrize(
    ("source", "target", "text", "translation"),
    [
        ("zh-CN", "zh-TW", "鼠标和打印机的软件", "滑鼠和印表機的軟體"),
        ("zh-TW", "zh-CN", "滑鼠和印表機的軟體", "鼠标和打印机的软件"),
        ("zh-CN", "zh-HK", "这里的软件", "這裏的軟件"),
        ("zh-HK", "zh-CN", "這裏的軟件", "这里的软件"),
        ("zh-CN", "zh-Hant", "这里的软件", "這裏的軟件"),
        ("zh-Hant", "zh-CN", "這裏的軟件", "这里的软件"),
        ("zh-Hant", "zh-TW", "這裏", "這裡"),
        ("zh-TW", "zh-Hant", "這裡", "這裏"),
        ("zh-Hant", "zh-HK", "線", "線"),
        ("zh-HK", "zh-Hant", "賬户", "賬戶"),
        ("zh-TW", "zh-HK", "這裡的軟體", "這裏的軟件"),
        ("zh-HK", "zh-TW", "這裏的軟件", "這裡的軟體"),
    ],
)
def test_a_pair_is_served(source: str, target: str, text: str, translation: str) -> None:
    assert choose(source, target).translate(text) == translation


def test_every_pair_can_be_translated_back() -> None:
    pairs = set(served_pairs())

    assert {(target, source) for source, target in pairs} == pairs


def test_the_refusal_of_a_pair_names_it_and_what_is_served() -> None:
    with pytest.raises(NoEngineError) as refusal:
        choose("en", "is")

    message = str(refusal.value)
    assert "en→is" in message
    assert "zh-CN→zh-TW" in message
    assert "start a worker of your own" in message


def test_nothing_is_lost_behind_a_nul() -> None:
    assert choose("zh-CN", "zh-TW").translate("软件\0网络\0") == "軟體\0網路\0"


def test_an_engine_may_be_used_by_several_threads() -> None:
    engine = choose("zh-CN", "zh-TW")
    text = "软件和网络的信息。" * 2000

    with ThreadPoolExecutor(max_workers=4) as threads:
        results = set(threads.map(engine.translate, [text] * 40))

    assert results == {"軟體和網路的資訊。" * 2000}


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("zh-CN", "zh-CN"),
        ("zh_cn", "zh-CN"),
        ("zh-Hans", "zh-CN"),
        ("ZH-HANT-TW", "zh-TW"),
        ("zh-MO", "zh-HK"),
        ("zh-hant", "zh-Hant"),
        ("en", "en"),
        (" pt-BR ", "pt-BR"),
    ],
)
def test_a_tag_gets_its_canonical_name(tag: str, name: str) -> None:
    assert normalise_language(tag) == name


@pytest.mark.parametrize("tag", ["", "中文", "Chinese (Taiwan)", "z", "zh-"])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="is not a language tag"):
        normalise_language(tag)
