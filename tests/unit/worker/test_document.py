"""Documents come back byte for byte, and what is kept is never handed to an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_worker.document import parse_document, render_segment, segment_prose
from stepstream_worker.engines import choose
from stepstream_worker.translation import translate_document

FRAGMENTS = st.sampled_from(
    [
        *["# ", "## ", "- ", "* ", "1. ", "2、", "> ", "> > ", "    ", "\t", "| a | b |", "|---|"],
        *["```", "```py", "~~~", "`code`", "``a`b``", "`", "\n", "\n\n", "\r\n", "\r", "\u2028"],
        *[
            "软件",
            "后天干活。",
            "{name}",
            "{",
            "}}",
            "{{x}}",
            "%s",
            "%(x)d",
            "${x}",
            "<b>",
            "</b>",
            "<",
        ],
        *[
            "https://a.example/x?y=1",
            "a@b.example",
            "[t](u.md)",
            "](",
            "\\|",
            "\0",
            "\ufffc",
            "1,5",
        ],
    ]
)
DOCUMENTS = st.one_of(st.text(), st.lists(FRAGMENTS).map("".join))


class Recorder:
    """An engine that changes nothing and remembers what it was given."""

    name = "recorder"

    def __init__(self) -> None:
        self.given: list[str] = []

    def translate(self, text: str) -> str:
        self.given.append(text)
        return text


@given(DOCUMENTS)
def test_a_translation_that_changes_nothing_gives_the_document_back(text: str) -> None:
    assert translate_document(text, Recorder()).text == text


@given(DOCUMENTS)
def test_pieces_joined_are_the_document(text: str) -> None:
    segments = parse_document(text)

    assert "".join(piece.text for segment in segments for piece in segment.pieces) == text


@given(DOCUMENTS)
def test_the_engine_sees_exactly_the_pieces_that_are_not_kept(text: str) -> None:
    recorder = Recorder()

    translate_document(text, recorder)

    assert "".join(recorder.given) == "".join(map(segment_prose, parse_document(text)))


@given(DOCUMENTS)
def test_line_breaks_survive_a_real_engine(text: str) -> None:
    translated = translate_document(text, choose("zh-CN", "zh-TW")).text

    assert translated.count("\n") == text.count("\n")
    assert translated.count("|") == text.count("|")


@pytest.mark.parametrize(
    "kept",
    [
        "`软件`",
        "``软`件``",
        "https://zh.example.org/wiki/软件",
        "{软件}",
        "{{ 软件 }}",
        "${软件}",
        "%(软件)s",
        '<img alt="软件">',
        "<!-- 软件 -->",
    ],
)
def test_what_must_not_change_is_kept(kept: str) -> None:
    text = f"- 请看 {kept} 的说明\n"

    assert translate_document(text, choose("zh-CN", "zh-TW")).text == f"- 請看 {kept} 的說明\n"


def test_a_link_keeps_its_target_and_translates_its_words() -> None:
    translated = translate_document("[软件](软件/说明.md)", choose("zh-CN", "zh-TW")).text

    assert translated == "[軟體](软件/说明.md)"


def test_prose_right_behind_an_address_is_translated() -> None:
    translated = translate_document("见https://a.example/x的说明。", choose("zh-CN", "zh-TW")).text

    assert translated == "見https://a.example/x的說明。"


def test_code_in_a_fence_is_kept_to_its_own_closing_fence() -> None:
    text = "````\n软件\n```\n软件\n````\n软件\n"

    translated = translate_document(text, choose("zh-CN", "zh-TW")).text

    assert translated == "````\n软件\n```\n软件\n````\n軟體\n"


def test_an_open_fence_reaches_to_the_end() -> None:
    text = "```\n软件\n\n软件"

    assert translate_document(text, choose("zh-CN", "zh-TW")).text == text


def test_a_paragraph_is_one_segment_and_a_list_item_another() -> None:
    segments = parse_document("第一行\n第二行\n\n- 甲\n- 乙\n")

    assert [(one.line, one.translatable) for one in segments] == [
        (1, True),
        (3, False),
        (4, True),
        (5, True),
    ]
    assert render_segment(segments[0], str.swapcase) == "第一行\n第二行\n"


def test_what_the_callback_raises_ends_the_translation() -> None:
    def stop(done: int, _: int) -> None:
        if done == 1:
            raise InterruptedError

    recorder = Recorder()
    with pytest.raises(InterruptedError):
        translate_document("甲\n\n乙\n", recorder, stop)
    assert recorder.given == ["甲"]
