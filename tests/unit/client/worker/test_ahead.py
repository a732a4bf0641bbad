"""Attempts that a worker takes ahead of its slots, against a fake dispatcher over real gRPC."""

from __future__ import annotations

import asyncio
from time import monotonic

import grpc
import pytest

from stepstream.session import AHEAD_WAIT_S
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import StepContext, step
from stepstream.worker.desk import AHEAD_MAX
from tests.support.fake_dispatcher import FakeDispatcher, FakeSession, assignment
from tests.unit.client.worker.conftest import Gates, Serving

BEAT_S = 0.1


@step("echo")
async def echo(ctx: StepContext) -> object:
    return ctx.input


def credits_of(session: FakeSession) -> list[tuple[int, int]]:
    """What was told after the registration: attempts that it runs, and takes beyond those."""
    pulls = [frame.pull for frame in session.frames if frame.HasField("pull")]
    return [(pull.max_in_flight, pull.ahead) for pull in pulls]


async def after_a_short_step(fake: FakeDispatcher) -> FakeSession:
    """A session whose worker takes attempts ahead."""
    session = await fake.session()
    session.batch(assignment(1))
    await session.until(lambda one: credits_of(one) and one.settlements)
    return session


@pytest.mark.parametrize(("slots", "ahead"), [(1, 1), (3, 3), (40, AHEAD_MAX)])
async def test_a_short_step_makes_a_worker_take_more_than_it_runs(
    fake: FakeDispatcher, serving: Serving, slots: int, ahead: int
) -> None:
    async with serving(echo, slots=slots):
        session = await after_a_short_step(fake)

        assert credits_of(session) == [(slots, ahead)]


async def test_it_is_told_in_the_frame_of_the_result(
    fake: FakeDispatcher, serving: Serving
) -> None:
    """A frame of its own would cost as much again."""
    async with serving(echo):
        session = await after_a_short_step(fake)

        [frame] = [frame for frame in session.frames if frame.HasField("pull")]
        assert len(frame.report.settlements) == 1


async def test_a_worker_that_is_not_to_takes_nothing_ahead(
    fake: FakeDispatcher, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPSTREAM_WORKER_AHEAD", "false")
    async with serving(echo):
        session = await fake.session()
        session.batch(assignment(1))
        await session.settled(1)
        session.batch(assignment(2))
        await session.settled(2)

        assert credits_of(session) == []


async def test_each_new_stream_is_told(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(echo):
        first = await after_a_short_step(fake)
        first.drain()
        second = await fake.session(2)

        await second.until(credits_of)
        assert (second.register.max_in_flight, credits_of(second)) == (3, [(3, 3)])


async def test_what_was_taken_ahead_starts_when_a_slot_is_free(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(echo, gates.held, slots=1):
        session = await after_a_short_step(fake)
        session.batch(assignment(2, "held"), assignment(3))
        await gates.started.wait()
        assert len(session.settlements) == 1

        gates.opened.set()
        _, second, third = await session.settled(3)

        assert (second.completed.output.text, third.assignment_id) == ("held", "task-3/echo/1")


async def test_what_waits_too_long_for_a_slot_is_given_back(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    """It could run elsewhere; and no more is taken ahead of a step that is long."""
    async with serving(echo, gates.held, slots=1):
        session = await after_a_short_step(fake)
        sent_mono = monotonic()
        session.batch(assignment(2, "held"), assignment(3), assignment(4))
        _, third, fourth = await session.settled(3)
        waited_s = monotonic() - sent_mono
        await session.until(lambda one: credits_of(one)[-1] == (1, 0))
        session.batch(assignment(5))  # as one that crosses this word
        [*_, fifth] = await session.settled(4)
        gates.opened.set()
        [*_, last] = await session.settled(5)

        assert [third.assignment_id, fourth.assignment_id] == ["task-3/echo/1", "task-4/echo/1"]
        words = "never started: longer steps have all slots"
        assert {one.released.reason for one in (third, fourth, fifth)} == {words}
        assert waited_s >= AHEAD_WAIT_S * 2 / 3
        assert last.completed.output.text == "held"


async def test_what_came_before_any_was_taken_ahead_waits_for_as_long_as_it_takes(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    """A dispatcher that hands out more than was asked for knows what it does."""
    async with serving(echo, gates.held, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "held"), assignment(2))
        await gates.started.wait()
        beats = len(session.heartbeats)
        await session.until(lambda one: len(one.heartbeats) > beats)
        gates.opened.set()

        assert [one.HasField("completed") for one in await session.settled(2)] == [True, True]
        assert gates.runs == 1


async def test_a_worker_that_leaves_gives_back_what_it_took_ahead(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(echo, gates.held, slots=1) as worker:
        session = await after_a_short_step(fake)
        session.batch(assignment(2, "held"), assignment(3))
        await gates.started.wait()
        worker.drain(grace_s=5)
        _, given_back = await session.settled(2)
        gates.opened.set()
        [*_, last] = await session.settled(3)

        assert given_back.released.reason == "never started: the worker is leaving"
        assert last.completed.output.text == "held"


async def test_nothing_is_taken_ahead_while_a_handler_does_not_stop(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    """What waited would wait for one slot less."""
    async with serving(echo, gates.stuck, slots=2):
        session = await after_a_short_step(fake)
        session.batch(assignment(2, "stuck"))
        await asyncio.to_thread(gates.thread_started.wait)
        session.cancel("task-2/stuck/1", pb.CANCEL_REASON_REQUESTED, grace_s=0)
        await session.until(lambda one: credits_of(one)[-1] == (1, 0))
        gates.thread_opened.set()

        await session.until(lambda one: credits_of(one)[-1] == (2, 2))


async def test_what_waits_for_a_handler_to_stop_is_kept(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    """The dispatcher has counted its slot as free; what is given back would come again at once."""
    fake.heartbeat_interval_s = BEAT_S
    async with serving(echo, gates.stuck, slots=1):
        session = await after_a_short_step(fake)
        session.batch(assignment(2, "stuck"))
        await asyncio.to_thread(gates.thread_started.wait)
        session.cancel("task-2/stuck/1", pb.CANCEL_REASON_TIMEOUT)
        session.batch(assignment(3))
        beats = len(session.heartbeats)
        await session.until(lambda one: len(one.heartbeats) > beats + 2 * AHEAD_WAIT_S / BEAT_S)
        assert len(session.settlements) == 1
        gates.thread_opened.set()
        [*_, last] = await session.settled(3)

        assert last.completed.HasField("output")


async def test_how_long_an_attempt_runs_counts_from_its_start(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    fake.heartbeat_interval_s = BEAT_S
    async with serving(echo, gates.held, slots=1):
        session = await after_a_short_step(fake)
        session.batch(assignment(2, "held"), assignment(3))
        await gates.started.wait()
        beats = len(session.heartbeats)
        await session.until(lambda one: len(one.heartbeats) > beats)
        session.end(grpc.StatusCode.UNAVAILABLE)
        second = await fake.session(2)

        runs, waits = second.register.inventory
        assert (runs.assignment_id, waits.assignment_id) == ("task-2/held/1", "task-3/echo/1")
        assert runs.elapsed.ToMicroseconds() > 0
        assert waits.elapsed.ToMicroseconds() == 0
        gates.opened.set()
