"""What an applied transition leaves behind, read back through the port."""

import asyncio
from contextlib import aclosing

import msgspec
import pytest

from stepstream_dispatcher.core.record import Event, Stage
from stepstream_dispatcher.store.port import MINUTE_MS, Signal
from tests.support.tasks_at import advance, carry_out, current, prepared
from tests.support.transitions import DELAY_MS, KINDS, build, lease_token

COUNTS = {  # how the counts differ from those before
    "create": {"pending": 1, "live": 1},
    "lease": {"pending": -1, "translating": 1},
    "adopt": {},
    "complete-next": {"translating": -1, "llm_verification": 1},
    "complete-done": {"translating": -1, "done": 1, "live": -1},
    "fail-delayed": {"retries": 1},
    "fail-dead": {"translating": -1, "failed": 1, "live": -1},
    "due": {},
    "release": {},
    "lost": {},
    "cancel": {"pending": -1, "cancelled": 1, "live": -1},
    "to-review": {"translating": -1, "human_review": 1},
    "review": {"human_review": -1, "done": 1, "live": -1},
    "redrive": {"failed": -1, "translating": 1, "live": 1},
    "touch": {},
}
ENQUEUED = {
    "create": "default",
    "complete-next": "checks",
    "due": "default",
    "release": "default",
    "redrive": "default",
}
SETTLING = ["complete-next", "complete-done", "fail-delayed", "fail-dead", "release", "lost"]


async def difference(store, before):
    after = await store.counts()
    changes = {name: after.get(name, 0) - before.get(name, 0) for name in before | after}
    return {name: change for name, change in changes.items() if change}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_fields_are_set_and_the_others_stay(store, kind):
    before = await prepared(store, kind, "t1")
    transition = build(kind, "t1", before, now_ms=store.now_ms())
    await store.commit([transition], kind="settle")

    after = await current(store, "t1")

    old = msgspec.structs.asdict(before) if before else {}
    unset = {"entry": ""} if kind == "create" else {}
    expected = msgspec.convert(unset | old | transition.fields, type(after))
    if kind in ENQUEUED:
        assert after.entry not in {"", expected.entry}
        expected = msgspec.structs.replace(expected, entry=after.entry)
    assert after == expected


@pytest.mark.parametrize("kind", KINDS)
async def test_the_counts_follow(store, kind):
    await prepared(store, kind, "t1")
    before = await store.counts()

    await carry_out(store, kind, "t1")

    assert await difference(store, before) == COUNTS[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "touch"])
async def test_the_event_is_kept_whole(store, kind):
    record = await prepared(store, kind, "t1")
    version = record.version if record else 0
    transition = build(kind, "t1", record, now_ms=store.now_ms())
    await store.commit([transition], kind="settle")

    assert await store.history("t1", after=version) == [transition.event]
    assert len(await store.history("t1", after=0)) == version + 1


@pytest.mark.parametrize("kind", KINDS)
async def test_the_event_is_published_to_other_dispatchers(store, peer, kind):
    record = await prepared(store, kind, "t1")
    transition = build(kind, "t1", record, now_ms=store.now_ms())

    async with aclosing(peer.signals(events=True)) as signals, asyncio.timeout(5):
        assert (await anext(signals)).kind == "resync"
        await store.commit([transition], kind="settle")
        signal = await anext(signals)

    assert signal == Signal("event", task_id="t1", event=transition.event)


@pytest.mark.parametrize("kind", ENQUEUED)
async def test_the_next_entry_waits_in_its_lane(store, kind):
    await prepared(store, kind, "t1")
    await store.read("default", 100)

    await carry_out(store, kind, "t1")
    (entry,) = await store.read(ENQUEUED[kind], 100)

    after = await current(store, "t1")
    assert (entry.queue, entry.entry_id) == (ENQUEUED[kind], after.entry)
    assert (entry.task_id, entry.step) == ("t1", after.step)


@pytest.mark.parametrize("kind", SETTLING)
async def test_the_settled_entry_is_gone(store, kind):
    await prepared(store, kind, "t1")
    assert len(await store.pending("default", consumer="d1", after="", count=10)) == 1

    await carry_out(store, kind, "t1")

    assert await store.pending("default", consumer="d1", after="", count=10) == []


async def test_an_entry_nobody_took_is_gone_with_its_task(store):
    await advance(store, "t1", "create", "cancel")

    assert await store.read("default", 10) == []


async def test_data_round_trips_every_byte(store):
    await advance(store, "t1", "create", "lease", "complete-next")

    (data,) = await store.data(["t1"])

    assert data == {"input": bytes(range(256)), "output.translate": b"\x00\xff" * 3000}


@pytest.mark.parametrize("kind", ["fail-delayed", "lost"])
async def test_a_delayed_task_is_listed_by_its_due_time(store, kind):
    await prepared(store, kind, "t1")
    before_ms = store.now_ms()

    await carry_out(store, kind, "t1")
    due, next_ms = await store.due(limit=10)

    assert due == []
    assert before_ms + DELAY_MS <= next_ms <= store.now_ms() + DELAY_MS


