"""Submits that are made at the same time share calls, and nobody can tell."""

import asyncio
from collections import Counter

import pytest

from stepstream import AsyncClient, _submits, errors
from stepstream.v1 import dispatcher_service_pb2 as pb2
from tests.unit.client.submits.callers import (
    MANY,
    a_few_turns,
    held,
    names,
    submitted,
    task_ids,
)
from tests.unit.client.submits.desk import LIMIT_S


@pytest.mark.usefixtures("patient")
async def test_submits_of_one_moment_are_one_call(client, desk):
    answers = await submitted(client, names(MANY))

    assert task_ids(answers) == {one: one for one in names(MANY)}
    assert desk.together() == [names(MANY)]


@pytest.mark.usefixtures("patient")
async def test_many_submits_of_one_moment_part_into_as_many_calls_as_may_be_under_way(client, desk):
    desk.speaks.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(submitted(client, names(2 * _submits.SHARE_MIN + 1)))
        await desk.until(lambda: len(desk.calls) == _submits.CALLS_MAX)
        desk.speaks.set()

    shares = [len(one) for one in desk.together()]
    assert shares == [_submits.SHARE_MIN + 1, _submits.SHARE_MIN]


@pytest.mark.usefixtures("patient")
async def test_many_submits_go_together_beside_a_call_that_is_under_way(client, desk):
    many = 2 * _submits.SHARE_MIN
    async with asyncio.TaskGroup() as group:
        await held(client, desk, group, calls=_submits.CALLS_MAX - 1)
        group.create_task(submitted(client, names(many)))
        await desk.until(lambda: len(desk.calls) == _submits.CALLS_MAX)
        desk.speaks.set()

    assert desk.together()[-1] == names(many)


@pytest.mark.usefixtures("patient")
async def test_callers_that_come_again_do_not_end_up_in_one_call(client, desk):
    async def caller(number: int) -> None:
        for again in range(3):
            await client.submit("p", None, request_id=f"{number}-{again}")

    desk.speaks.clear()
    async with asyncio.TaskGroup() as group:
        for number in range(2 * _submits.SHARE_MIN):
            group.create_task(caller(number))
        await desk.until(lambda: len(desk.calls) == _submits.CALLS_MAX)
        desk.speaks.set()

    assert max(len(one) for one in desk.calls) == _submits.SHARE_MIN


@pytest.mark.usefixtures("patient")
async def test_a_lone_submit_waits_for_nothing(client, desk):
    for one in names(3):
        await submitted(client, [one])

    assert desk.methods == ["Submit"] * 3


@pytest.mark.parametrize("calls_max", [1, _submits.CALLS_MAX])
@pytest.mark.usefixtures("patient")
async def test_what_comes_during_calls_goes_out_together_after_an_answer(
    client, desk, monkeypatch, calls_max
):
    monkeypatch.setattr(_submits, "CALLS_MAX", calls_max)
    async with asyncio.TaskGroup() as group:
        await held(client, desk, group)
        for one in names(MANY):
            group.create_task(submitted(client, [one]))
        await a_few_turns()
        under_way = len(desk.calls)
        desk.speaks.set()

    assert under_way == calls_max
    assert [sorted(one) for one in desk.together()[under_way:]] == [sorted(names(MANY))]


async def test_what_waits_goes_out_although_no_call_is_answered(client, desk):
    async with asyncio.TaskGroup() as group:
        await held(client, desk, group)
        group.create_task(submitted(client, names(2)))
        await desk.until(lambda: len(desk.calls) > _submits.CALLS_MAX)
        desk.speaks.set()

    assert desk.together()[-1] == names(2)


@pytest.mark.usefixtures("patient")
async def test_a_call_has_a_limited_number_of_items(client, desk):
    ids = names(2 * _submits.ITEMS_MAX + 2)

    await submitted(client, ids)

    assert [len(one) for one in desk.calls] == [_submits.ITEMS_MAX, _submits.ITEMS_MAX, 2]


@pytest.mark.usefixtures("patient")
async def test_a_call_has_a_limited_number_of_bytes(client, desk):
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(client.submit("p", b"x" * 60_000))

    sizes = [sum(one.ByteSize() for one in requests) for requests in desk.calls]
    assert max(sizes) <= _submits.BYTES_MAX
    assert len(sizes) == 3


@pytest.mark.usefixtures("patient")
async def test_a_large_submit_goes_by_itself_and_waits_for_nobody(client, desk):
    async with asyncio.TaskGroup() as group:
        await held(client, desk, group)
        group.create_task(client.submit("p", b"x" * _submits.ALONE_BYTES, request_id="large"))
        await desk.until(lambda: ["large"] in desk.together())
        desk.speaks.set()

    assert desk.methods == ["Submit"] * (_submits.CALLS_MAX + 1)


