"""The limit that Redis sets: the transitions that tasks need, sent straight from the store layer.

No gRPC, no engine. The transitions are built by the core between the timed calls, so that what is
timed is packing them, sending them and Redis carrying them out: 256 a call, two calls in flight, as
the dispatcher's committer sends them at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import msgspec

from bench.load import PAYLOAD
from bench.stage import Stage
from bench.system import PIPELINES
from stepstream.v1 import task_pb2
from stepstream_dispatcher.core.admission import Submission, creation
from stepstream_dispatcher.core.decision import Circumstances, Refusal
from stepstream_dispatcher.core.facts import Completed, Fact, Leased
from stepstream_dispatcher.core.lifecycle import decide
from stepstream_dispatcher.core.pipeline import DEFAULT_OUTCOME, Pipeline
from stepstream_dispatcher.core.record import TaskRecord, Transition, after
from stepstream_dispatcher.engine.identity import OperationIds, new_task_id, new_tokens
from stepstream_dispatcher.pipelines import read_pipelines
from stepstream_dispatcher.store.port import CommitKind, Result, Verdict
from stepstream_dispatcher.store.redis import RedisStore

__all__ = ["Costs", "Limit", "limited"]

CALL_TRANSITIONS: Final = 256
CALLS_IN_FLIGHT: Final = 2
RETAIN_S: Final = 86_400
LIVE_MAX: Final = 1_000_000
OWNER: Final = "limit"
PREFIX: Final = "limit:"  # keeps its tasks from the dispatcher that shares the server
INPUT: Final = task_pb2.Payload(data=PAYLOAD).SerializeToString()


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What straight commits took."""

    took_s: float  # of all calls, without what is between them
    submit_us: float  # Redis, in the script, for each creation
    step_us: float  # Redis, in the script, for each step: its lease and its completion together


Tasks: TypeAlias = list[tuple[str, TaskRecord]]


class Limit:
    """Carries tasks through their pipelines by commits alone.

    Args:
        store: Open, with the lanes of the pipelines.
        stage: Whose Redis it is.
    """

    def __init__(self, store: RedisStore, stage: Stage) -> None:
        self._store = store
        self._stage = stage
        self._pipelines = {one.name: one for one in read_pipelines([PIPELINES])}
        self._new_op_id = OperationIds().next

    async def drive(self, pipeline: str, amount: int) -> Costs:
        """Create tasks, then lease and complete each of their steps, all tasks side by side."""
        steps = self._pipelines[pipeline]
        before_us = await self._stage.script_us()
        took_s, tasks = await self._create(steps, amount)
        created_us = await self._stage.script_us()
        for _ in steps.steps:
            for facts in (_leases, _completions):
                seconds, tasks = await self._move(steps, tasks, facts(tasks))
                took_s += seconds
        settled_us = await self._stage.script_us()
        return Costs(
            took_s=took_s,
            submit_us=(created_us - before_us) / amount,
            step_us=(settled_us - created_us) / (amount * len(steps.steps)),
        )

    async def _create(self, pipeline: Pipeline, amount: int) -> tuple[float, Tasks]:
        submission = Submission(pipeline=pipeline.name, input=INPUT)
        transitions = [
            creation(
                submission,
                pipeline,
                task_id=new_task_id(),
                op_id=self._new_op_id(),
                now_ms=self._store.now_ms(),
            )
            for _ in range(amount)
        ]
        took_s, results = await self._commit(transitions, "submit")
        records = [
            msgspec.convert({**one.fields, "entry": result.entry}, TaskRecord, strict=False)
            for one, result in zip(transitions, results, strict=True)
        ]
        return took_s, [
            (one.task_id, record) for one, record in zip(transitions, records, strict=True)
        ]

    async def _move(
        self, pipeline: Pipeline, tasks: Tasks, facts: Sequence[Fact]
    ) -> tuple[float, Tasks]:
        transitions = [
            self._decide(pipeline, task_id, record, fact)
            for (task_id, record), fact in zip(tasks, facts, strict=True)
        ]
        took_s, results = await self._commit(transitions, "settle")
        return took_s, [
            (task_id, _moved(record, transition, result))
            for (task_id, record), transition, result in zip(
                tasks, transitions, results, strict=True
            )
        ]

    def _decide(
        self, pipeline: Pipeline, task_id: str, record: TaskRecord, fact: Fact
    ) -> Transition:
        at = Circumstances(
            task_id=task_id,
            pipeline=pipeline,
            now_ms=self._store.now_ms(),
            rand=0.5,
            op_id=self._new_op_id(),
            retain_s=RETAIN_S,
        )
        decision = decide(record, fact, at)
        assert not isinstance(decision, Refusal)
        return decision

    async def _commit(
        self, transitions: Sequence[Transition], kind: CommitKind
    ) -> tuple[float, list[Result]]:
        """Send all of them; the seconds are from the first call to the last answer."""
        starts = range(0, len(transitions), CALL_TRANSITIONS)
        waiting = iter(starts)
        answers: dict[int, list[Result]] = {}

        async def send() -> None:
            for start in waiting:
                part = transitions[start : start + CALL_TRANSITIONS]
                answers[start] = await self._store.commit(part, kind=kind, live_max=LIVE_MAX)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS_IN_FLIGHT):
                group.create_task(send())
        took_s = time.perf_counter() - began
        results = [result for start in starts for result in answers[start]]
        assert all(result.verdict is Verdict.APPLIED for result in results)
        return took_s, results


@asynccontextmanager
async def limited(stage: Stage) -> AsyncIterator[Limit]:
    """Open the dispatcher's store layer on the Redis of a stage, under a prefix of its own."""
    assert stage.system.valkey is not None
    store = RedisStore(stage.system.valkey.url, dispatcher_id=OWNER, prefix=PREFIX)
    await store.open()
    try:
        await store.ensure_lanes(["bench"])
        yield Limit(store, stage)
    finally:
        await store.close()


def _leases(tasks: Tasks) -> list[Fact]:
    tokens = new_tokens(len(tasks))
    return [
        Leased(entry=record.entry, token=token, owner=OWNER, worker=OWNER)
        for (_, record), token in zip(tasks, tokens, strict=True)
    ]


def _completions(tasks: Tasks) -> list[Fact]:
    return [
        Completed(token=record.lease, outcome=DEFAULT_OUTCOME, output=b"") for _, record in tasks
    ]


def _moved(record: TaskRecord, transition: Transition, result: Result) -> TaskRecord:
    moved = after(record, transition)
    return msgspec.structs.replace(moved, entry=result.entry) if result.entry else moved
