"""Pipelines as data: their key, their way into the store and back, and the catalog of versions."""

import pytest

from stepstream_dispatcher.core.pipeline import Catalog, PipelineError, decode, encode
from stepstream_dispatcher.core.pipeline_file import load
from tests.support.records import TRANSLATION, TRANSLATION_TOML


def older(**names: str):
    text = TRANSLATION_TOML
    for new, old in names.items():
        text = text.replace(f'"{new}"', f'"{old}"')
    (pipeline,) = load("p.toml", text)
    return pipeline


def test_key_is_name_and_digest_of_the_definition():
    pipeline = TRANSLATION

    assert pipeline.key == f"translation@{pipeline.version}"
    assert len(pipeline.version) == 8
    assert int(pipeline.version, 16) >= 0


def test_encoded_pipeline_is_decoded_equal():
    assert decode(encode(TRANSLATION)) == TRANSLATION


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"name": 1}', b"\xff"])
def test_decode_refuses_other_bytes(data: bytes):
    with pytest.raises(PipelineError):
        decode(data)


def test_catalog_finds_current_and_older_versions():
    new = TRANSLATION
    old = older(checks="old")
    catalog = Catalog([new])

    catalog.add(old)

    assert catalog.current("translation") == new
    assert catalog.current("nothing") is None
    assert catalog.by_key(old.key) == old
    assert catalog.by_key(new.key) == new
    assert catalog.by_key("translation@00000000") is None
    assert list(catalog) == [new]


def test_older_versions_are_read_from_but_do_not_ask_for_steps_of_a_current_lane():
    old = older(checks="old", translate="draft")
    catalog = Catalog([TRANSLATION])

    catalog.add(old)

    assert catalog.queues() == {"default", "checks", "old"}
    assert catalog.step_types("default") == {"translate"}
    assert catalog.step_types("checks") == {"verify"}
    assert catalog.step_types("old") == {"verify"}
    assert catalog.step_types("nothing") == frozenset()
