"""Twenty ordinary texts, rightly converted, pass verification."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from stepstream_worker.engines import choose
from stepstream_worker.translation import translate_document
from stepstream_worker.verification import verify_translation

TEXTS: list[dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("clean_texts.toml").read_text(encoding="utf-8")
)["text"]


def test_there_are_twenty() -> None:
    assert len(TEXTS) == 20


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text["name"])
def test_a_clean_text_passes(text: dict[str, Any]) -> None:
    forward, back = choose(text["from"], text["to"]), choose(text["to"], text["from"])
    translation = translate_document(text["text"], forward)

    verification = verify_translation(
        text["text"], translation.text, forward=forward, back=back, target_language=text["to"]
    )

    assert translation.text != text["text"]
    assert verification.findings == ()
    assert verification.verdict == "passed"
