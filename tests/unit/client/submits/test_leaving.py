"""Callers of shared submits that leave, run out of time, or see their client closed."""

import asyncio
import gc
import time
import weakref

import grpc
import grpc.aio
import pytest

from stepstream import AsyncClient, _submits, errors
from tests.unit.client.submits.callers import (
    MANY,
    NEVER_S,
    a_few_turns,
    ended,
    held,
    names,
    submitted,
    task_ids,
)
from tests.unit.client.submits.desk import LIMIT_S


def stand_still_s(seconds: float) -> None:
    """Holds up the loop."""
    end_mono = time.monotonic() + seconds
    while time.monotonic() < end_mono:
        pass


@pytest.mark.usefixtures("patient")
async def test_who_leaves_takes_nobody_along(client, desk):
    desk.speaks.clear()
    async with asyncio.TaskGroup() as group:
        first, *others = [
            group.create_task(client.submit("p", one, request_id=one)) for one in names(3)
        ]
        await desk.until(lambda: len(desk.calls) == 1)
        first.cancel()
        await asyncio.wait([first])
        desk.speaks.set()

    assert first.cancelled()
    assert [one.result().task_id for one in others] == ["r1", "r2"]
    assert (desk.together(), desk.left) == ([names(3)], 0)


@pytest.mark.usefixtures("patient")
async def test_who_leaves_before_the_call_is_not_sent(client, desk):
    async with asyncio.TaskGroup() as group:
        await held(client, desk, group)
        waiting = [group.create_task(client.submit("p", one, request_id=one)) for one in names(3)]
        await a_few_turns()
        waiting[1].cancel()
        await asyncio.wait(waiting[1:2])
        desk.speaks.set()

    assert desk.together()[-1] == ["r0", "r2"]


@pytest.mark.usefixtures("patient")
async def test_a_call_that_nobody_waits_for_is_given_up(client, desk):
    desk.speaks.clear()
    async with asyncio.TaskGroup() as group:
        made = [group.create_task(client.submit("p", None)) for _ in range(3)]
        await desk.until(lambda: len(desk.calls) == 1)
        for one in made:
            one.cancel()
        await desk.until(lambda: desk.left == 1)

    desk.speaks.set()
    assert len(await submitted(client, names(3))) == 3


@pytest.mark.usefixtures("patient")
async def test_each_has_its_own_time_limit(client, desk):
    desk.speaks.clear()
    async with asyncio.TaskGroup() as group:
        long = group.create_task(client.submit("p", None, request_id="long"))
        short = group.create_task(
            ended(client.submit("p", None, request_id="short", call_timeout_s=0.1))
        )
        error = await short
        await ended(client.submit("p", None, request_id="later", call_timeout_s=0.2))
        desk.speaks.set()

    assert desk.together() == [["long", "short"], ["later"]]
    assert isinstance(error, errors.OutcomeUnknown)
    assert error.request_id == "short"
    assert str(error).startswith("no answer from 127.0.0.1:")
    assert long.result().task_id == "long"


@pytest.mark.usefixtures("patient")
async def test_calls_that_end_before_they_begin_leave_room_for_others(client, desk):
    """The loop is held up, in a turn in which calls are to depart, until their limits are over."""
    limit_s = 0.02
    for turns in [*range(5)] * _submits.CALLS_MAX:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(ended(client.submit("p", None, call_timeout_s=limit_s)))
            for _ in range(turns):
                await asyncio.sleep(0)
            stand_still_s(2 * limit_s)

        assert task_ids(await submitted(client, ["after"])) == {"after": "after"}


@pytest.mark.usefixtures("patient")
async def test_a_call_is_given_up_once_some_aboard_have_left_and_the_others_have_no_time(
    client, desk
):
    desk.speaks.clear()
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(client.submit("p", None))
        late = group.create_task(ended(client.submit("p", None, call_timeout_s=0.2)))
        await desk.until(lambda: len(desk.calls) == 1)
        leaving.cancel()
        await late
        await desk.until(lambda: desk.left == 1)
    desk.speaks.set()


