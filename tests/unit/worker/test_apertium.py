"""Apertium, where its program is installed."""

import pytest

from stepstream.testing import run_step
from stepstream_worker.engines import apertium
from stepstream_worker.steps import translate
from tests.conftest import missing


@pytest.fixture
def installed() -> None:
    if ("en", "es") not in apertium.pairs():
        missing("apertium with apertium-eng-spa is not installed")


@pytest.mark.usefixtures("installed")
def test_a_document_is_translated_and_its_form_is_kept():
    document = {
        "text": "# The house is red.\n\nThe house of `main` has 3 doors.\n",
        "source_lang": "en",
        "target_lang": "es",
    }

    output = run_step(translate, input=document).output

    assert output["engine"] == "apertium:eng-spa"
    assert output["text"].startswith("# La casa es roja.\n\n")
    assert "`main`" in output["text"]


def test_without_the_program_no_pair_is_served(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    apertium.pairs.cache_clear()

    assert apertium.pairs() == frozenset()
    apertium.pairs.cache_clear()