@pytest.mark.usefixtures("patient")
async def test_the_error_of_one_is_its_own(client, desk):
    desk.refused["r1"] = pb2.ItemError(
        code="INVALID_ARGUMENT", reason="INVALID_TASK", message="no such pipeline", field="pipeline"
    )

    answers = await submitted(client, names(3))

    error = answers.pop("r1")
    assert isinstance(error, errors.InvalidTask)
    assert (str(error), error.field) == ("no such pipeline", "pipeline")
    assert task_ids(answers) == {"r0": "r0", "r2": "r2"}


@pytest.mark.usefixtures("patient")
async def test_a_refusal_to_come_back_is_followed_by_the_one_it_is_for(client, desk):
    error = pb2.ItemError(reason="QUEUE_FULL", message="full")
    error.retry_after.FromMilliseconds(20)
    desk.refused["r1"] = error  # a submit by itself is accepted

    answers = await submitted(client, names(3))

    assert task_ids(answers) == {one: one for one in names(3)}
    assert desk.together() == [names(3), ["r1"]]


async def test_each_of_a_broken_batch_is_made_again_with_its_request_id(client, desk):
    desk.refusals.append(errors.StoreUnavailable("redis is away"))

    answers = await submitted(client, names(MANY))

    again = Counter(one for ids in desk.together()[1:] for one in ids)
    assert task_ids(answers) == {one: one for one in names(MANY)}
    assert desk.together()[0] == names(MANY)
    assert again == Counter(names(MANY))


async def test_each_of_a_broken_batch_is_told_how_to_join_its_own_task(address, desk):
    async with AsyncClient(address, retry_s=0) as client:
        await client.submit("p", None)
        desk.refusals.append(errors.Draining("leaving"))
        answers = await submitted(client, names(3))

    assert len(desk.calls) == 2
    for one, error in answers.items():
        assert isinstance(error, errors.Draining)
        assert [f"request_id={one!r}" in note for note in error.__notes__] == [True]


@pytest.mark.parametrize("kind", [errors.NotServed, errors.InternalError, errors.InvalidTask])
@pytest.mark.usefixtures("patient")
async def test_a_batch_that_is_refused_as_a_whole_is_sent_one_by_one(client, desk, kind):
    desk.refusals.append(kind("not like this"))

    answers = await submitted(client, names(3))

    assert task_ids(answers) == {one: one for one in names(3)}
    assert desk.methods == ["SubmitBatch", "Submit", "Submit", "Submit"]


@pytest.mark.usefixtures("patient")
async def test_a_batch_with_too_few_answers_is_sent_one_by_one(client, desk):
    desk.answers_max = 2

    answers = await submitted(client, names(3))

    assert task_ids(answers) == {one: one for one in names(3)}


async def test_nothing_is_shared_before_a_dispatcher_has_said_that_it_is_parallel(address, desk):
    desk.speaks.clear()
    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        group.create_task(submitted(client, names(MANY)))
        await desk.until(lambda: len(desk.calls) == MANY)
        desk.speaks.set()

    assert desk.methods == ["Submit"] * MANY


@pytest.mark.usefixtures("patient")
async def test_the_first_answer_is_waited_for_by_the_others(address, desk):
    async with AsyncClient(address) as client:
        await submitted(client, names(MANY))

    assert [len(one) for one in desk.calls[: _submits.CALLS_MAX]] == [1] * _submits.CALLS_MAX
    assert len(desk.calls) <= 2 * _submits.CALLS_MAX


@pytest.mark.parametrize("mode", ["SYNCHRONOUS", "SYNCHRONOUS_FALLBACK"])
@pytest.mark.usefixtures("patient")
async def test_without_redis_each_submit_goes_by_itself_at_once(client, desk, mode):
    desk.mode = mode
    await client.submit("p", None)
    desk.speaks.clear()

    async with asyncio.TaskGroup() as group:
        group.create_task(submitted(client, names(MANY)))
        await desk.until(lambda: len(desk.calls) == 1 + MANY)
        desk.speaks.set()

    assert set(desk.methods) == {"Submit"}


@pytest.mark.usefixtures("patient")
async def test_those_who_wait_go_out_alone_once_a_call_is_answered_otherwise(client, desk):
    desk.mode = "SYNCHRONOUS_FALLBACK"
    async with asyncio.TaskGroup() as group:
        await held(client, desk, group)
        group.create_task(submitted(client, names(MANY)))
        await a_few_turns()
        desk.speaks.set()

    assert set(desk.methods) == {"Submit"}
    assert len(desk.calls) == _submits.CALLS_MAX + MANY


@pytest.mark.usefixtures("patient")
async def test_calls_are_shared_again_once_redis_is_back(client, desk):
    desk.mode = "SYNCHRONOUS_FALLBACK"
    await client.submit("p", None)
    desk.mode = "PARALLEL"
    await client.submit("p", None)

    await submitted(client, names(MANY))

    assert desk.together()[2:] == [names(MANY)]


async def test_what_a_dispatcher_said_long_ago_counts_no_more(client, desk, monkeypatch):
    monkeypatch.setattr(_submits, "TRUST_S", 0.0)

    await submitted(client, names(MANY))

    assert desk.methods == ["Submit"] * MANY
