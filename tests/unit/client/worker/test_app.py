"""A whole worker against a fake dispatcher over real gRPC: results, errors, progress, leaving."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from statistics import median

import grpc
import pytest

from stepstream.errors import InvalidTask
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import Completed, NotRetryable, RetryAfter, StepContext, Worker, step
from tests.support.fake_dispatcher import FakeDispatcher, assignment
from tests.unit.client.worker.conftest import Gates, Serving, link_stopped

BEATS = 10


@step("echo")
async def echo(ctx: StepContext) -> object:
    return ctx.input


async def test_registers_who_it_is(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(echo, slots=4):
        register = (await fake.session()).register

    assert register.worker_name == "w-1"
    assert register.instance_id
    assert register.sdk.startswith("stepstream-python/")
    assert register.protocol_version == 1
    assert list(register.queues) == ["default"]
    assert list(register.step_types) == ["echo"]
    assert register.max_in_flight == 4
    assert register.max_message_bytes == 4 * 1024 * 1024


async def test_runs_a_batch_and_reports_the_results_together(
    fake: FakeDispatcher, serving: Serving
) -> None:
    """What ends before the writer is free goes out in one frame."""
    opened, running = asyncio.Event(), asyncio.Semaphore(0)

    @step("echo")
    async def held_echo(ctx: StepContext) -> object:
        running.release()
        await opened.wait()
        return ctx.input

    async with serving(held_echo, slots=50) as worker:
        session = await fake.session()
        session.batch(*[assignment(n, value={"n": n}) for n in range(50)])
        for _ in range(50):
            await running.acquire()
        with link_stopped(worker) as ended:
            opened.set()
            while len(ended) < 50:  # noqa: ASYNC110 - a mailbox announces nothing
                await asyncio.sleep(0)
        settlements = await session.settled(50)

        assert {one.assignment_id for one in settlements} == {f"task-{n}/echo/1" for n in range(50)}
        assert settlements[7].completed.output.json["n"] == 7
        assert settlements[7].lease_token == "lease-7"
        assert sum(frame.HasField("report") for frame in session.frames) == 1


async def test_a_plain_function_runs_in_a_thread(fake: FakeDispatcher, serving: Serving) -> None:
    @step("where")
    def where(ctx: StepContext) -> str:
        return threading.current_thread().name

    async with serving(where):
        session = await fake.session()
        session.batch(assignment(1, "where"))
        [settlement] = await session.settled(1)

        assert settlement.completed.output.text.startswith("stepstream-step")


async def test_the_context_shows_the_assignment(fake: FakeDispatcher, serving: Serving) -> None:
    seen: list[StepContext] = []

    @step("look")
    async def look(ctx: StepContext) -> Completed:
        seen.append(ctx)
        return Completed(b"bytes", outcome="passed")

    async with serving(look):
        session = await fake.session()
        sent = assignment(1, "look", value={"text": "hello"})
        sent.outputs["before"].text = "earlier"
        sent.feedback = "again, please"
        session.batch(sent)
        [settlement] = await session.settled(1)

        [ctx] = seen
        assert (ctx.task_id, ctx.pipeline, ctx.step, ctx.attempt) == ("task-1", "test", "look", 1)
        assert (ctx.assignment_id, ctx.idempotency_key) == ("task-1/look/1", "task-1/look")
        assert (ctx.input, ctx.outputs) == ({"text": "hello"}, {"before": "earlier"})
        assert (ctx.feedback, ctx.labels) == ("again, please", {"n": "1"})
        assert ctx.cancelled is False
        assert settlement.completed.output.data == b"bytes"
        assert settlement.completed.outcome == "passed"


ERRORS = {
    "not_retryable": (
        NotRetryable("no such page", code="NO_PAGE"),
        "NO_PAGE",
        "no such page",
        False,
    ),
    "retry_after": (RetryAfter(3, "busy"), "RETRY_AFTER", "busy", True),
    "any": (KeyError("x"), "HANDLER_ERROR", "KeyError: 'x'", True),
    "own_class": (InvalidTask("odd"), "HANDLER_ERROR", "InvalidTask: odd", True),
    "exit": (SystemExit(3), "HANDLER_ERROR", "SystemExit: 3", True),
    "long": (ValueError("é" * 9000), "HANDLER_ERROR", "ValueError: " + "é" * 2042, True),
    "inner_cancel": (asyncio.CancelledError(), "HANDLER_ERROR", "CancelledError", True),
}


@pytest.mark.parametrize("case", ERRORS)
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_what_a_handler_raises_becomes_a_failure(
    fake: FakeDispatcher, serving: Serving, case: str, kind: str
) -> None:
    error, code, message, retryable = ERRORS[case]

    @step("raise")
    async def raising(ctx: StepContext) -> None:
        raise error

    @step("raise")
    def raising_plain(ctx: StepContext) -> None:
        raise error

    async with serving(raising if kind == "async" else raising_plain):
        session = await fake.session()
        session.batch(assignment(1, "raise"))
        [settlement] = await session.settled(1)

        failed = settlement.failed
        assert (failed.code, failed.message, failed.retryable) == (code, message, retryable)
        assert failed.HasField("retry_after") is (case == "retry_after")
        if case == "retry_after":
            assert failed.retry_after.seconds == 3


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("x" * (1024 * 1024 + 1), "OUTPUT_TOO_LARGE"),
        ({"when": object()}, "INVALID_OUTPUT"),
        (17, "INVALID_OUTPUT"),
    ],
)
async def test_an_output_that_cannot_travel_fails_for_good(
    fake: FakeDispatcher, serving: Serving, output: object, code: str
) -> None:
    @step("give")
    async def give(ctx: StepContext) -> object:
        return output

    async with serving(give):
        session = await fake.session()
        session.batch(assignment(1, "give"))
        [settlement] = await session.settled(1)

        assert settlement.failed.code == code
        assert settlement.failed.retryable is False


async def test_results_of_a_megabyte_are_split_over_frames(
    fake: FakeDispatcher, serving: Serving
) -> None:
    @step("big")
    async def big(ctx: StepContext) -> bytes:
        return b"x" * (1024 * 1024 - 64)

    async with serving(big, slots=6):
        session = await fake.session()
        session.batch(*[assignment(n, "big") for n in range(6)])
        await session.settled(6)

        assert all(len(frame.report.settlements) <= 1 for frame in session.frames)


async def test_a_step_that_the_worker_lacks_fails(fake: FakeDispatcher, serving: Serving) -> None:
    async with serving(echo):
        session = await fake.session()
        session.batch(assignment(1, "other"))
        [settlement] = await session.settled(1)

        assert settlement.failed.code == "UNKNOWN_STEP"


async def test_no_more_handlers_than_slots_run_at_once(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(gates.held, echo, slots=1):
        session = await fake.session()
        session.batch(assignment(1, "held"), assignment(2, "held"))
        await gates.started.wait()
        runs_before = gates.runs
        gates.opened.set()
        await session.settled(2)

        assert (runs_before, gates.runs) == (1, 2)


async def test_progress_rides_on_an_early_heartbeat(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    @step("work")
    async def work(ctx: StepContext) -> None:
        for done in range(1001):
            ctx.progress(done / 1000, "é" * 40)
        await gates.opened.wait()

    async with serving(work):
        session = await fake.session()
        session.batch(assignment(1, "work"))
        await session.until(
            lambda one: [
                held for beat in one.heartbeats for held in beat.held if held.progress == 1
            ]
        )
        gates.opened.set()
        await session.settled(1)

        held = session.heartbeats[-1].held[0]
        assert (held.assignment_id, held.lease_token) == ("task-1/work/1", "lease-1")
        assert held.note == "é" * 32
        assert session.heartbeats[-1].batch_received == 1
        assert len(session.heartbeats) <= 3


@pytest.mark.parametrize(("held", "interval_s"), [(False, 0.13), (True, 0.1)])
async def test_a_worker_that_holds_nothing_beats_less_often(
    fake: FakeDispatcher, serving: Serving, gates: Gates, held: bool, interval_s: float
) -> None:
    fake.heartbeat_interval_s = 0.1
    async with serving(gates.held):
        session = await fake.session()
        if held:
            session.batch(assignment(1, "held"))
        await session.until(lambda one: len(one.beats_mono) > BEATS)
        gates.opened.set()

    gaps_s = [later - earlier for earlier, later in pairwise(session.beats_mono)]
    assert median(gaps_s) == pytest.approx(interval_s, abs=0.012)


async def test_heartbeats_name_what_has_no_receipt(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    fake.heartbeat_interval_s = 0.05
    fake.receipt_status = None
    async with serving(echo, gates.held):
        session = await fake.session()
        session.batch(assignment(1), assignment(2, "held"))
        [settlement] = await session.settled(1)
        both = ["task-1/echo/1", "task-2/held/1"]
        await session.until(lambda one: held_by(one.heartbeats[-1:]) == both)
        session.receipt(settlement, pb.RECEIPT_STATUS_ACCEPTED)

        await session.until(lambda one: held_by(one.heartbeats[-1:]) == ["task-2/held/1"])
        fake.receipt_status = pb.RECEIPT_STATUS_ACCEPTED


def held_by(heartbeats: list[pb.Heartbeat]) -> list[str]:
    return [held.assignment_id for beat in heartbeats for held in beat.held]


async def test_a_handler_that_blocks_its_loop_delays_no_heartbeat(
    fake: FakeDispatcher, gates: Gates
) -> None:
    """The worker lives on a loop of its own here, which the handler blocks for a second."""
    fake.heartbeat_interval_s = 0.1

    @step("block")
    async def block(ctx: StepContext) -> None:
        threading.Event().wait(1.0)

    worker = Worker([block], name="w-1", address=fake.address)
    thread = threading.Thread(target=lambda: asyncio.run(worker.serve()), daemon=True)
    thread.start()
    session = await fake.session()
    session.batch(assignment(1, "block"))
    await session.settled(1)
    worker.drain()
    await asyncio.to_thread(thread.join, 10)

    beats = [beat for beat in session.heartbeats if held_by([beat]) == ["task-1/block/1"]]
    assert len(beats) >= 6
    assert max(beat.loop_lag.ToNanoseconds() for beat in beats) > 0.4e9


@pytest.mark.parametrize(
    "status",
    ["ACCEPTED", "DUPLICATE", "STALE_LEASE", "UNKNOWN", "INVALID"],
)
async def test_a_receipt_ends_an_attempt(
    fake: FakeDispatcher, serving: Serving, status: str
) -> None:
    fake.heartbeat_interval_s = 0.05
    fake.receipt_status = pb.ReceiptStatus.Value(f"RECEIPT_STATUS_{status}")
    async with serving(echo):
        session = await fake.session()
        session.batch(assignment(1))
        await session.settled(1)
        seen = len(session.heartbeats)

        await session.until(lambda one: len(one.heartbeats) >= seen + 2)
        assert held_by(session.heartbeats[-1:]) == []
        assert len(session.settlements) == 1


async def test_a_result_that_is_not_durable_is_sent_again(
    fake: FakeDispatcher, serving: Serving
) -> None:
    fake.heartbeat_interval_s = 0.05
    fake.receipt_status = pb.RECEIPT_STATUS_RETRY_LATER
    async with serving(echo):
        session = await fake.session()
        session.batch(assignment(1, value="kept"))
        first, second, *_ = await session.settled(2)
        fake.receipt_status = pb.RECEIPT_STATUS_ACCEPTED

        assert first == second


async def test_drain_finishes_what_runs_and_gives_back_what_waits(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(gates.held, slots=1) as worker:
        session = await fake.session()
        session.batch(assignment(1, "held"), assignment(2, "held"))
        await gates.started.wait()

        worker.drain(grace_s=20)
        [waiting] = await session.settled(1)
        gates.opened.set()
        await session.closed.wait()

    assert session.drained
    assert session.half_closed
    assert waiting.assignment_id == "task-2/held/1"
    assert waiting.HasField("released")
    assert session.settlements[1].completed.output.text == "held"
    assert gates.runs == 1


async def test_a_batch_that_crosses_the_drain_is_given_back(
    fake: FakeDispatcher, serving: Serving, gates: Gates
) -> None:
    async with serving(gates.held, slots=2) as worker:
        session = await fake.session()
        session.batch(assignment(1, "held"))
        await gates.started.wait()
        worker.drain(grace_s=20)
        # The fake sends the second batch before it has read the drain.
        session.batch(assignment(2, "held"))
        released = await session.until(
            lambda one: [s for s in one.settlements if s.HasField("released")]
        )
        gates.opened.set()
        await session.closed.wait()

    assert [one.assignment_id for one in released] == ["task-2/held/1"]


@pytest.mark.parametrize("kind", ["held", "stuck"])
async def test_what_outlasts_the_grace_is_given_back(
    fake: FakeDispatcher, serving: Serving, gates: Gates, kind: str
) -> None:
    fake.heartbeat_interval_s = 0.05
    async with serving(gates.held, gates.stuck) as worker:
        session = await fake.session()
        session.batch(assignment(1, kind))
        await session.until(lambda _: gates.started.is_set() or gates.thread_started.is_set())
        worker.drain(grace_s=0.05)
        await session.closed.wait()

    [settlement] = session.settlements
    assert settlement.released.reason == "the worker is leaving"
    assert session.half_closed
    assert gates.cancelled is (kind == "held")


async def test_an_idle_worker_leaves_at_once(fake: FakeDispatcher, serving: Serving) -> None:
    fake.heartbeat_interval_s = 0.05
    async with serving(echo) as worker:
        session = await fake.session()
        await session.until(lambda one: one.heartbeats)
        worker.drain(grace_s=20)
        await session.closed.wait()

    assert session.drained
    assert session.half_closed


async def test_a_drain_before_the_start_is_not_lost(fake: FakeDispatcher) -> None:
    worker = Worker([echo], address=fake.address)
    worker.drain()

    async with asyncio.timeout(10):
        await worker.serve()


async def test_leaves_within_the_grace_when_nobody_answers() -> None:
    worker = Worker([echo], address="127.0.0.1:1")

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(worker.serve())
        worker.drain(grace_s=20)


async def test_a_refusal_for_good_ends_the_worker(fake: FakeDispatcher) -> None:
    fake.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "worker_name: too long")

    with pytest.raises(InvalidTask, match="worker_name: too long"):
        async with asyncio.timeout(10):
            await Worker([echo], address=fake.address).serve()


@pytest.mark.parametrize("steps", [[], [echo, echo], [print]])
def test_refuses_steps_that_are_none(steps: list[object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Worker(steps)  # type: ignore[arg-type]
