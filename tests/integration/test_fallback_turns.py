"""The turns: Redis goes, comes back, comes back empty, and dispatchers die meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import httpx
import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from stepstream.types import Gap, Submitted, Task, TaskEvent
from tests.support.cluster import Cluster, running_cluster
from tests.support.pace import before_the_next_look
from tests.support.recount import recount

pytestmark = [pytest.mark.parallel, pytest.mark.slow]

TURN_S = 2.0
LIMIT_S = 20.0
QUICK = {"plan": [{}]}
REJECTED = {"plans": {"translate": [{}], "verify": [{"outcome": "rejected"}]}}


async def down(cluster: Cluster, *dispatchers: str) -> None:
    """Stop Redis, and wait until the dispatchers have turned."""
    assert cluster.redis_process is not None
    seen = {name: len(cluster.dispatchers[name].child.lines) for name in dispatchers or ("d-0",)}
    await cluster.terminate(cluster.redis_process)
    for name, after in seen.items():
        await cluster.dispatchers[name].child.line("redis is down", after=after)


async def imported(cluster: Cluster, task_id: str, dispatcher: str = "d-0") -> str:
    """Wait until a task was imported; returns what became of it."""
    line = await cluster.dispatchers[dispatcher].child.line("task imported", task_id)
    return line.partition('"result": "')[2].partition('"')[0]


async def running(cluster: Cluster, submit: asyncio.Task[Submitted], step: str) -> str:
    """Wait until the one task whose `step` has begun; returns its id."""

    def began() -> str | None:
        assert not submit.done(), "it was answered before it ran"
        return next((run.task for run in cluster.journal.runs(step=step)), None)

    return await cluster.news.until(began, timeout_s=LIMIT_S)


async def mode_seen(cluster: Cluster, mode: str) -> float:
    """Poll readiness and statistics until both show a mode; returns when they did."""
    client = cluster.client()
    address = cluster.dispatchers["d-0"].http_address
    async with httpx.AsyncClient(base_url=f"http://{address}") as http, asyncio.timeout(LIMIT_S):
        while True:
            ready = await http.get("/readyz")
            shown = ready.json()["mode"] if ready.status_code == 200 else ""
            if shown == mode == (await client.stats()).execution_mode:
                return time.monotonic()
            await before_the_next_look()


async def test_a_task_runs_in_the_call_and_redis_gets_it(tmp_path: Path):
    async with running_cluster(tmp_path) as cluster:
        client = cluster.client()
        usual = await client.submit("chain", QUICK)
        (before,) = await cluster.finished([usual.task_id])
        await down(cluster)

        accepted = await client.submit("chain", QUICK)
        while_down = await client.get(accepted.task_id)
        await cluster.start_redis()
        word = await imported(cluster, accepted.task_id)
        after = await client.get(accepted.task_id)

        assert (usual.execution_mode, usual.durability) == ("PARALLEL", "AOF_1S")
        mode = (accepted.execution_mode, accepted.durability, accepted.state)
        assert mode == ("SYNCHRONOUS_FALLBACK", "LOCAL", "done")
        assert word == "created"
        assert after == while_down
        assert (after.outputs, after.result) == (before.outputs, before.result)


async def test_the_mode_shows_within_two_seconds_of_each_turn(tmp_path: Path):
    async with running_cluster(tmp_path) as cluster:
        assert cluster.redis_process is not None
        for _ in range(2):  # the second time too, when loops have failed before
            await cluster.terminate(cluster.redis_process)
            stopped = time.monotonic()
            assert await mode_seen(cluster, "SYNCHRONOUS_FALLBACK") - stopped < TURN_S

            await cluster.start_redis()
            started = time.monotonic()
            assert await mode_seen(cluster, "PARALLEL") - started < TURN_S


async def test_a_task_that_waits_for_a_person_is_imported_and_reviewed_there(tmp_path: Path):
    async with running_cluster(tmp_path) as cluster:
        await down(cluster)
        accepted = await cluster.client().submit("translation", REJECTED)
        await cluster.start_redis()
        await imported(cluster, accepted.task_id)

        reviewed = await cluster.client().review(accepted.task_id, "approved", reviewer="ada")

        assert (accepted.state, reviewed.state, reviewed.reviewer) == (
            "human_review",
            "done",
            "ada",
        )
        async with Redis.from_url(cluster.redis_url) as redis:
            found = await recount(redis)
        assert found.twice == []
        assert found.kept == found.counted == {"done": 1}


async def watched(cluster: Cluster, task_id: str) -> list[Task | TaskEvent | Gap]:
    async with asyncio.timeout(2 * LIMIT_S):
        return [item async for item in cluster.client().watch(task_id, after=0)]


def sequences(items: list[Task | TaskEvent | Gap]) -> list[int]:
    assert not any(isinstance(item, Gap) for item in items)
    return [item.sequence for item in items if isinstance(item, TaskEvent)]


async def test_watchers_miss_nothing_over_the_turns(tmp_path: Path):
    """One of a task of Redis, from before it went down; one of a task of the fallback."""
    async with running_cluster(tmp_path) as cluster, asyncio.TaskGroup() as group:
        client = cluster.client()
        plan = {"plans": {"first": [{"sleep": 2.0}]}}
        there = (await client.submit("chain", plan)).task_id
        watching_there = group.create_task(watched(cluster, there))
        await cluster.begun(there, "first")
        await down(cluster)
        here = (await client.submit("translation", REJECTED)).task_id
        watching_here = group.create_task(watched(cluster, here))

        await cluster.start_redis()
        await imported(cluster, here)
        await client.review(here, "approved", reviewer="ada")

        for items in (await watching_there, await watching_here):
            numbers = sequences(items)
            assert numbers == list(range(1, len(numbers) + 1))
            assert isinstance(items[-1], TaskEvent)
            assert items[-1].state == "done"
        assert [run.attempt for run in cluster.journal.runs(task=there)] == [1, 1, 1]


@pytest.mark.parametrize("redis_is_back", [False, True], ids=["redis still down", "redis is back"])
async def test_a_dispatcher_killed_in_the_fallback_goes_on_with_its_journal(
    tmp_path: Path,
    redis_is_back: bool,
):
    """One task has ended, one waits for a person, and one runs at the kill."""
    async with running_cluster(tmp_path) as cluster:
        await down(cluster)
        client = cluster.client()
        ended = await client.submit("single", QUICK)
        waiting = await client.submit("translation", REJECTED)
        plan = {"plans": {"first": [{"sleep": 1.0}]}}
        async with asyncio.TaskGroup() as group:
            submit = group.create_task(client.submit("chain", plan, request_id="amid"))
            task_id = await running(cluster, submit, "first")
            await cluster.dispatchers["d-0"].child.kill()
            if redis_is_back:
                await cluster.start_redis()
            await cluster.start_dispatcher("d-0")  # and the caller asks again, by itself
        accepted = submit.result()
        reviewed = ""
        if not redis_is_back:
            task = await client.review(waiting.task_id, "approved", reviewer="ada")
            reviewed = task.state
            await cluster.start_redis()
        ids = [ended.task_id, waiting.task_id, task_id]
        words = [await imported(cluster, one) for one in ids]
        async with Redis.from_url(cluster.redis_url) as redis:
            found = await recount(redis)

    assert (accepted.task_id, accepted.state, accepted.duplicate) == (task_id, "done", True)
    assert words == ["created"] * 3
    assert found.records[waiting.task_id]["state"] == (reviewed or "human_review")
    assert found.twice == []
    assert found.kept == found.counted
    assert (found.entries, found.pending) == (0, 0)


async def test_a_dispatcher_that_starts_while_redis_is_down_serves_at_once_and_joins(
    tmp_path: Path,
):
    cluster = Cluster(tmp_path)
    try:
        redis_process = await cluster.start_redis()
        await cluster.terminate(redis_process)
        await cluster.start_dispatcher("d-0")
        await cluster.start_worker()
        client = cluster.client()

        first = await client.submit("chain", QUICK)
        await cluster.start_redis()
        word = await imported(cluster, first.task_id)
        await mode_seen(cluster, "PARALLEL")
        second = await client.submit("chain", QUICK)
        (task,) = await cluster.finished([second.task_id])
    finally:
        await cluster.stop()

    assert (first.execution_mode, first.state, word) == ("SYNCHRONOUS_FALLBACK", "done", "created")
    assert (second.execution_mode, second.durability) == ("PARALLEL", "AOF_1S")
    assert task.state == "done"


async def test_the_same_request_at_two_dispatchers_is_recorded_once(tmp_path: Path):
    async with running_cluster(tmp_path, dispatchers=2, workers=0) as cluster:
        for number in range(2):
            await cluster.start_worker(f"w-{number}", at=[f"d-{number}"])
        await down(cluster, "d-0", "d-1")
        answers = [
            await cluster.client(name).submit("chain", QUICK, request_id="same")
            for name in ("d-0", "d-1")
        ]
        await cluster.start_redis()
        task_id = answers[0].task_id
        words = [await imported(cluster, task_id, name) for name in ("d-0", "d-1")]
        async with Redis.from_url(cluster.redis_url) as redis:
            found = await recount(redis)

    assert [one.state for one in answers] == ["done", "done"]
    assert len({one.task_id for one in answers}) == 1
    assert sorted(words) == ["created", "dropped"]
    assert found.twice == []
    assert found.kept == found.counted == {"done": 1}
    assert found.worker_totals == found.steps_recorded == (3, 0)


async def test_a_redis_that_comes_back_empty_is_set_up_again(tmp_path: Path):
    async with running_cluster(tmp_path) as cluster:
        client = cluster.client()
        lost = await client.submit("single", QUICK)
        await cluster.finished([lost.task_id])
        await down(cluster)
        kept = await client.submit("chain", QUICK)
        for path in (tmp_path / "redis").iterdir():
            if path.name.startswith("appendonly") or path.suffix == ".rdb":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        await cluster.start_redis()
        word = await imported(cluster, kept.task_id)
        await mode_seen(cluster, "PARALLEL")

        after = await client.submit("chain", QUICK)
        (task,) = await cluster.finished([after.task_id])
        async with Redis.from_url(cluster.redis_url) as redis:
            found = await recount(redis)

    assert (word, task.state) == ("created", "done")
    assert found.records.keys() == {kept.task_id, after.task_id}
    assert found.kept == found.counted == {"done": 2}
    assert found.worker_totals == found.steps_recorded == (6, 0)


async def test_a_redis_that_loads_its_data_is_down_until_it_has(tmp_path: Path):
    """Each command of the log is loaded with a delay; after every 1,024 it looks who asks."""
    options = ("--key-load-delay", "200")
    async with running_cluster(tmp_path, redis_options=options) as cluster:
        async with (
            Redis.from_url(cluster.redis_url) as redis,
            redis.pipeline(transaction=False) as filling,
        ):
            for number in range(12_000):
                filling.set("filler", number)
            await filling.execute()
        await down(cluster)
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(cluster.start_redis())
            saw_loading = await loading(cluster)
            accepted = await cluster.client().submit("chain", QUICK)
            was_loading = not starting.done()
        word = await imported(cluster, accepted.task_id)

    assert saw_loading
    assert was_loading
    assert (accepted.execution_mode, word) == ("SYNCHRONOUS_FALLBACK", "created")


async def loading(cluster: Cluster) -> bool:
    """Whether Redis answers that it loads, before it serves."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                async with Redis.from_url(cluster.redis_url, retry=None) as redis:
                    await redis.ping()
            except redis_errors.BusyLoadingError:
                return True
            except (redis_errors.ConnectionError, OSError):
                await before_the_next_look()
            else:
                return False