@pytest.mark.usefixtures("patient")
async def test_who_waits_for_room_runs_out_of_time_too(client, desk):
    async with asyncio.TaskGroup() as group:
        await held(client, desk, group)
        answers = await submitted(client, names(3), call_timeout_s=0.1)
        later = group.create_task(submitted(client, names(3, "later")))
        await a_few_turns()
        desk.speaks.set()

    assert {type(one) for one in answers.values()} == {errors.OutcomeUnknown}
    assert task_ids(later.result()) == {one: one for one in names(3, "later")}
    assert desk.together()[-1] == names(3, "later")


@pytest.mark.usefixtures("patient")
async def test_limits_are_kept_in_whatever_order_they_come(client, desk):
    limits_s = [0.3, 0.1, 0.2]
    over: list[float] = []

    async def run_out(limit_s: float) -> None:
        assert isinstance(
            await ended(client.submit("p", None, call_timeout_s=limit_s)), errors.OutcomeUnknown
        )
        over.append(limit_s)

    desk.speaks.clear()
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for limit_s in limits_s:
            group.create_task(run_out(limit_s))
    desk.speaks.set()

    assert over == sorted(limits_s)


@pytest.mark.usefixtures("patient")
async def test_the_options_of_each_go_along(client, desk):
    async with asyncio.TaskGroup() as group:
        group.create_task(client.submit("p", None, require_durable=True, labels={"a": "1"}))
        group.create_task(client.submit("q", None, delay_s=3))

    ((first, second),) = desk.calls
    assert (first.pipeline, first.require_durable, dict(first.labels)) == ("p", True, {"a": "1"})
    assert (second.pipeline, second.require_durable, second.delay.seconds) == ("q", False, 3)


@pytest.mark.usefixtures("patient")
async def test_closing_refuses_those_aboard_and_those_who_wait(address, desk):
    client = await AsyncClient(address).__aenter__()
    await client.submit("p", None)
    desk.speaks.clear()
    async with asyncio.TaskGroup() as group:
        made = []
        for count in range(_submits.CALLS_MAX):
            made.append(group.create_task(submitted(client, names(3, f"call{count}-"))))
            await desk.until(lambda count=count: len(desk.calls) == 2 + count)
        made.append(group.create_task(submitted(client, names(3, "waiting"))))
        await a_few_turns()
        await client.close()

    outcomes = [one for task in made for one in task.result().values()]
    assert len(desk.calls) == 1 + _submits.CALLS_MAX
    assert {(type(one), str(one)) for one in outcomes} == {
        (errors.Unavailable, "this client is closed")
    }


@pytest.mark.parametrize("turns", range(5))
async def test_closing_refuses_submits_in_whatever_turn_they_are(address, desk, turns):
    client = await AsyncClient(address).__aenter__()
    await client.submit("p", None)
    desk.speaks.clear()
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        made = [group.create_task(ended(client.submit("p", None))) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()

    assert {type(one.result()) for one in made} == {errors.Unavailable}


async def test_a_client_that_was_closed_is_not_kept_until_its_limits(address):
    async with AsyncClient(address) as client:
        await submitted(client, names(3), call_timeout_s=NEVER_S)
        await submitted(client, names(3), call_timeout_s=NEVER_S)
    gone = weakref.ref(client)
    del client
    gc.collect()

    assert gone() is None


@pytest.mark.usefixtures("patient")
async def test_a_client_that_was_not_entered_shares_no_calls(address, desk):
    client = AsyncClient(address)
    await client.submit("p", None)

    await submitted(client, names(MANY))
    await client.close()

    assert set(desk.methods) == {"Submit"}


@pytest.mark.usefixtures("patient")
async def test_a_channel_of_the_caller_sees_each_submit(address, desk):
    async with grpc.aio.insecure_channel(address) as channel, AsyncClient(channel=channel) as one:
        await one.submit("p", None)
        await submitted(one, names(MANY))

    assert set(desk.methods) == {"Submit"}
