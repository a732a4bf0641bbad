"""The documents of the demo: what verification says about each, computed here."""

import tomllib
from pathlib import Path

import pytest

from stepstream_worker.engines import choose
from stepstream_worker.translation import translate_document
from stepstream_worker.verification import Verification, verify_translation

SAMPLES = Path(__file__).parents[3] / "samples"
DOCUMENTS: dict[str, dict[str, str]] = {
    document["file"]: document
    for document in tomllib.loads((SAMPLES / "manifest.toml").read_text(encoding="utf-8"))[
        "document"
    ]
}

EXPECTED = {
    "travel-note.zh-CN.md": "passed",
    "release-notes.zh-CN.md": "passed",
    "customer-letter.zh-CN.txt": "passed",
    "wordlist-essay.zh-CN.md": "rejected",
    "recipe.zh-CN.md": "passed",
    "essay.zh-CN.txt": "passed",
    "meeting-minutes.zh-TW.md": "passed",
    "night-market.zh-TW.txt": "passed",
    "shop-notice.zh-HK.txt": "passed",
}


def verify(file: str) -> Verification:
    document = DOCUMENTS[file]
    source, target = document["from"], document["to"]
    text = (SAMPLES / file).read_text(encoding="utf-8")
    forward, back = choose(source, target), choose(target, source)
    translation = translate_document(text, forward).text
    return verify_translation(text, translation, forward=forward, back=back, target_language=target)


def test_the_manifest_lists_every_sample_once() -> None:
    files = {path.name for path in SAMPLES.iterdir()} - {"manifest.toml"}

    assert set(DOCUMENTS) == files == set(EXPECTED)


def test_samples_have_the_length_of_ordinary_documents() -> None:
    lengths = [len((SAMPLES / file).read_text(encoding="utf-8")) for file in DOCUMENTS]

    assert min(lengths) >= 200
    assert max(lengths) <= 1500


@pytest.mark.parametrize("file", DOCUMENTS)
def test_a_sample_ends_as_expected(file: str) -> None:
    assert verify(file).verdict == EXPECTED[file]


def test_most_samples_pass_and_at_least_one_is_rejected() -> None:
    verdicts = [verify(file).verdict for file in DOCUMENTS]

    assert verdicts.count("rejected") >= 1
    assert verdicts.count("passed") > len(verdicts) / 2


def test_the_rejected_essay_is_rejected_for_what_it_lost() -> None:
    verification = verify("wordlist-essay.zh-CN.md")

    assert [finding.check for finding in verification.findings] == ["score", "back_translation"]
    assert verification.findings[1].line == 5
