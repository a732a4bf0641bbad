"""The life of tasks through real processes: submit, watch, cancel, review, and what Redis keeps."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import msgspec
import pytest

from stepstream.errors import ReviewConflict, RevisionsExhausted, TaskConflict, TaskFinished
from stepstream.types import Task, TaskEvent
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.parallel, pytest.mark.asyncio(loop_scope="session")]

TRANSLATION_STATES = ["pending", "translating", "llm_verification", "human_review"]
LIMIT_S = 10.0
MAX_REVISIONS = 3


def verified(outcome: str) -> dict[str, object]:
    """An input for the pipeline `translation` whose verification ends so."""
    return {"plans": {"translate": [{}], "verify": [{"outcome": outcome}]}}


async def in_review(cluster: Cluster) -> str:
    """A task that waits for a person."""
    client = cluster.client()
    task_id = (await client.submit("translation", verified("rejected"))).task_id
    assert (await client.wait(task_id, timeout_s=LIMIT_S)).state == "human_review"
    return task_id


# --- submit --------------------------------------------------------------------------------------


async def test_the_same_request_id_is_the_same_task(shared: Cluster):
    first = await shared.client("d-0").submit("chain", {"plan": [{}]}, request_id="order-1")
    again = await shared.client("d-1").submit("chain", {"plan": [{}]}, request_id="order-1")

    assert again.task_id == first.task_id
    assert (first.duplicate, again.duplicate) == (False, True)
    await shared.finished([first.task_id])
    assert len(shared.journal.runs(task=first.task_id)) == 3


async def test_the_same_request_id_with_another_input_is_a_conflict(shared: Cluster):
    client = shared.client()
    await client.submit("single", {"plan": [{}]}, request_id="order-2")

    with pytest.raises(TaskConflict):
        await client.submit("single", {"plan": [{"sleep": 0.1}]}, request_id="order-2")


# --- watch ---------------------------------------------------------------------------------------


async def test_a_watch_from_the_beginning_shows_each_event_once(shared: Cluster):
    client = shared.client()
    task_id = (await client.submit("translation", verified("passed"))).task_id

    events = await shared.history(task_id)

    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert (events[0].type, events[-1].type) == ("SUBMITTED", "DONE")
    states = list(dict.fromkeys(event.state for event in events))
    assert states == ["pending", "translating", "llm_verification", "done"]


async def test_many_watchers_of_a_running_task_see_the_same(shared: Cluster):
    task_id = (await shared.client().submit("chain", {"plan": [{"sleep": 0.1}]})).task_id

    async with asyncio.TaskGroup() as group:
        watches = [
            group.create_task(shared.history(task_id, dispatcher))
            for dispatcher in ("d-0", "d-1")
            for _ in range(5)
        ]

    histories = [watch.result() for watch in watches]
    assert all(events == histories[0] for events in histories)
    assert [event.sequence for event in histories[0]] == list(range(1, len(histories[0]) + 1))


async def test_a_watch_after_a_sequence_begins_behind_it(shared: Cluster):
    client = shared.client()
    task_id = (await client.submit("chain", {"plan": [{}]})).task_id
    whole = await shared.history(task_id)

    items = [item async for item in client.watch(task_id, after=2)]

    assert [item for item in items if isinstance(item, TaskEvent)] == whole[2:]


async def test_a_watch_without_a_sequence_begins_with_the_task_as_it_stands(shared: Cluster):
    client = shared.client()
    task_id = (await client.submit("single", {"plan": [{"sleep": 0.5}]})).task_id
    await shared.begun(task_id, "work")

    async with asyncio.timeout(LIMIT_S):
        first, *rest = [item async for item in client.watch(task_id)]

    assert isinstance(first, Task)
    assert first.phase == "RUNNING"
    assert [item.type for item in rest if isinstance(item, TaskEvent)] == ["DONE"]


# --- cancel --------------------------------------------------------------------------------------


async def test_a_cancelled_task_that_was_queued_never_runs(shared: Cluster):
    client = shared.client()
    task_id = (await client.submit("single", {"plan": [{}]}, delay_s=60)).task_id

    task = await client.cancel(task_id, reason="changed my mind")

    assert (task.state, task.phase) == ("cancelled", "CANCELLED")
    assert shared.journal.runs(task=task_id) == []


async def test_a_task_that_is_done_is_not_cancelled(shared: Cluster):
    client = shared.client()
    task_id = (await client.submit("single", {"plan": [{}]})).task_id
    await shared.finished([task_id])

    with pytest.raises(TaskFinished):
        await client.cancel(task_id)


async def test_a_cancelled_task_that_runs_is_stopped(shared: Cluster):
    client = shared.client()
    task_id = (await client.submit("single", {"plan": [{"sleep": 30}]})).task_id
    await shared.begun(task_id, "work")

    answer = await client.cancel(task_id)

    assert answer.cancel_requested
    (task,) = await shared.finished([task_id], timeout_s=5)
    assert task.state == "cancelled"
    await shared.news.until(lambda: shared.journal.runs(task=task_id)[0].ended_mono, timeout_s=5)
    assert [run.how for run in shared.journal.runs(task=task_id)] == ["CancelledError"]


async def test_a_cancelled_task_in_review_is_cancelled_at_once(shared: Cluster):
    client = shared.client()
    task_id = await in_review(shared)

    assert (await client.cancel(task_id)).state == "cancelled"

    with pytest.raises(ReviewConflict):
        await client.review(task_id, "approved", reviewer="ada")


# --- review --------------------------------------------------------------------------------------


async def test_what_fails_verification_waits_for_a_person_and_holds_no_slot(shared: Cluster):
    task_id = await in_review(shared)

    task = await shared.client().get(task_id)

    assert (task.phase, task.worker, task.step) == ("WAITING_FOR_REVIEW", "", "review")
    states = list(dict.fromkeys(event.state for event in await events_so_far(shared, task_id)))
    assert states == TRANSLATION_STATES
    await shared.client().cancel(task_id)


async def test_an_approved_task_is_done_with_the_machines_result(shared: Cluster):
    client = shared.client()
    task_id = await in_review(shared)

    task = await client.review(task_id, "approved", reviewer="ada")

    assert (task.state, task.reviewer) == ("done", "ada")
    assert isinstance(task.result, dict) or (await client.get(task_id)).result
    result = (await client.get(task_id)).result
    assert isinstance(result, dict)
    assert result["step"] == "translate"


async def test_an_edited_task_is_done_with_the_persons_result(shared: Cluster):
    client = shared.client("d-1")
    task_id = await in_review(shared)

    await client.review(task_id, "edited", reviewer="ada", output={"text": "better"})

    task = await client.get(task_id)
    assert (task.state, task.result) == ("done", {"text": "better"})


async def test_a_rejected_task_is_translated_again_with_the_feedback(shared: Cluster):
    client = shared.client()
    task_id = await in_review(shared)

    await client.review(task_id, "rejected", reviewer="ada", feedback="mind the tone")
    task = await client.wait(task_id, timeout_s=LIMIT_S)

    assert (task.state, task.revisions) == ("human_review", 1)
    outputs = (await client.get(task_id)).outputs
    assert isinstance(outputs["translate"], dict)
    assert outputs["translate"]["feedback"] == "mind the tone"
    await client.cancel(task_id)


async def test_a_task_is_sent_back_at_most_max_revisions_times(shared: Cluster):
    client = shared.client()
    task_id = await in_review(shared)
    for _ in range(MAX_REVISIONS):
        await client.review(task_id, "rejected", reviewer="ada", feedback="again")
        assert (await client.wait(task_id, timeout_s=LIMIT_S)).state == "human_review"

    with pytest.raises(RevisionsExhausted):
        await client.review(task_id, "rejected", reviewer="ada", feedback="again")

    task = await client.get(task_id)
    assert (task.state, task.revisions) == ("human_review", MAX_REVISIONS)
    assert (await client.review(task_id, "approved", reviewer="ada")).state == "done"


async def test_of_two_reviewers_at_two_dispatchers_one_wins(shared: Cluster):
    task_id = await in_review(shared)
    seen = (await shared.client().get(task_id)).version

    async with asyncio.TaskGroup() as group:
        decisions = [
            group.create_task(decide(shared, dispatcher, task_id, name, seen))
            for dispatcher, name in (("d-0", "ada"), ("d-1", "bob"))
        ]

    outcomes = {decision.result() for decision in decisions}
    winner = (await shared.client().get(task_id)).reviewer
    assert outcomes == {winner, "conflict"}


async def decide(cluster: Cluster, dispatcher: str, task_id: str, name: str, seen: int) -> str:
    """Who has decided, or `conflict`."""
    client = cluster.client(dispatcher)
    try:
        return (await client.review(task_id, "approved", reviewer=name, version=seen)).reviewer
    except ReviewConflict:
        return "conflict"


async def events_so_far(cluster: Cluster, task_id: str) -> list[TaskEvent]:
    """The events up to the task's present version."""
    version = (await cluster.client().get(task_id)).version
    events: list[TaskEvent] = []
    async with aclosing(cluster.client().watch(task_id, after=0)) as watch:
        async for item in watch:
            if isinstance(item, TaskEvent):
                events.append(item)
            if events and events[-1].sequence >= version:
                break
    return events


