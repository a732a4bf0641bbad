"""What is not kept of a task that was only created: its history is told by its record."""

from typing import Any

import msgspec
import pytest

from stepstream_dispatcher.store.codec import encode_event
from stepstream_dispatcher.store.port import Verdict
from stepstream_dispatcher.store.redis_link import Command, Link
from tests.support.tasks_at import advance, carry_out, current
from tests.support.transitions import build


async def kept(redis, task_id: str) -> int:
    return int(await redis.client.llen(redis.keys.history(task_id)))


async def created(store, task_id: str, **words: Any):
    """Create a task whose event says this besides; returns the event."""
    transition = build("create", task_id, None, now_ms=store.now_ms())
    event = msgspec.structs.replace(transition.event, **words)
    transition = msgspec.structs.replace(transition, event=event)
    (result,) = await store.commit([transition], kind="submit")
    assert result.verdict is Verdict.APPLIED
    return event


async def test_a_new_task_tells_its_event_without_a_history(redis, redis_store):
    event = await created(redis_store, "t1")

    assert await kept(redis, "t1") == 0
    assert await redis_store.history("t1", after=0) == [event]
    assert await redis_store.history("t1", after=1) == []


@pytest.mark.parametrize("words", [{"actor": "somebody"}, {"message": "why"}, {"delay_ms": 1}])
async def test_an_event_that_says_more_is_kept(redis, redis_store, words):
    event = await created(redis_store, "t1", **words)

    assert await kept(redis, "t1") == 1
    assert await redis_store.history("t1", after=0) == [event]
    await advance(redis_store, "t1", "lease")
    assert (await redis_store.history("t1", after=0))[0] == event
    assert await kept(redis, "t1") == 2


@pytest.mark.parametrize("kind", ["lease", "cancel"])
async def test_what_happens_next_keeps_both(redis, redis_store, kind):
    event = await created(redis_store, "t1")

    await advance(redis_store, "t1", kind)

    assert await kept(redis, "t1") == 2
    history = await redis_store.history("t1", after=0)
    assert history[0] == event
    assert [one.sequence for one in history] == [1, 2]


async def test_an_event_that_was_kept_is_kept_once(redis, redis_store):
    """As dispatchers have written it that are older than this."""
    event = await created(redis_store, "t1")
    await redis.client.rpush(redis.keys.history("t1"), encode_event(event))

    await advance(redis_store, "t1", "lease")

    assert [one.sequence for one in await redis_store.history("t1", after=0)] == [1, 2]


async def test_progress_at_a_new_task_keeps_nothing(redis, redis_store):
    await advance(redis_store, "t1", "create", "lease")
    await carry_out(redis_store, "touch", "t1")

    assert await kept(redis, "t1") == 2


async def test_a_task_that_moves_while_it_is_read_has_both_events(
    redis_store, monkeypatch: pytest.MonkeyPatch
):
    await created(redis_store, "t1")
    ask = Link.ask

    async def interrupted(link: Link, *commands: Command) -> list[Any]:
        first = await ask(link, commands[0])
        monkeypatch.setattr(Link, "ask", ask)
        await advance(redis_store, "t1", "lease")
        return first + await ask(link, *commands[1:])

    monkeypatch.setattr(Link, "ask", interrupted)

    assert [one.sequence for one in await redis_store.history("t1", after=0)] == [1, 2]


@pytest.mark.parametrize("lost", ["created_ms", "state", "step"])
async def test_a_record_that_lost_what_it_tells_keeps_what_happens_next(redis, redis_store, lost):
    await created(redis_store, "t1")
    record = await current(redis_store, "t1")
    await redis.client.hdel(redis.keys.record("t1"), lost)

    cancelled = build("cancel", "t1", record, now_ms=redis_store.now_ms())
    await redis_store.commit([cancelled], kind="settle")

    assert await redis_store.history("t1", after=0) == [cancelled.event]


async def test_a_new_life_has_no_data_of_one_whose_record_was_lost(redis, redis_store):
    labelled = build("create", "t1", None, now_ms=redis_store.now_ms())
    data = {**labelled.data, "labels": b"old"}
    await redis_store.commit([msgspec.structs.replace(labelled, data=data)], kind="submit")
    await redis.client.delete(redis.keys.record("t1"))

    await created(redis_store, "t1")

    assert [set(one) for one in await redis_store.data(["t1"])] == [{"input"}]


async def test_the_history_of_a_task_that_lost_it_is_empty(redis, redis_store):
    record = await advance(redis_store, "t1", "create", "lease")
    await redis.client.delete(redis.keys.history("t1"))

    assert await redis_store.history("t1", after=0) == []
    assert await current(redis_store, "t1") == record
