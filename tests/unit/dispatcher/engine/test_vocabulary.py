"""Names that callers may use, and what is done before one is refused."""

import msgspec
import pytest

from stepstream.errors import InvalidTask
from stepstream_dispatcher.core.pipeline import Catalog
from stepstream_dispatcher.engine.vocabulary import Vocabulary
from tests.support.records import APPROVAL, TRANSLATION


def vocabulary(*stored: object) -> Vocabulary:
    """Of a dispatcher that has one pipeline, beside a store that has others."""
    catalog = Catalog([TRANSLATION])

    async def learn() -> None:
        for pipeline in stored:
            catalog.add(pipeline)  # type: ignore[arg-type]

    return Vocabulary(catalog, learn=learn)


@pytest.mark.parametrize("state", ["pending", "scheduled", "done", "failed", "cancelled", ""])
async def test_fixed_states_are_known(state: str):
    await vocabulary().check_states([state], "state")


async def test_states_of_a_pipeline_are_known():
    await vocabulary().check_states(["translating", "human_review"], "states")


async def test_unknown_state_is_refused_by_its_field():
    with pytest.raises(InvalidTask, match="'asking'") as caught:
        await vocabulary().check_states(["done", "asking"], "states")

    assert caught.value.field == "states"


async def test_what_another_dispatcher_has_stored_is_learnt_first():
    known = vocabulary(APPROVAL)

    await known.check_states(["asking"], "state")
    await known.check_pipeline("approval")

    assert await known.has_queue("approval")


async def test_states_of_an_older_version_stay_known():
    older = msgspec.structs.replace(APPROVAL, name="translation", version="0")

    await vocabulary(older).check_states(["asking"], "state")


async def test_unknown_pipeline_is_refused():
    with pytest.raises(InvalidTask, match="'nothing'"):
        await vocabulary(APPROVAL).check_pipeline("nothing")


async def test_unknown_queue_is_none():
    assert not await vocabulary().has_queue("approval")
