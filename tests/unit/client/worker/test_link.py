"""Sessions that break, move, fall silent and are taken over; attempts that are cancelled."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack

import grpc
import pytest

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import StepContext, step
from stepstream.worker._frames import Identity
from stepstream.worker.desk import Handlers
from stepstream.worker.link import Abort, Link
from tests.support.fake_dispatcher import FakeDispatcher, assignment, fake_dispatcher
from tests.unit.client.worker.conftest import TEST_LIMIT_S, Gates, Serving

BROKEN = grpc.StatusCode.UNAVAILABLE
HELD = "task-1/held/1"


@step("echo")
async def echo(ctx: StepContext) -> object:
    return ctx.input


async def test_a_result_without_receipt_is_sent_again_after_a_reconnect(
    fake: FakeDispatcher, serving: Serving
) -> None:
    fake.receipt_status = None
    fake.verdicts = {"task-1/echo/1": pb.VERDICT_RESEND}
    async with serving(echo):
        first = await fake.session(1)
        first.batch(assignment(1, value="kept"))
        [before] = await first.settled(1)
        fake.receipt_status = pb.RECEIPT_STATUS_ACCEPTED
        first.end(BROKEN)

        second = await fake.session(2)
        [after] = await second.settled(1)

    [item] = second.register.inventory
    assert (item.assignment_id, item.lease_token, item.settled) == (
        "task-1/echo/1",
        "lease-1",
        True,
    )
    assert after == before
    assert second.register.instance_id == first.register.instance_id


async def test_a_running_handler_outlives_a_broken_stream(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(gates.held):
        first = await fake.session(1)
        first.batch(assignment(1, "held"))
        await gates.started.wait()
        first.end(BROKEN)
        second = await fake.session(2)
        gates.opened.set()
        [settlement] = await second.settled(1)

        [item] = second.register.inventory
        assert (item.assignment_id, item.settled) == (HELD, False)
        assert item.elapsed.ToNanoseconds() > 0
        assert settlement.completed.output.text == "held"
        assert gates.runs == 1


async def test_an_abandoned_attempt_is_cancelled_and_forgotten(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    fake.heartbeat_interval_s = 0.05
    async with serving(gates.held):
        first = await fake.session(1)
        first.batch(assignment(1, "held"))
        await gates.started.wait()
        fake.verdicts = {HELD: pb.VERDICT_ABANDON}
        first.end(BROKEN)
        second = await fake.session(2)
        await second.until(lambda one: len(one.heartbeats) >= 2 and gates.cancelled)

        assert second.settlements == []
        assert not second.heartbeats[-1].held


@pytest.mark.parametrize("word", ["not_owned", "lease_lost"])
async def test_an_attempt_that_is_not_owned_is_dropped_silently(
    fake: FakeDispatcher, serving: Serving, gates: Gates, word: str
) -> None:
    fake.heartbeat_interval_s = 0.05
    async with serving(gates.held):
        session = await fake.session()
        session.batch(assignment(1, "held"))
        await gates.started.wait()
        if word == "not_owned":
            ack = pb.HeartbeatAck(not_owned=[HELD])
            session.send(pb.WorkResponse(heartbeat_ack=ack))
        else:
            session.cancel(HELD, pb.CANCEL_REASON_LEASE_LOST)
        await session.until(
            lambda one: gates.cancelled and one.heartbeats and not one.heartbeats[-1].held
        )

        assert session.settlements == []


@pytest.mark.parametrize(
    "case",
    [
        (pb.CANCEL_REASON_REQUESTED, "CANCELLED"),
        (pb.CANCEL_REASON_TIMEOUT, "DEADLINE_EXCEEDED"),
        (pb.CANCEL_REASON_DEADLINE, "DEADLINE_EXCEEDED"),
    ],
)
@pytest.mark.parametrize("kind", ["held", "polite"])
async def test_a_cancelled_handler_stops_and_is_reported(
    fake: FakeDispatcher, serving: Serving, gates: Gates, case: tuple[int, str], kind: str
) -> None:
    async with serving(gates.held, gates.polite):
        session = await fake.session()
        session.batch(assignment(1, kind))
        await asyncio.to_thread(gates.thread_started.wait, 0 if kind == "held" else 10)
        if kind == "held":
            await gates.started.wait()
        session.cancel(f"task-1/{kind}/1", case[0])
        session.cancel(f"task-1/{kind}/1", case[0])
        [settlement] = await session.settled(1)

        assert settlement.failed.code == case[1]


async def test_an_attempt_cancelled_before_it_started_never_starts(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(gates.held, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "held"), assignment(2, "held"))
        await gates.started.wait()
        session.cancel("task-2/held/1", pb.CANCEL_REASON_REQUESTED)
        [settlement] = await session.settled(1)

        assert settlement.assignment_id == "task-2/held/1"
        assert settlement.failed.code == "CANCELLED"
        assert gates.runs == 1


async def test_a_stuck_thread_takes_its_slot_from_the_credit_until_it_returns(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(gates.stuck, slots=3):
        session = await fake.session()
        session.batch(assignment(1, "stuck"))
        await asyncio.to_thread(gates.thread_started.wait, 10)
        session.cancel("task-1/stuck/1", pb.CANCEL_REASON_TIMEOUT, grace_s=0.05)
        await session.until(lambda one: one.pulls[-1] == 2)
        [settlement] = await session.settled(1)
        gates.thread_opened.set()
        await session.until(lambda one: one.pulls[-1] == 3)

        assert settlement.failed.code == "DEADLINE_EXCEEDED"
        assert session.pulls == [3, 2, 3]
        assert len(session.settlements) == 1


async def test_moves_before_it_leaves_a_dispatcher_that_drains(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(gates.held):
        first = await fake.session(1)
        first.batch(assignment(1, "held"))
        await gates.started.wait()
        first.drain()
        second = await fake.session(2)
        await first.closed.wait()
        gates.opened.set()
        [settlement] = await second.settled(1)

        assert first.half_closed
        assert [item.assignment_id for item in second.register.inventory] == [HELD]
        assert settlement.completed.output.text == "held"
        assert first.settlements == []


async def test_moves_when_the_stream_is_old(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(echo, stream_age_s=0.1):
        third = await fake.session(3)

        assert fake.sessions[0].half_closed
        assert third.register.instance_id == fake.sessions[0].register.instance_id


async def test_goes_on_with_the_old_stream_when_the_move_fails(
    fake: FakeDispatcher, serving: Serving
) -> None:
    async with serving(echo):
        first = await fake.session(1)
        fake.refusal = (BROKEN, "not now")
        first.drain()
        await fake.session(3)  # two moves were refused
        fake.heartbeat_interval_s = 0.05
        first.cancel("nothing", pb.CANCEL_REASON_REQUESTED)
        fake.refusal = None
        last = await fake.until(lambda one: next((s for s in one.sessions[3:] if s.frames), None))
        last.batch(assignment(1, value="here"))
        [settlement] = await last.settled(1)

        assert settlement.completed.output.text == "here"


async def test_a_batch_that_crosses_a_move_is_left_to_the_dispatcher(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    """No frame ever names it, so that it is offered again uncharged."""
    fake.heartbeat_interval_s = 0.05
    async with serving(echo, stream_age_s=0.1):
        first = await fake.session(1)
        fake.answers_register = False
        second = await fake.session(2)
        first.batch(assignment(1))
        first.cancel("nothing", pb.CANCEL_REASON_REQUESTED)
        seen = len(first.heartbeats)
        await first.until(lambda one: len(one.heartbeats) >= seen + 2)
        second.send(pb.WorkResponse(registered=fake.registered(second)))
        await first.closed.wait()

        assert not any(beat.held for beat in first.heartbeats)
        assert first.heartbeats[-1].batch_received == 0
        assert first.settlements == []


async def test_a_result_that_comes_during_a_move_goes_to_the_new_dispatcher(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    fake.heartbeat_interval_s = 0.05
    async with serving(gates.held):
        first = await fake.session(1)
        first.batch(assignment(1, "held"))
        await gates.started.wait()
        fake.answers_register = False
        first.drain()
        second = await fake.session(2)
        gates.opened.set()
        seen = len(first.heartbeats)
        await first.until(lambda one: len(one.heartbeats) >= seen + 2)
        second.send(pb.WorkResponse(registered=fake.registered(second)))
        [settlement] = await second.settled(1)

        assert settlement.completed.output.text == "held"
        assert first.settlements == []


async def test_what_the_former_dispatcher_no_longer_owns_during_a_move_goes_on(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    """The other one has adopted it, and the former one knows that first."""
    fake.heartbeat_interval_s = 0.05
    async with serving(gates.held):
        first = await fake.session(1)
        first.batch(assignment(1, "held"))
        await gates.started.wait()
        fake.answers_register = False
        first.drain()
        second = await fake.session(2)
        first.send(pb.WorkResponse(heartbeat_ack=pb.HeartbeatAck(not_owned=[HELD])))
        seen = len(first.heartbeats)
        await first.until(lambda one: len(one.heartbeats) >= seen + 4)
        second.send(pb.WorkResponse(registered=fake.registered(second)))
        gates.opened.set()
        [settlement] = await second.settled(1)

        assert settlement.completed.output.text == "held"
        assert not gates.cancelled


async def test_a_batch_that_crosses_a_failed_move_is_run(
    fake: FakeDispatcher, serving: Serving
) -> None:
    async with serving(echo, stream_age_s=0.1):
        first = await fake.session(1)
        fake.answers_register = False
        second = await fake.session(2)
        first.batch(assignment(1, value="crossed"))
        fake.answers_register = True
        second.end(BROKEN)
        [settlement] = await first.settled(1)

        assert settlement.completed.output.text == "crossed"


async def test_a_stream_that_is_superseded_is_not_mourned(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    """The dispatcher ends the old stream with ABORTED as soon as the new one has registered."""
    fake.ends_streams = False
    async with serving(gates.held):
        first = await fake.session(1)
        first.batch(assignment(1, "held"))
        await gates.started.wait()
        first.drain()
        second = await fake.session(2)
        first.end(grpc.StatusCode.ABORTED, "a newer stream took over")
        gates.opened.set()
        await second.settled(1)
        fake.ends_streams = True

        assert len(fake.sessions) == 2


async def test_silence_gives_back_what_can_be_stopped_and_dials_again(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    fake.heartbeat_interval_s, fake.silence_limit_s = 0.05, 0.3
    async with serving(gates.held, gates.stuck, echo):
        first = await fake.session(1)
        fake.receipt_status = None
        first.batch(assignment(1, "held"), assignment(2, "stuck"), assignment(3))
        await first.settled(1)
        await gates.started.wait()
        fake.acknowledges = fake.answers_register = False  # nor does anybody else answer
        await fake.until(lambda _: first.closed.is_set() and gates.cancelled)
        fake.acknowledges = fake.answers_register = True
        fake.receipt_status = pb.RECEIPT_STATUS_ACCEPTED
        last = await fake.until(lambda one: one.sessions[-1].settlements and one.sessions[-1])
        results = {one.assignment_id: one for one in await last.settled(2)}

        brought = {item.assignment_id for item in last.register.inventory}
        assert brought == {HELD, "task-2/stuck/1", "task-3/echo/1"}
        assert results[HELD].released.reason == "no word from the dispatcher"
        assert results["task-3/echo/1"].HasField("completed")
        gates.thread_opened.set()
        await last.settled(3)


async def test_a_silent_dispatcher_is_left_before_what_runs_is_cut_off(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with fake_dispatcher() as frozen:
        frozen.heartbeat_interval_s, frozen.silence_limit_s = 0.05, 3.0
        async with serving(gates.held, address=[frozen.address, fake.address]):
            first = await frozen.session()
            first.batch(assignment(1, "held"))
            await gates.started.wait()
            frozen.acknowledges = False
            second = await fake.session()
            gates.opened.set()
            [settlement] = await second.settled(1)

            assert [item.assignment_id for item in second.register.inventory] == [HELD]
            assert settlement.completed.output.text == "held"
            assert (gates.runs, gates.cancelled) == (1, False)


async def test_a_silent_dispatcher_is_kept_while_no_other_answers(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    fake.heartbeat_interval_s, fake.silence_limit_s = 0.05, 3.0
    async with serving(gates.held, address=[fake.address, "127.0.0.1:1"]):
        first = await fake.session()
        first.batch(assignment(1, "held"))
        await gates.started.wait()
        fake.acknowledges = fake.answers_register = False
        await fake.session(2)  # it has begun to look
        fake.acknowledges = True
        seen = len(first.heartbeats)
        await first.until(lambda one: len(one.heartbeats) >= seen + 2)
        gates.opened.set()
        fake.answers_register = True
        await fake.until(lambda one: any(session.settlements for session in one.sessions))

        results = [one for session in fake.sessions for one in session.settlements]
        assert [one.completed.output.text for one in results] == ["held"]
        assert not gates.cancelled


async def test_addresses_are_tried_in_turn(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(echo, address=["127.0.0.1:1", fake.address]):
        session = await fake.session()
        session.batch(assignment(1, value="found"))
        [settlement] = await session.settled(1)

        assert settlement.completed.output.text == "found"


async def test_moves_to_another_dispatcher_when_its_own_dies(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with AsyncExitStack() as stack:
        mortal = await stack.enter_async_context(fake_dispatcher())
        async with serving(gates.held, address=[mortal.address, fake.address]):
            first = await mortal.session()
            first.batch(assignment(1, "held"))
            await gates.started.wait()
            await stack.aclose()  # stops the server and breaks its streams
            second = await fake.session()
            gates.opened.set()
            [settlement] = await second.settled(1)

            assert settlement.lease_token == "lease-1"


async def test_a_dispatcher_that_breaks_the_protocol_is_left(
    fake: FakeDispatcher, serving: Serving
) -> None:
    fake.answers_register = False
    async with serving(echo):
        first = await fake.session(1)
        first._session.send(["registered"])  # so that the fake lets the wrong frame pass
        first.batch(assignment(1))
        second = await fake.session(2)

        assert first.settlements == []
        assert second.register.instance_id == first.register.instance_id


async def test_a_batch_that_comes_twice_runs_once(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(gates.held):
        session = await fake.session()
        session.batch(assignment(1, "held"))
        session.batch(assignment(1, "held"))
        await gates.started.wait()
        gates.opened.set()
        await session.settled(1)

        assert gates.runs == 1
        assert threading.active_count() > 1


async def test_a_link_that_is_ending_is_told_to_stop_again(unused_tcp_port: int) -> None:
    """A process says so when it ends, and the last receipt may say the same in the same turn."""
    identity = Identity(
        name="w", instance_id="i", sdk="s", queues=("default",), step_types=("echo",), labels={}
    )
    handlers = Handlers(slots=1, send=lambda _: None, moved=lambda _: None, loop_lag_s=lambda: 0.0)
    link = Link(identity, [f"127.0.0.1:{unused_tcp_port}"], handlers)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell_again() -> None:
        link.handle([Abort()])
        if not ended.is_set():
            loop.call_soon(tell_again)

    errors: list[object] = []
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    loop.call_soon(tell_again)
    async with asyncio.timeout(TEST_LIMIT_S):
        await link.run()
    ended.set()

    assert errors == []
