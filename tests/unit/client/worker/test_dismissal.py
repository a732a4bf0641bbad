"""A worker that an operator sends away: it finishes what runs, takes nothing more, and goes."""

from __future__ import annotations

import asyncio

from stepstream.worker import Worker
from tests.support.fake_dispatcher import FakeDispatcher, assignment
from tests.unit.client.worker.conftest import TEST_LIMIT_S, Gates


async def test_dismissed_worker_finishes_what_runs_and_goes(
    fake: FakeDispatcher, gates: Gates
) -> None:
    """Nobody calls `drain`, and it dials nobody else."""
    worker = Worker([gates.held], address=fake.address)
    async with asyncio.timeout(TEST_LIMIT_S), asyncio.TaskGroup() as group:
        group.create_task(worker.serve())
        session = await fake.session()
        session.batch(assignment(1, "held"))
        await gates.started.wait()

        session.drain(leave=True)
        await session.until(lambda one: one.drained)
        gates.opened.set()
        [settlement] = await session.settled(1)

    assert settlement.completed.output.text == "held"
    assert session.half_closed
    assert session.pulls[-1] == 0
    assert len(fake.sessions) == 1


async def test_dismissed_worker_without_work_goes_at_once(
    fake: FakeDispatcher, gates: Gates
) -> None:
    worker = Worker([gates.held], address=fake.address)
    async with asyncio.timeout(TEST_LIMIT_S), asyncio.TaskGroup() as group:
        group.create_task(worker.serve())
        (await fake.session()).drain(leave=True)

    assert len(fake.sessions) == 1


async def test_a_signal_still_bounds_a_dismissed_worker(fake: FakeDispatcher, gates: Gates) -> None:
    """What it runs may take hours; whoever ends the process has the last word."""
    worker = Worker([gates.held], address=fake.address)
    async with asyncio.timeout(TEST_LIMIT_S), asyncio.TaskGroup() as group:
        group.create_task(worker.serve())
        session = await fake.session()
        session.batch(assignment(1, "held"))
        await gates.started.wait()
        session.drain(leave=True)
        await session.until(lambda one: one.drained)

        worker.drain(grace_s=0)
        [settlement] = await session.settled(1)

    assert settlement.HasField("released")
    assert gates.cancelled