# --- Redis ---------------------------------------------------------------------------------------


async def test_the_lanes_are_empty_when_idle(shared: Cluster):
    ids = [(await shared.client().submit("translation", verified("passed"))).task_id for _ in "abc"]
    await shared.finished(ids)

    async with shared.redis() as redis:
        groups = await redis.xinfo_groups("task:stream")
        assert [group["name"] for group in groups] == ["task:processors"]
        assert [group["pending"] for group in groups] == [0]
        assert await redis.xlen("task:stream") == 0
        assert await redis.xlen("task:stream:work") == 0


async def test_events_are_published_as_json(shared: Cluster):
    async with shared.redis() as redis, redis.pubsub() as channel:
        await channel.subscribe("task:events")
        assert (await channel.get_message(timeout=5))["type"] == "subscribe"
        task_id = (await shared.client().submit("chain", {"plan": [{}]})).task_id
        history = await shared.history(task_id)

        heard: list[dict[str, object]] = []
        while len(heard) < len(history):
            message = await channel.get_message(timeout=5)
            assert message is not None, f"heard only {heard}"
            event = json.loads(message["data"])
            if event["task_id"] == task_id:
                heard.append(event)

    assert [(one["sequence"], one["type"]) for one in heard] == [
        (event.sequence, event.type) for event in history
    ]


async def test_a_record_can_be_read_with_any_client(shared: Cluster):
    task_id = (await shared.client().submit("chain", {"plan": [{}]})).task_id
    (task,) = await shared.finished([task_id])

    async with shared.redis() as redis:
        record = await redis.hgetall(f"task:record:{task_id}")
        assert (record["state"], record["version"]) == ("done", str(task.version))
        assert record["pipeline"].startswith("chain@")
        assert max(map(len, record.values())) <= 64
        assert await redis.object("encoding", f"task:record:{task_id}") == "listpack"
        assert await redis.ttl(f"task:record:{task_id}") > 0


async def test_the_totals_are_the_sums_of_the_workers(shared: Cluster):
    stats = await shared.client().stats()

    for field in ("processed", "failed", "current_tasks"):
        summed = sum(getattr(worker, field) for worker in stats.workers.values())
        assert getattr(stats.totals, field) == summed
    assert msgspec.to_builtins(stats.queue)["translating"] == 0
