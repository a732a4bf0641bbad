"""Reading, matching and leasing: what is read finds a worker or goes back, and no slot is lost."""

import asyncio
from typing import Any

import pytest

from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.facts import CancelAsked, Completed
from stepstream_dispatcher.core.record import EventType, Stage
from stepstream_dispatcher.engine import sessions
from stepstream_dispatcher.engine.committer import Proposal
from stepstream_dispatcher.engine.feeder import READ_MAX
from stepstream_dispatcher.engine.sessions import Session
from stepstream_dispatcher.store.port import CommitKind, Entry, Result
from tests.support.engine import Dispatcher, Trouble, with_dispatcher
from tests.support.virtual_time import pass_time

feeding = with_dispatcher("committer", "feeder", "settling")
TASK = Submission(pipeline="translation", input=b"text")
interrupted = with_dispatcher("committer", "feeder", supervised=True)


@feeding
async def test_queued_task_is_handed_out(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    task_id = await dispatcher.submit()

    (handout,) = await dispatcher.handed_out(session)

    record = await dispatcher.record(task_id)
    assert handout.attempt.task_id == task_id
    assert handout.attempt.assignment_id == f"{task_id}/translate/1"
    assert handout.data["input"] == b"text"
    assert handout.timeout_ms == 300_000
    assert (record.stage, record.owner, record.worker) == (
        Stage.LEASED,
        "dispatcher-1",
        "worker-1",
    )
    assert session.attempts.keys() == {record.lease}
    assert not dispatcher.engine.feeder.in_hand


@feeding
async def test_credit_is_never_exceeded(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=3)
    for number in range(10):
        await dispatcher.submit(b"%d" % number)

    handouts = await dispatcher.handed_out(session, 3)
    await pass_time(5)

    assert (len(handouts), len(session.attempts), len(session.outbox.handouts)) == (3, 3, 0)
    assert len(await dispatcher.pending()) == 3


@feeding
async def test_a_worker_that_does_not_read_is_handed_no_more(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    """What it has not read is bounded by bytes; another worker gets the rest."""
    monkeypatch.setattr(sessions, "UNREAD_BYTES_MAX", 4)
    session = await dispatcher.connect(slots=10)
    for _ in range(4):
        await dispatcher.submit(b"xx")
        await pass_time(0.1)
    assert (len(session.outbox.handouts), session.free) == (2, 0)

    other = await dispatcher.connect("worker-2", slots=1)
    await dispatcher.handed_out(other)
    taken = session.outbox.take_handouts()
    await pass_time(5)
    assert (len(taken), len(session.outbox.handouts), session.free) == (2, 0, 0)

    assert session.outbox.written()
    dispatcher.engine.sessions.stir()
    await pass_time(0.1)
    assert len(session.outbox.handouts) == 1


async def translator(dispatcher: Dispatcher) -> Session:
    """A worker with one slot that serves one lane."""
    return await dispatcher.connect(
        slots=1, queues=frozenset({"default"}), step_types=frozenset({"translate"})
    )


@feeding
async def test_freed_slot_is_filled_again(dispatcher: Dispatcher):
    session = await translator(dispatcher)
    for number in range(3):
        await dispatcher.submit(b"%d" % number)

    for _ in range(3):
        (handout,) = await dispatcher.handed_out(session)
        fact = Completed(token=handout.attempt.record.lease, outcome="completed", output=b"x")
        assert await dispatcher.report(session, handout, fact) == "ACCEPTED"

    assert not dispatcher.engine.feeder.in_hand


@feeding
async def test_lane_that_gets_credit_while_another_is_read_is_waited_on_too(dispatcher: Dispatcher):
    """The reader must not block on the lanes that it knew when it began to look."""
    store, read = dispatcher.store, dispatcher.store.read
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow_read(queue: str, count: int) -> list[Entry]:
        reading.set()
        await go_on.wait()
        return await read(queue, count)

    store.read = slow_read  # type: ignore[method-assign]
    await dispatcher.connect(
        "translator", queues=frozenset({"default"}), step_types=frozenset({"translate"})
    )
    await reading.wait()
    await dispatcher.connect(
        "verifier", queues=frozenset({"checks"}), step_types=frozenset({"verify"})
    )
    await pass_time(0.1)
    go_on.set()
    await pass_time(0.1)

    assert dispatcher.engine.feeder._waiting_on == {"default", "checks"}


async def waiting_for(dispatcher: Dispatcher) -> int:
    """How many entries of each lane the reader waits for."""
    await pass_time(0.1)
    assert dispatcher.engine.feeder._waiting_on
    return dispatcher.engine.feeder._waiting_for


def lanes(*queues: str) -> dict[str, frozenset[str]]:
    steps = {"default": "translate", "checks": "verify"}
    return {
        "queues": frozenset(queues),
        "step_types": frozenset(steps[queue] for queue in queues),
    }


@pytest.mark.parametrize(
    ("slots", "queues", "count"),
    [
        (1, ["default"], 1),
        (5, ["default"], 5),
        (5, ["default", "checks"], 2),
        (1, ["default", "checks"], 1),
        (9999, ["default"], READ_MAX),
    ],
)
@feeding
async def test_what_is_waited_for_finds_room_whatever_comes(
    dispatcher: Dispatcher, slots: int, queues: list[str], count: int
):
    await dispatcher.connect(slots=slots, **lanes(*queues))

    assert await waiting_for(dispatcher) == count


@feeding
async def test_no_more_is_waited_for_than_the_lane_with_least_room_takes(dispatcher: Dispatcher):
    await dispatcher.connect("translator", slots=8, **lanes("default"))
    await dispatcher.connect("verifier", slots=4, **lanes("checks"))

    assert await waiting_for(dispatcher) == 2


@feeding
async def test_waiting_ends_when_there_is_room_for_less(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=4, **lanes("default"))
    assert await waiting_for(dispatcher) == 4

    session.max_in_flight = 1
    dispatcher.engine.sessions.stir()
    await pass_time(0.1)
    await dispatcher.engine.desk.submit_batch([TASK, TASK, TASK])
    await pass_time(0.1)

    assert len(session.outbox.handouts) == 1
    assert len(await dispatcher.pending()) == 1


@feeding
async def test_lane_that_loses_its_credit_while_it_is_read_is_not_waited_on(
    dispatcher: Dispatcher,
):
    read = dispatcher.store.read
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow_read(queue: str, count: int) -> list[Entry]:
        reading.set()
        await go_on.wait()
        return await read(queue, count)

    dispatcher.store.read = slow_read  # type: ignore[method-assign]
    session = await dispatcher.connect(slots=4, **lanes("default"))
    await reading.wait()
    session.max_in_flight = 0
    go_on.set()
    await pass_time(0.1)

    assert dispatcher.engine.feeder._waiting_on is None


@feeding
async def test_worker_that_is_kept_free_while_the_reader_waits_is_no_room(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=4, **lanes("default"))
    assert await waiting_for(dispatcher) == 4

    reserved = await dispatcher.engine.feeder._alone._reserve_worker("default", proven=False)
    await pass_time(0.1)

    assert reserved is session
    assert dispatcher.engine.feeder._waiting_on is None


@feeding
async def test_worker_that_is_clogged_while_the_reader_waits_is_no_room(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "UNREAD_BYTES_MAX", 4)
    go_on, commit = asyncio.Event(), dispatcher.store.commit

    async def slow(*args: Any, kind: CommitKind, **options: Any) -> list[Result]:
        if kind == "settle":
            await go_on.wait()
        return await commit(*args, kind=kind, **options)

    dispatcher.store.commit = slow  # type: ignore[method-assign]
    await dispatcher.connect(slots=4, **lanes("default"))
    await dispatcher.submit(b"large")
    assert await waiting_for(dispatcher) == 3

    go_on.set()
    await pass_time(0.1)

    assert dispatcher.engine.feeder._waiting_on is None


@feeding
async def test_tasks_that_come_at_once_are_leased_in_one_commit(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=4, **lanes("default"))
    await waiting_for(dispatcher)

    await dispatcher.engine.desk.submit_batch([TASK, TASK, TASK])
    await dispatcher.handed_out(session, 3)

    assert [len(commit) for commit in dispatcher.store.commits] == [3, 3]


@feeding
async def test_obsolete_entry_is_deleted_and_its_credit_comes_back(dispatcher: Dispatcher):
    """A worker with one slot must not wait for ever behind an entry that was none."""
    store = dispatcher.store
    await store._database.run(
        lambda c: c.execute(
            "INSERT INTO entries (queue, task_id, step) VALUES ('default', ?, 'translate')",
            ("f" * 32,),
        )
    )
    session = await dispatcher.connect(slots=1)
    await pass_time(1)
    task_id = await dispatcher.submit()

    (handout,) = await dispatcher.handed_out(session)

    assert handout.attempt.task_id == task_id
    assert await dispatcher.pending() == [task_id]


@feeding
async def test_entry_without_room_is_put_back_uncharged(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    await pass_time(0.5)  # the reader blocks on the lane
    session.max_in_flight = 0
    task_id = await dispatcher.submit()

    await pass_time(1.5)

    record = await dispatcher.record(task_id)
    assert (record.stage, record.attempt) == (Stage.QUEUED, 0)
    assert [event.type for event in await dispatcher.history(task_id)] == [
        EventType.SUBMITTED,
        EventType.QUEUED,
    ]
    assert not dispatcher.engine.feeder.in_hand
    assert await dispatcher.pending() == []


@feeding
async def test_entry_that_was_put_back_gives_its_credit_to_the_other_lane(dispatcher: Dispatcher):
    """No signal but the put-back itself tells the reader that it may read again."""
    default = await dispatcher.connect(
        "translator", slots=1, queues=frozenset({"default"}), step_types=frozenset({"translate"})
    )
    checks = await dispatcher.connect(
        "verifier", slots=1, queues=frozenset({"checks"}), step_types=frozenset({"verify"})
    )
    await pass_time(0.5)
    default.max_in_flight = 0
    await dispatcher.submit(b"unwanted")
    await pass_time(0.1)
    assert len(dispatcher.engine.feeder.in_hand) == 1

    await pass_time(1.5)

    assert dispatcher.engine.feeder._waiting_on == {"checks"}
    assert checks.free == 1


@feeding
async def test_entry_in_hand_goes_to_a_worker_that_comes_in_time(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    await pass_time(0.5)
    session.max_in_flight = 0
    task_id = await dispatcher.submit()
    await pass_time(0.5)

    late = await dispatcher.connect("late")

    (handout,) = await dispatcher.handed_out(late)
    assert handout.attempt.task_id == task_id
    assert (await dispatcher.record(task_id)).attempt == 1


@feeding
async def test_lease_whose_answer_was_lost_on_the_way_is_handed_out(dispatcher: Dispatcher):
    """The store resends such a call by itself, and then it answers DUPLICATE."""
    session = await dispatcher.connect()
    task_id = await dispatcher.submit()
    dispatcher.store.troubles.append("sent twice")

    (handout,) = await dispatcher.handed_out(session)

    record = await dispatcher.record(task_id)
    assert handout.attempt.record.lease == record.lease
    assert await dispatcher.pending() == [task_id]


@pytest.mark.parametrize("trouble", ["unreachable", "answer lost"])
@interrupted
async def test_lease_with_unknown_outcome_leaves_no_reserved_slot(
    dispatcher: Dispatcher, trouble: Trouble
):
    session = await dispatcher.connect(slots=1)
    await dispatcher.submit()
    dispatcher.store.troubles.append(trouble)

    await pass_time(1)

    assert session.attempts == {}
    assert session.free == 1
    assert not dispatcher.engine.feeder.in_hand
    assert len(await dispatcher.pending()) == 1  # for recovery to find


@interrupted
async def test_a_slot_that_was_reserved_when_the_feeder_was_interrupted_is_free_again(
    dispatcher: Dispatcher,
):
    """Its commit had not begun, so that nothing in it could let go."""
    feeder = dispatcher.engine.feeder
    await dispatcher.submit()
    (load,) = await feeder._load(await dispatcher.store.read("default", 1))
    session = await dispatcher.connect(slots=1)
    feeder._leasing.reserve([(load, session)])
    assert (session.free, session.leasing) == (0, 1)

    dispatcher.store.down = True
    dispatcher.engine.sessions.stir()
    await pass_time(1)
    dispatcher.store.down = False
    await pass_time(10)

    assert (session.free, session.leasing) == (1, 0)


@feeding
async def test_entry_of_a_task_that_was_cancelled_meanwhile_is_no_attempt(dispatcher: Dispatcher):
    dispatcher.store.slow.clear()
    session = await dispatcher.connect(slots=2)
    dispatcher.store.slow.set()
    first, second = await dispatcher.submit(b"1"), await dispatcher.submit(b"2")
    await dispatcher.handed_out(session, 2)

    assert {one.task_id for one in session.attempts.values()} == {first, second}


@interrupted
async def test_refused_lease_beside_a_good_one_costs_the_good_one_nothing(dispatcher: Dispatcher):
    """A store that fails in between must not strand an attempt on the table."""
    store, engine = dispatcher.store, dispatcher.engine
    tasks = [await dispatcher.submit(b"%d" % number) for number in range(2)]
    records = [await dispatcher.record(task_id) for task_id in tasks]
    entries = await store.read("default", 2)
    loads = await engine.feeder._load(entries)
    session = await dispatcher.connect(slots=2)
    fact = CancelAsked(reason="no longer needed")
    await engine.committer.apply([Proposal(task_id=tasks[0], record=records[0], fact=fact)])
    discard, store.discard = store.discard, fail  # type: ignore[method-assign]

    try:
        await engine.feeder._leasing.lease([(load, session) for load in loads])
    except StoreGone:
        store.discard = discard  # type: ignore[method-assign]

    (handout,) = await dispatcher.handed_out(session)
    assert handout.attempt.task_id == tasks[1]
    assert [one.task_id for one in session.attempts.values()] == [tasks[1]]


class StoreGone(Exception):
    pass


async def fail(*_: object) -> None:
    raise StoreGone


@feeding
async def test_worker_that_leaves_before_the_hand_out_costs_the_task_nothing(
    dispatcher: Dispatcher,
):
    session = await dispatcher.connect(slots=1)
    await pass_time(0.5)
    task_id = await dispatcher.submit()
    dispatcher.store.slow.clear()
    await pass_time(0.01)  # read and matched, its lease is being committed
    session.draining = True
    dispatcher.store.slow.set()

    await pass_time(0.5)

    record = await dispatcher.record(task_id)
    assert session.attempts == {}
    assert session.outbox.handouts == []
    assert (record.stage, record.failures, record.losses) == (Stage.QUEUED, 0, 0)
    assert (await dispatcher.history(task_id))[-1].type is EventType.RELEASED


@feeding
async def test_nothing_is_handed_out_after_the_word_that_the_dispatcher_leaves(
    dispatcher: Dispatcher,
):
    """A batch behind the drain breaks the protocol, and so the stream of what still runs."""
    session = await dispatcher.connect(slots=1)
    await pass_time(0.5)
    task_id = await dispatcher.submit()
    dispatcher.store.slow.clear()
    await pass_time(0.01)  # read and matched, its lease is being committed
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.engine.drain(grace_s=5))
        await pass_time(0.01)
        session.outbox.drain = ""  # it is written
        dispatcher.store.slow.set()

    record = await dispatcher.record(task_id)
    event = (await dispatcher.history(task_id))[-1]
    assert session.outbox.handouts == []
    assert (record.stage, record.failures, record.losses) == (Stage.QUEUED, 0, 0)
    assert (event.type, event.message) == (
        EventType.RELEASED,
        "the dispatcher left before the hand-out",
    )


@feeding
async def test_stopped_feeder_puts_back_what_it_has_in_hand(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    await pass_time(0.5)
    session.max_in_flight = 0
    task_id = await dispatcher.submit()
    await pass_time(0.1)
    assert dispatcher.engine.feeder.in_hand

    dispatcher.engine.feeder.stop()
    session.max_in_flight = 1
    dispatcher.engine.sessions.stir()
    await pass_time(0.2)

    assert session.attempts == {}
    assert not dispatcher.engine.feeder.in_hand
    assert (await dispatcher.record(task_id)).stage is Stage.QUEUED
    assert await dispatcher.pending() == []


@feeding
async def test_entries_of_two_lanes_may_have_the_same_id(dispatcher: Dispatcher):
    """A lane numbers its entries by itself, so an id names nothing without its lane."""
    translation = await dispatcher.submit(b"translation")
    record = await dispatcher.record(translation)
    same = Entry("checks", record.entry, "f" * 32, "verify")

    loads = await dispatcher.engine.feeder._load([same])

    assert loads == []
    (load,) = await dispatcher.engine.feeder._load(await dispatcher.store.read("default", 1))
    assert load.record.entry == record.entry
    assert load.data["input"] == b"translation"
