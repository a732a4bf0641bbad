"""Tasks brought to where a test of a store needs them, through the port alone."""

from typing import Any

from stepstream_dispatcher.core.record import TaskRecord
from stepstream_dispatcher.store.port import Result, Store, Verdict
from tests.support.transitions import KINDS, build

__all__ = ["advance", "carry_out", "current", "prepared", "seen"]


async def carry_out(store: Store, kind: str, task_id: str, **options: Any) -> Result:
    """Commit the transition of a kind that follows the task's record."""
    record = await current(store, task_id)
    transition = build(kind, task_id, record, now_ms=store.now_ms(), **options)
    (result,) = await store.commit([transition], kind="submit" if kind == "create" else "settle")
    return result


async def advance(store: Store, task_id: str, *kinds: str) -> TaskRecord | None:
    """Carry out transitions of several kinds, reading the task's entry before a lease."""
    for kind in kinds:
        if kind == "lease":
            await store.read("default", 100)
        result = await carry_out(store, kind, task_id)
        assert result.verdict is Verdict.APPLIED, (kind, result)
    return await current(store, task_id)


async def prepared(store: Store, kind: str, task_id: str) -> TaskRecord | None:
    """Bring a new task to where a transition of the kind can follow."""
    return await advance(store, task_id, *KINDS[kind].before)


async def current(store: Store, task_id: str) -> TaskRecord | None:
    """The task's record."""
    (record,) = await store.records([task_id])
    return record


async def seen(store: Store, task_id: str) -> dict[str, Any]:
    """All that the port shows of a task and of the whole store, to tell whether it changed."""
    return {
        "record": await current(store, task_id),
        "data": await store.data([task_id]),
        "history": await store.history(task_id, after=0),
        "counts": await store.counts(),
        "index": await store.index(cursor="", count=10),
        "due": (await store.due(limit=10)),
        "workers": await store.workers(),
        "waiting": [
            await store.waiting(state, cursor="", count=10)
            for state in ("scheduled", "human_review", "failed")
        ],
        "pending": [
            await store.pending(queue, consumer="d1", after="", count=10)
            for queue in ("default", "checks")
        ],
    }