async def test_a_delay_that_ended_is_off_the_list(store):
    await advance(store, "t1", "create", "lease", "fail-delayed", "due")

    assert await store.due(limit=10) == ([], None)


async def test_a_queued_task_may_have_a_timer_that_is_moved_and_taken_away(store):
    now_ms = store.now_ms()
    creation = build("create", "t1", None, now_ms=now_ms)
    await store.commit([msgspec.structs.replace(creation, due_ms=now_ms + 50_000)], kind="submit")
    assert await store.due(limit=10) == ([], now_ms + 50_000)

    lease = build("lease", "t1", await current(store, "t1"), now_ms=now_ms)
    await store.commit([msgspec.structs.replace(lease, undelay=True)], kind="settle")
    assert await store.due(limit=10) == ([], None)

    release = build("release", "t1", await current(store, "t1"), now_ms=now_ms)
    await store.commit([msgspec.structs.replace(release, due_ms=now_ms)], kind="settle")
    assert await store.due(limit=10) == (["t1"], None)
    assert len(await store.read("default", 10)) == 1


async def test_timers_are_dropped_of_tasks_that_are_gone_alone(backend, store):
    for task_id in ("t1", "t2"):
        await advance(store, task_id, "create", "lease", "fail-delayed")
    await backend.expire("t1")

    assert await store.drop_timers(["t1", "t2", "never"]) == 1

    _, next_ms = await store.due(limit=10)
    assert next_ms is not None
    await carry_out(store, "due", "t2")
    assert await store.due(limit=10) == ([], None)


@pytest.mark.parametrize(
    ("kind", "tally"), [("complete-next", {"processed": "1"}), ("fail-delayed", {"failed": "1"})]
)
async def test_the_worker_is_credited(store, kind, tally):
    await store.save_worker("worker-1", {"sdk": "python"})
    await prepared(store, kind, "t1")

    await carry_out(store, kind, "t1")

    assert await store.workers() == {"worker-1": {"sdk": "python", **tally}}


@pytest.mark.parametrize("kind", ["create", "complete-next", "due", "release"])
async def test_the_id_of_an_added_entry_is_answered(store, kind):
    await prepared(store, kind, "t1")

    result = await carry_out(store, kind, "t1")

    record = await current(store, "t1")
    assert record is not None
    assert result.entry
    assert result.entry == record.entry


async def test_ended_attempts_are_counted_by_the_minute(store):
    minute = store.now_ms() // MINUTE_MS

    for task_id, kind in (("t1", "complete-next"), ("t2", "fail-delayed")):
        await prepared(store, kind, task_id)
        await carry_out(store, kind, task_id)

    minutes = range(minute, store.now_ms() // MINUTE_MS + 1)
    assert sum([await store.ended_in(each) for each in minutes]) == 2
    assert await store.ended_in(minute - 1) == 0


async def test_the_lease_token_is_the_records(store):
    record = await advance(store, "t1", "create", "lease")

    assert (record.lease, record.stage) == (lease_token("t1", 1), Stage.LEASED)


async def test_the_history_keeps_the_last_thousand_events(store):
    record = await advance(store, "t1", "create", "lease")
    for _ in range(4):
        for _ in range(250):
            adoption = build("adopt", "t1", record, now_ms=store.now_ms())
            await store.commit([adoption], kind="settle")
            record = msgspec.structs.replace(record, version=record.version + 1)

    history = await store.history("t1", after=0)

    assert [history[0].sequence, history[-1].sequence, len(history)] == [3, 1002, 1000]


async def test_a_scheduled_task_waits_in_its_state(store):
    now_ms = store.now_ms()
    creation = build("create", "t1", None, now_ms=now_ms)
    scheduled = msgspec.structs.replace(
        creation, enqueue=None, due_ms=now_ms, move=("", "scheduled")
    )
    await store.commit([scheduled], kind="submit")

    assert (await store.waiting("scheduled", cursor="", count=10)).task_ids == ["t1"]
    assert await store.oldest_ms("scheduled") == now_ms
    assert await store.due(limit=10) == (["t1"], None)


async def test_an_event_survives_the_history_whole(store):
    record = await advance(store, "t1", "create")
    event = Event(
        sequence=2,
        at_ms=store.now_ms(),
        type=KINDS["lease"].build(record)["type"],
        state="translating",
        step="翻译",
        attempt=3,
        actor="worker ü",
        detail="x" * 64,
        message="“quoted”\n\x00" + "é" * 200,
        delay_ms=1500,
        progress=0.5,
    )
    lease = build("lease", "t1", record, now_ms=store.now_ms())
    await store.commit([msgspec.structs.replace(lease, event=event)], kind="settle")

    assert await store.history("t1", after=1) == [event]
