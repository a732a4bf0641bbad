"""What is handed out to workers that take some attempts ahead of their slots."""

from typing import Any

import msgspec
import pytest

from stepstream.session import AHEAD_WAIT_S
from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.facts import Completed, Failed, Released
from stepstream_dispatcher.engine.sessions import Handout, Session
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

feeding = with_dispatcher("committer", "feeder", "settling")
TASK = Submission(pipeline="translation", input=b"text")
STEPS = {"default": "translate", "checks": "verify"}


def lanes(queue: str) -> dict[str, frozenset[str]]:
    return {"queues": frozenset({queue}), "step_types": frozenset({STEPS[queue]})}


async def ahead_of_its_slots(
    dispatcher: Dispatcher, name: str = "worker-1", *, slots: int, ahead: int
) -> Session:
    """A worker of one lane that takes some attempts beyond its slots."""
    session = await dispatcher.connect(name, slots=slots, **lanes("default"))
    session.ahead = ahead
    dispatcher.engine.sessions.stir()
    await pass_time(0.1)
    return session


@feeding
async def test_worker_is_handed_what_it_takes_ahead_and_no_more(dispatcher: Dispatcher):
    session = await ahead_of_its_slots(dispatcher, slots=2, ahead=3)
    for number in range(10):
        await dispatcher.submit(b"%d" % number)

    first, *_ = await dispatcher.handed_out(session, 5)
    await pass_time(5)
    assert (len(session.attempts), session.free, session.free_ahead) == (5, 0, 0)

    fact = Completed(token=first.attempt.record.lease, outcome="completed", output=b"x")
    assert await dispatcher.report(session, first, fact) == "ACCEPTED"
    await dispatcher.handed_out(session)
    await pass_time(5)

    assert (len(session.attempts), len(session.outbox.handouts)) == (5, 0)
    assert len(await dispatcher.pending()) == 5


@feeding
async def test_what_comes_while_all_slots_are_taken_is_left_to_whoever_has_one(
    dispatcher: Dispatcher,
):
    """A reader that waited for room ahead would take it from an idle worker elsewhere."""
    session = await ahead_of_its_slots(dispatcher, slots=1, ahead=1)
    await dispatcher.submit(b"first")
    await dispatcher.handed_out(session)
    await pass_time(1)
    assert dispatcher.engine.feeder._waiting_on is None

    await dispatcher.submit(b"second")
    await pass_time(5)
    assert await dispatcher.pending() == list({one.task_id for one in session.attempts.values()})

    idle = await dispatcher.connect("idle", slots=1, **lanes("default"))
    await dispatcher.handed_out(idle)


@feeding
async def test_free_slot_is_filled_before_a_place_ahead(dispatcher: Dispatcher):
    busy = await ahead_of_its_slots(dispatcher, slots=1, ahead=16)
    await dispatcher.submit(b"first")
    await dispatcher.handed_out(busy)

    idle = await dispatcher.connect("idle", slots=1, **lanes("default"))
    await dispatcher.engine.desk.submit_batch([TASK, TASK])

    assert len(await dispatcher.handed_out(idle)) == 1


@feeding
async def test_worker_that_is_kept_free_takes_nothing_ahead(dispatcher: Dispatcher):
    session = await ahead_of_its_slots(dispatcher, slots=1, ahead=4)
    session.reserved = True

    assert (session.free, session.free_ahead) == (0, 0)


@feeding
async def test_worker_that_pauses_takes_nothing_ahead(dispatcher: Dispatcher):
    session = await ahead_of_its_slots(dispatcher, slots=1, ahead=4)
    session.max_in_flight = 0

    assert (session.free, session.free_ahead) == (0, 0)


@feeding
async def test_place_ahead_is_filled_while_another_lane_has_a_free_slot(dispatcher: Dispatcher):
    busy = await ahead_of_its_slots(dispatcher, slots=1, ahead=1)
    await dispatcher.connect("idle", slots=1, **lanes("checks"))
    await dispatcher.engine.desk.submit_batch([TASK] * 4)
    first, _ = await dispatcher.handed_out(busy, 2)
    await pass_time(1)
    assert dispatcher.engine.feeder._waiting_on == {"checks"}

    fact = Failed(token=first.attempt.record.lease, code="X", message="", retryable=False)
    assert await dispatcher.report(busy, first, fact) == "ACCEPTED"
    await pass_time(0.1)

    assert (len(busy.attempts), busy.free_ahead) == (2, 0)


async def one_that_runs_and_one_that_waits(
    dispatcher: Dispatcher, **options: Any
) -> tuple[Session, Handout, Handout]:
    """Two attempts that are handed out in one round, to a worker of one slot."""
    session = await ahead_of_its_slots(dispatcher, slots=1, ahead=1)
    session.max_in_flight = 0
    dispatcher.engine.sessions.stir()
    await pass_time(0.1)
    task = msgspec.structs.replace(TASK, **options)
    await dispatcher.engine.desk.submit_batch([task, task])
    session.max_in_flight = 1
    dispatcher.engine.sessions.stir()
    runs, waits = await dispatcher.handed_out(session, 2)
    assert len(dispatcher.store.commits) == 2
    return session, runs, waits


@feeding
async def test_limit_of_what_waits_for_a_slot_counts_later(dispatcher: Dispatcher):
    _, runs, waits = await one_that_runs_and_one_that_waits(dispatcher)

    assert (runs.attempt.waits, waits.attempt.waits) == (False, True)
    assert waits.attempt.timeout_at - runs.attempt.timeout_at == pytest.approx(AHEAD_WAIT_S)
    assert waits.timeout_ms == runs.timeout_ms == 300_000


@pytest.mark.parametrize(
    ("timeout_ms", "deadline_ms", "wait_s"),
    [(1_000, 60_000, AHEAD_WAIT_S), (1_000, 1_400, 0.4), (2_000, 1_000, 0.0)],
)
@feeding
async def test_what_waits_for_a_slot_is_not_let_beyond_its_deadline(
    dispatcher: Dispatcher, timeout_ms: int, deadline_ms: int, wait_s: float
):
    _, runs, waits = await one_that_runs_and_one_that_waits(
        dispatcher, timeout_ms=timeout_ms, deadline_ms=deadline_ms
    )

    later_s = waits.attempt.timeout_at - runs.attempt.timeout_at
    assert later_s == pytest.approx(wait_s, abs=0.01)


@pytest.mark.parametrize("is_waiting", [False, True])
@feeding
async def test_what_waited_for_a_slot_may_be_given_back_again_and_again(
    dispatcher: Dispatcher, is_waiting: bool
):
    session, runs, waits = await one_that_runs_and_one_that_waits(dispatcher)
    handout = waits if is_waiting else runs

    await dispatcher.report(
        session, handout, Released(token=handout.attempt.record.lease, reason="no slot")
    )

    record = await dispatcher.record(handout.attempt.task_id)
    assert record.releases == (0 if is_waiting else 1)
