"""Random histories give the same verdicts and the same tasks on both stores."""

import asyncio
import uuid
from contextlib import AsyncExitStack

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stores import LocalBackend, RedisBackend, opened
from tests.support.tasks_at import current
from tests.support.transitions import KINDS, build

NOW_MS = 1_800_000_000_000
TASKS = ("t1", "t2")
FITTING = {  # what can follow, by what the record says
    "queued": ["lease", "lease", "cancel"],
    "leased": [kind for kind, each in KINDS.items() if each.before == ("create", "lease")],
    "delayed": ["due"],
    "waiting": ["review"],
    "ended": ["create"],
    "failed": ["redrive", "create"],
}

steps = st.lists(
    st.tuples(
        st.sampled_from(TASKS),
        st.integers(min_value=0, max_value=99),  # which of those that can follow
        st.sampled_from(["fits", "fits", "fits", "again", "old version", "other lease", "read"]),
    ),
    min_size=1,
    max_size=25,
)


class Replay:
    """One store, and the transitions that were sent to it."""

    def __init__(self, store):
        self.store = store
        self.sent = {}

    async def step(self, number, task_id, choice, twist):
        """Carry out a step; returns what came of it, without what may differ."""
        if twist == "read":
            return [entry.task_id for entry in await self.store.read("default", 2)]
        record = await current(self.store, task_id)
        if twist == "again" and task_id in self.sent:
            transition = self.sent[task_id]
        else:
            kind = fitting(record, choice)
            before = record if kind != "create" else None
            transition = build(kind, task_id, before, now_ms=NOW_MS, op_id=f"op{number:06d}")
        if twist == "old version" and transition.expected_version:
            transition = msgspec.structs.replace(transition, expected_version=1)
        if twist == "other lease" and transition.lease:
            transition = msgspec.structs.replace(transition, lease="lease-of-another")
        self.sent[task_id] = transition
        (result,) = await self.store.commit([transition], kind="settle", live_max=1)
        return result.verdict, alike(result.record)

    async def outcome(self):
        """Everything that both stores must show alike in the end."""
        store = self.store
        return {
            "records": [alike(record) for record in await store.records(TASKS)],
            "data": await store.data(TASKS),
            "history": [await store.history(task_id, after=0) for task_id in TASKS],
            "counts": await store.counts(),
            "index": await store.index(cursor="", count=10),
            "waiting": [
                await store.waiting(state, cursor="", count=10)
                for state in ("scheduled", "human_review", "failed")
            ],
            "pending": [
                (entry.task_id, entry.step)
                for queue in ("default", "checks")
                for entry in await store.pending(queue, consumer="d1", after="", count=99)
            ],
            "left": [
                (entry.task_id, entry.step)
                for queue in ("default", "checks")
                for entry in await store.read(queue, 99)
            ],
            "workers": await store.workers(),
            "delayed": sorted((await store.due(limit=10))[0]),
        }


def fitting(record, choice):
    """One of the kinds that can follow a record."""
    if record is None:
        return "create"
    kinds = FITTING["failed" if record.state == "failed" else record.stage.value]
    return kinds[choice % len(kinds)]


def alike(record):
    """A record whose entry id says only whether there is one."""
    return record and msgspec.structs.replace(record, entry="an entry" if record.entry else "")


async def compare(redis_url, history):
    async with AsyncExitStack() as stack:
        redis = RedisBackend(redis_url, f"test-{uuid.uuid4().hex[:12]}:")
        local = LocalBackend()
        local.clock_ms = NOW_MS
        stack.push_async_callback(redis.close)
        stack.push_async_callback(local.close)
        replays = [Replay(await opened(stack, each.make("d1"))) for each in (redis, local)]
        for replay in replays:
            await replay.store.ensure_lanes(["default", "checks"])
            await replay.store.save_worker("worker-1", {"sdk": "python"})
        for number, step in enumerate(history):
            on_redis, on_local = [await replay.step(number, *step) for replay in replays]
            assert on_redis == on_local, step
        on_redis, on_local = [await replay.outcome() for replay in replays]
        assert on_redis == on_local


@settings(max_examples=60)
@given(history=steps)
def test_both_stores_tell_the_same_story(redis_url, history):
    asyncio.run(compare(redis_url, history))
