"""Submits that are made at the same time share calls, and nobody can tell."""

import asyncio
import gc
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest

from stepstream import AsyncClient, _submits, errors
from stepstream.types import Submitted
from stepstream.v1 import dispatcher_service_pb2 as pb2
from stepstream.v1.dispatcher_service_pb2_grpc import add_DispatcherServiceServicer_to_server
from tests.unit.client.dispatcher_stub import SERVER_OPTIONS
from tests.unit.client.submit_desk import LIMIT_S, Desk

NEVER_S = 1_000.0
MANY = 2 * _submits.SHARE_MIN - 2  # as many as go together


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def address(desk: Desk) -> AsyncIterator[str]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_DispatcherServiceServicer_to_server(desk, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def client(address: str, desk: Desk) -> AsyncIterator[AsyncClient]:
    """One that knows that its dispatcher works in parallel."""
    async with AsyncClient(address) as client:
        await client.submit("p", None)
        desk.calls.clear()
        desk.methods.clear()
        yield client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes: what waits goes out because of an answer, or not at all."""
    monkeypatch.setattr(_submits, "WAIT_S_MAX", NEVER_S)
    monkeypatch.setattr(_submits, "TRUST_S", NEVER_S)


def names(count: int, letter: str = "r") -> list[str]:
    return [f"{letter}{index}" for index in range(count)]


async def ended(submit: Awaitable[Submitted]) -> Submitted | Exception:
    try:
        return await submit
    except (errors.StepstreamError, TimeoutError) as error:
        return error


async def submitted(
    client: AsyncClient, ids: list[str], **given: Any
) -> dict[str, Submitted | Exception]:
    """Submits tasks under these ids at the same time."""
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        made = {
            one: group.create_task(ended(client.submit("p", one, request_id=one, **given)))
            for one in ids
        }
    return {one: task.result() for one, task in made.items()}


def task_ids(answers: dict[str, Submitted | Exception]) -> dict[str, str]:
    return {one: getattr(answer, "task_id", repr(answer)) for one, answer in answers.items()}


async def held(
    client: AsyncClient,
    desk: Desk,
    group: asyncio.TaskGroup,
    *,
    calls: int | None = None,
) -> None:
    """So many calls are under way, or as many as may be, one submit each; none is answered."""
    desk.speaks.clear()
    for count in range(1, (calls or _submits.CALLS_MAX) + 1):
        group.create_task(client.submit("p", None, request_id=f"held{count}"))
        await desk.until(lambda count=count: len(desk.calls) == count)


def stand_still_s(seconds: float) -> None:
    """Holds up the loop."""
    end_mono = time.monotonic() + seconds
    while time.monotonic() < end_mono:
        pass


async def a_few_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


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
