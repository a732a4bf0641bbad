"""Tasks that are handed out without being read."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from stepstream_dispatcher.core.admission import Submission, creation
from stepstream_dispatcher.core.facts import Adopted, Completed, Fact, Released
from stepstream_dispatcher.core.record import TaskRecord, Transition
from stepstream_dispatcher.engine.commit_lane import Source
from stepstream_dispatcher.engine.committer import ADDED_WITHIN_S, Proposal
from stepstream_dispatcher.engine.fresh import DATA_BYTES_MAX, KEPT_MS, TASKS_MAX, Fresh
from stepstream_dispatcher.pipelines import read_pipelines
from stepstream_dispatcher.store.port import CommitKind, Entry, Result
from tests.support.engine import Dispatcher, settlement, with_dispatcher
from tests.support.virtual_time import pass_time

(TRANSLATION,) = read_pipelines()
NEW = Source(None, {})


def created(
    task_id: str, *, payload: bytes = b"text", delay_ms: int = 0, now_ms: int = 1000
) -> Transition:
    submission = Submission(pipeline="translation", input=payload, delay_ms=delay_ms)
    return creation(submission, TRANSLATION, task_id=task_id, op_id="op-00001", now_ms=now_ms)


def entry_of(task_id: str) -> Entry:
    return Entry("default", f"1-{task_id}", task_id, "translate")


def taken(transition: Transition) -> tuple[TaskRecord, dict[str, bytes]]:
    fresh = Fresh(lambda queue: queue == "default")
    fresh.queued(NEW, transition, f"1-{transition.task_id}")
    known = fresh.take(entry_of(transition.task_id))
    assert known is not None
    return known


def test_creation_is_taken_once_with_the_id_of_its_entry():
    fresh = Fresh(lambda queue: queue == "default")
    fresh.queued(NEW, created("a"), "1-a")

    record, data = fresh.take(entry_of("a")) or (None, {})

    assert record is not None
    assert (record.version, record.state, record.entry) == (1, "pending", "1-a")
    assert data == {"input": b"text"}
    assert fresh.take(entry_of("a")) is None


def test_what_nobody_here_is_fed_from_takes_no_room():
    fresh = Fresh(lambda queue: queue != "default")
    fresh.queued(NEW, created("a"), "1-a")

    assert fresh.take(entry_of("a")) is None


def test_delayed_and_large_tasks_are_not_remembered():
    fresh = Fresh(lambda queue: queue == "default")

    fresh.queued(NEW, created("later", delay_ms=1), "")
    fresh.queued(NEW, created("large", payload=b"x" * (DATA_BYTES_MAX + 1)), "1-large")

    assert fresh.take(entry_of("later")) is None
    assert fresh.take(entry_of("large")) is None


def test_task_whose_data_is_not_at_hand_is_not_remembered():
    fresh = Fresh(lambda queue: queue == "default")
    record, _ = taken(created("a"))

    fresh.queued(Source(record, None), created("a"), "1-a")

    assert fresh.take(entry_of("a")) is None


def test_those_that_wait_are_remembered_while_there_is_no_room_for_new_ones():
    fresh = Fresh(lambda queue: queue == "default")

    for number in range(TASKS_MAX + 1):
        fresh.queued(NEW, created(str(number)), f"1-{number}")

    assert fresh.take(entry_of("0")) is not None
    assert fresh.take(entry_of(str(TASKS_MAX))) is None


def test_those_whose_entry_is_never_taken_are_forgotten_after_a_while():
    fresh = Fresh(lambda queue: queue == "default")

    fresh.queued(NEW, created("read elsewhere"), "1-read elsewhere")
    fresh.queued(NEW, created("waits", now_ms=1001), "1-waits")
    fresh.queued(NEW, created("latest", now_ms=1001 + KEPT_MS), "1-latest")

    assert fresh.take(entry_of("read elsewhere")) is None
    assert fresh.take(entry_of("waits")) is not None
    assert fresh.take(entry_of("latest")) is not None


serving = with_dispatcher("committer", "feeder", "settling")
ENDS: dict[str, Fact] = {
    "completed": Completed(token="", outcome="completed", output=b"output"),
    "released": Released(token="", reason="drain", reported=True),
}


@pytest.mark.parametrize("end", ENDS)
@serving
async def test_task_that_is_queued_again_here_is_handed_out_as_it_is_without_a_read(
    dispatcher: Dispatcher, end: str
):
    session = await dispatcher.connect(slots=1)
    task_id = await dispatcher.submit(b"text", labels={"team": "a"})
    (first,) = await dispatcher.handed_out(session)

    fact = msgspec.structs.replace(ENDS[end], token=first.attempt.record.lease)
    assert await dispatcher.report(session, first, fact) == "ACCEPTED"
    (second,) = await dispatcher.handed_out(session)

    assert dispatcher.store.loaded == []
    ((record, data),) = await dispatcher.store.load([task_id])
    assert (second.attempt.record, second.data) == (record, data)


@serving
async def test_large_task_is_read_for_each_of_its_steps(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    large = b"x" * (DATA_BYTES_MAX + 1)
    task_id = await dispatcher.submit(large)
    (first,) = await dispatcher.handed_out(session)
    token = first.attempt.record.lease

    await dispatcher.report(
        session, first, Completed(token=token, outcome="completed", output=b"output")
    )
    (second,) = await dispatcher.handed_out(session)

    assert first.attempt.data is None
    assert dispatcher.store.loaded == [task_id, task_id]
    assert second.data["input"] == large


@serving
async def test_entry_that_is_read_before_the_answer_to_its_creation_waits_for_it(
    dispatcher: Dispatcher,
):
    session = await dispatcher.connect(slots=1)
    go_on = answers_late(dispatcher)

    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.submit())
        await pass_time(0.01)
        assert dispatcher.engine.feeder.in_hand
        go_on.set()

    await dispatcher.handed_out(session)
    assert dispatcher.store.loaded == []


@serving
async def test_entry_that_is_read_before_the_answer_to_the_step_before_waits_for_it(
    dispatcher: Dispatcher,
):
    session = await dispatcher.connect(slots=1)
    await dispatcher.submit()
    (first,) = await dispatcher.handed_out(session)
    go_on = answers_late(dispatcher)

    fact = Completed(token=first.attempt.record.lease, outcome="completed", output=b"output")
    dispatcher.engine.settling.receive(session, [settlement(first, fact)])
    await pass_time(0.01)
    assert dispatcher.engine.feeder.in_hand
    go_on.set()

    await dispatcher.handed_out(session)
    assert dispatcher.store.loaded == []


@serving
async def test_answer_that_does_not_come_is_not_waited_for(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    go_on = answers_late(dispatcher)

    async with asyncio.TaskGroup() as group:
        submitting = group.create_task(dispatcher.submit())
        await pass_time(ADDED_WITHIN_S + 0.01)
        assert len(dispatcher.store.loaded) == 1
        go_on.set()

    await dispatcher.handed_out(session)
    assert dispatcher.store.loaded == [submitting.result()]


@serving
async def test_step_that_ended_after_a_conflict_is_handed_out_as_it_is(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    task_id = await dispatcher.submit()
    (first,) = await dispatcher.handed_out(session)
    lease = first.attempt.record.lease
    for owner in ("dispatcher-2", "dispatcher-1"):  # adopted by another one, and taken back
        record = await dispatcher.record(task_id)
        adopted = Adopted(token=lease, owner=owner, worker=f"worker-of-{owner}")
        (outcome,) = await dispatcher.engine.committer.apply(
            [Proposal(task_id=task_id, record=record, fact=adopted)]
        )
        assert outcome.applied

    fact = Completed(token=lease, outcome="completed", output=b"output")
    await dispatcher.report(session, first, fact)
    (second,) = await dispatcher.handed_out(session)

    assert dispatcher.store.loaded == []
    ((record, data),) = await dispatcher.store.load([task_id])
    assert (second.attempt.record, second.data) == (record, data)


def answers_late(dispatcher: Dispatcher) -> asyncio.Event:
    """Have commits carried out at once, and answered once the event is set."""
    go_on, commit = asyncio.Event(), dispatcher.store.commit

    async def late(
        transitions: Sequence[Transition], *, kind: CommitKind, live_max: int = 0
    ) -> list[Result]:
        results = await commit(transitions, kind=kind, live_max=live_max)
        await go_on.wait()
        return results

    dispatcher.store.commit = late  # type: ignore[method-assign]
    return go_on
