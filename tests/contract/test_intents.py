"""What operators want of all dispatchers: stored once, read by every one of them."""

import msgspec

from stepstream_dispatcher.store.port import Intents
from tests.support.transitions import build

NOTHING = Intents(paused={}, draining=frozenset())


async def test_a_new_store_wants_nothing(store):
    assert await store.intents() == NOTHING


async def test_a_paused_queue_is_read_by_every_dispatcher(store, peer):
    before_ms = store.now_ms()

    await store.pause("checks")

    paused = (await peer.intents()).paused
    assert paused.keys() == {"checks"}
    assert 0 <= paused["checks"] - before_ms < 10_000


async def test_pausing_again_keeps_the_first_time(store, peer):
    await store.pause("checks")
    first = await store.intents()

    await peer.pause("checks")

    assert await store.intents() == first


async def test_resumed_queue_is_paused_no_more_and_others_stay(store, peer):
    await store.pause("checks")
    await store.pause("default")

    await peer.resume("checks")
    await peer.resume("checks")

    assert (await store.intents()).paused.keys() == {"default"}


async def test_dismissed_instance_is_known_until_it_has_left(store, peer):
    await store.dismiss("i-1")
    await peer.dismiss("i-1")
    await store.dismiss("i-2")
    told = (await peer.intents()).draining

    await peer.save_worker("w-1", {"dispatcher": "d2", "instance": "i-1", "draining": 1})
    await peer.mark_left(["w-1"])
    await peer.mark_left(["w-1"])

    assert told == {"i-1", "i-2"}
    assert (await store.intents()).draining == {"i-2"}


async def test_instance_that_moved_is_still_to_leave(store, peer):
    await store.dismiss("i-1")
    await peer.save_worker("w-1", {"dispatcher": "d2", "instance": "i-1", "draining": 1})

    await store.mark_left(["w-1"])

    assert (await store.intents()).draining == {"i-1"}


async def test_intents_change_no_task(store):
    await store.commit([build("create", "t1", None, now_ms=store.now_ms())], kind="submit")
    before = await store.records(["t1"])

    await store.pause("default")
    await store.dismiss("i-1")

    assert await store.records(["t1"]) == before
    assert len(await store.read("default", 1)) == 1  # obeying is the engine's part


async def test_labels_are_read_without_the_rest_of_the_data(store):
    creation = build("create", "t1", None, now_ms=store.now_ms())
    labelled = msgspec.structs.replace(creation, data={**creation.data, "labels": b'{"a":"1"}'})
    await store.commit([labelled], kind="submit")
    await store.commit([build("create", "t2", None, now_ms=store.now_ms())], kind="submit")

    assert await store.labels(["t2", "nobody", "t1"]) == [b"", b"", b'{"a":"1"}']
    assert await store.labels([]) == []
