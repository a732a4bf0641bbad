"""Many callers of one client make few calls, and each has a task of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import TypeVar

import pytest
import pytest_asyncio

from stepstream import AsyncClient
from stepstream._calls import Call
from stepstream.errors import InvalidTask
from stepstream.types import Submitted
from tests.support.cluster import running_cluster

pytestmark = [pytest.mark.parallel, pytest.mark.asyncio(loop_scope="module")]

CALLERS = 50
EACH = 20
LABELS = {"of": "many"}
T = TypeVar("T")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A dispatcher without workers."""
    async with running_cluster(tmp_path_factory.mktemp("submits"), workers=0) as cluster:
        yield cluster.dispatchers["d-0"].address


class Counting(AsyncClient):
    """Counts its calls."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.calls: Counter[str] = Counter()

    async def _once(self, call: Call[T], address: str, timeout_s: float) -> T:
        self.calls[call.method] += 1
        return await super()._once(call, address, timeout_s)


async def one_by_one(client: AsyncClient, caller: int) -> list[Submitted]:
    return [
        await client.submit("single", {"n": n}, request_id=f"{caller}-{n}", labels=LABELS)
        for n in range(EACH)
    ]


async def test_many_callers_make_few_calls_and_each_task_once(address: str):
    async with Counting(address) as client:
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(one_by_one(client, one)) for one in range(CALLERS)]
        calls = client.calls.total()
        page = await client.list(labels=LABELS, page_size=1_000)

    accepted = [one for caller in callers for one in caller.result()]
    assert len({one.task_id for one in accepted}) == CALLERS * EACH
    assert {one.task_id for one in page.tasks} == {one.task_id for one in accepted}
    assert not any(one.duplicate for one in accepted)
    assert calls < CALLERS * EACH / 5


async def test_the_same_submit_twice_in_one_call_is_one_task(address: str):
    async with Counting(address) as client:
        await client.submit("single", {})
        async with asyncio.TaskGroup() as group:
            twins = [
                group.create_task(client.submit("single", {"n": 1}, request_id="twin"))
                for _ in range(2)
            ]

    first, second = (one.result() for one in twins)
    assert client.calls == {"Submit": 1, "SubmitBatch": 1}
    assert first.task_id == second.task_id
    assert sorted([first.duplicate, second.duplicate]) == [False, True]


async def refusal(client: AsyncClient) -> InvalidTask:
    with pytest.raises(InvalidTask) as caught:
        await client.submit("no such pipeline", {})
    return caught.value


async def test_a_refusal_says_the_same_alone_and_in_company(address: str):
    async with Counting(address) as client:
        await client.submit("single", {})
        alone = await refusal(client)
        async with asyncio.TaskGroup() as group:
            company = group.create_task(client.submit("single", {}))
            refused = group.create_task(refusal(client))

    together = refused.result()
    assert client.calls == {"Submit": 2, "SubmitBatch": 1}
    assert (str(together), together.field) == (str(alone), alone.field)
    assert company.result().task_id
