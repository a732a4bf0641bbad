"""Every kind of transition against every verdict; a refusal changes nothing."""

import msgspec
import pytest

from stepstream_dispatcher.store.port import Verdict
from tests.support.tasks_at import advance, carry_out, current, prepared, seen
from tests.support.transitions import KINDS, build

VERSIONED = [kind for kind in KINDS if kind != "touch"]
EXISTING = [kind for kind in KINDS if kind != "create"]
LEASED = ["adopt", "complete-next", "complete-done", "fail-delayed", "fail-dead", "release", "lost"]
LEASED += ["to-review", "touch"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_transition_that_fits_is_applied(store, kind):
    await prepared(store, kind, "t1")

    result = await carry_out(store, kind, "t1")

    assert result.verdict is Verdict.APPLIED
    assert result.record is None


@pytest.mark.parametrize("kind", VERSIONED)
async def test_a_transition_sent_again_is_a_duplicate(store, kind):
    record = await prepared(store, kind, "t1")
    transition = build(kind, "t1", record, now_ms=store.now_ms())
    await store.commit([transition], kind="settle")
    before = await seen(store, "t1")

    (result,) = await store.commit([transition], kind="settle")

    assert result.verdict is Verdict.DUPLICATE
    assert result.record == (await current(store, "t1") if kind == "create" else None)
    assert await seen(store, "t1") == before


@pytest.mark.parametrize("kind", ["complete-next", "fail-delayed"])
async def test_a_settlement_by_the_same_lease_is_a_duplicate_under_any_operation_id(store, kind):
    record = await prepared(store, kind, "t1")
    first = build(kind, "t1", record, now_ms=store.now_ms(), op_id="report-1")
    again = msgspec.structs.replace(first, op_id="report-2")
    await store.commit([first], kind="settle")

    (result,) = await store.commit([again], kind="settle")

    assert result.verdict is Verdict.DUPLICATE


async def test_an_operation_id_is_remembered_for_eight_transitions(store):
    record = await advance(store, "t1", "create", "lease")
    first = build("adopt", "t1", record, now_ms=store.now_ms(), op_id="adopt-01")
    await store.commit([first], kind="settle")
    for _ in range(7):
        await advance(store, "t1", "adopt")

    (remembered,) = await store.commit([first], kind="settle")
    await advance(store, "t1", "adopt")
    (forgotten,) = await store.commit([first], kind="settle")

    assert remembered.verdict is Verdict.DUPLICATE
    assert forgotten.verdict is Verdict.VERSION_CONFLICT


async def test_an_operation_id_across_two_others_is_none(store):
    await carry_out(store, "create", "t1", op_id="aaaabbbb")
    await carry_out(store, "lease", "t1", op_id="ccccdddd")

    result = await carry_out(store, "adopt", "t1", op_id="bbbbcccc")

    assert result.verdict is Verdict.APPLIED


@pytest.mark.parametrize("kind", VERSIONED)
async def test_another_version_is_a_conflict_that_brings_the_record(store, kind):
    record = await prepared(store, kind, "t1")
    transition = build(kind, "t1", record, now_ms=store.now_ms(), op_id="too-late")
    if kind == "create":
        await advance(store, "t1", "create")
    else:
        transition = msgspec.structs.replace(transition, expected_version=77)
    before = await seen(store, "t1")

    (result,) = await store.commit([transition], kind="settle")

    assert result.verdict is Verdict.VERSION_CONFLICT
    assert result.record == before["record"]
    assert await seen(store, "t1") == before


@pytest.mark.parametrize("kind", LEASED)
async def test_another_lease_is_stale_whatever_the_version(store, kind):
    record = await prepared(store, kind, "t1")
    transition = build(kind, "t1", record, now_ms=store.now_ms())
    stale = msgspec.structs.replace(transition, lease="lease-of-another", expected_version=77)
    before = await seen(store, "t1")

    (result,) = await store.commit([stale], kind="settle")

    assert result.verdict is Verdict.STALE_LEASE
    assert await seen(store, "t1") == before


@pytest.mark.parametrize("kind", EXISTING)
async def test_a_task_that_does_not_exist_is_not_found(store, kind):
    record = await prepared(store, kind, "t1")
    transition = build(kind, "t1", record, now_ms=store.now_ms())
    absent = msgspec.structs.replace(transition, task_id="t2")
    before = await seen(store, "t2")

    (result,) = await store.commit([absent], kind="settle")

    assert result.verdict is Verdict.NOT_FOUND
    assert await seen(store, "t2") == before


async def test_creations_are_refused_beyond_the_limit_of_live_tasks(store):
    now_ms = store.now_ms()
    creations = [build("create", task_id, None, now_ms=now_ms) for task_id in ("t1", "t2", "t3")]

    results = await store.commit(creations, kind="submit", live_max=2)

    assert [each.verdict for each in results] == ["APPLIED", "APPLIED", "FULL"]
    assert await current(store, "t3") is None
    assert (await store.counts())["live"] == 2


async def test_a_known_task_is_a_duplicate_even_when_there_is_no_room(store):
    creation = build("create", "t1", None, now_ms=store.now_ms())
    await store.commit([creation], kind="submit", live_max=1)

    (result,) = await store.commit([creation], kind="submit", live_max=1)

    assert result.verdict is Verdict.DUPLICATE


async def test_an_ended_task_makes_room(store):
    await advance(store, "t1", "create", "cancel")
    creation = build("create", "t2", None, now_ms=store.now_ms())

    (result,) = await store.commit([creation], kind="submit", live_max=1)

    assert result.verdict is Verdict.APPLIED


async def test_each_transition_of_a_call_stands_alone(store):
    now_ms = store.now_ms()
    record = await advance(store, "t1", "create", "lease")
    good = build("complete-next", "t1", record, now_ms=now_ms)
    absent = msgspec.structs.replace(good, task_id="t2")
    creation = build("create", "t3", None, now_ms=now_ms)

    results = await store.commit([absent, good, creation], kind="settle")

    assert [each.verdict for each in results] == ["NOT_FOUND", "APPLIED", "APPLIED"]


async def test_progress_neither_needs_nor_raises_the_version(store):
    record = await advance(store, "t1", "create", "lease")
    touch = build("touch", "t1", record, now_ms=store.now_ms())
    await advance(store, "t1", "adopt")

    (result,) = await store.commit([touch], kind="settle")
    after = await current(store, "t1")

    assert result.verdict is Verdict.APPLIED
    assert (after.version, after.progress, after.note) == (3, 0.25, "a quarter — ¼")
    assert len(await store.history("t1", after=0)) == 3
