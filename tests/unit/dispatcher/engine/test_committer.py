"""Group commit: what waits goes out together, and every caller hears what became of it."""

import asyncio
import contextlib
import gc

import msgspec
import pytest
from structlog.testing import capture_logs

from stepstream.errors import InternalError, StoreUnavailable
from stepstream_dispatcher.core.admission import Submission, creation
from stepstream_dispatcher.core.facts import CancelAsked, Redriven
from stepstream_dispatcher.core.lifecycle import Refusal
from stepstream_dispatcher.core.record import Stage, TaskRecord, Transition
from stepstream_dispatcher.engine.commit_lane import (
    CALL_BYTES_MAX,
    CALL_TRANSITIONS_MAX,
    COMPANY,
    GATHER_S,
    SECOND_FROM,
    Call,
)
from stepstream_dispatcher.engine.committer import DECISIONS_MAX, Outcome, Proposal
from stepstream_dispatcher.store.port import CommitKind, CommitPartly, Result, Verdict
from tests.support.engine import Dispatcher, Trouble, with_dispatcher
from tests.support.records import NOW_MS, TRANSLATION
from tests.support.virtual_time import pass_time

committing = with_dispatcher("committer")


def new_task(number: int, *, payload: bytes = b"text") -> Transition:
    return creation(
        Submission(pipeline="translation", input=payload),
        TRANSLATION,
        task_id=f"{number:032x}",
        op_id=f"{number:08x}",
        now_ms=NOW_MS,
    )


async def create_side_by_side(
    dispatcher: Dispatcher, transitions: list[Transition]
) -> list[Verdict]:
    """Each by a caller of its own, all before the first call goes out."""
    async with asyncio.TaskGroup() as group:
        callers = [
            group.create_task(dispatcher.engine.committer.create([one])) for one in transitions
        ]
    return [caller.result()[0].verdict for caller in callers]


async def cancel(dispatcher: Dispatcher, task_id: str, record: TaskRecord) -> Outcome:
    fact = CancelAsked(reason="")
    proposal = Proposal(task_id=task_id, record=record, fact=fact)
    (outcome,) = await dispatcher.engine.committer.apply([proposal])
    return outcome


def sizes(dispatcher: Dispatcher) -> list[int]:
    return [len(call) for call in dispatcher.store.commits]


@committing
async def test_what_waits_goes_out_in_one_call(dispatcher: Dispatcher):
    verdicts = await create_side_by_side(dispatcher, [new_task(number) for number in range(50)])

    assert verdicts == [Verdict.APPLIED] * 50
    assert sizes(dispatcher) == [50]


@committing
async def test_creations_that_come_during_a_call_go_out_in_the_next(dispatcher: Dispatcher):
    dispatcher.store.slow.clear()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(dispatcher.engine.committer.create([new_task(number)]))
            await pass_time(0.01)
        dispatcher.store.slow.set()

    assert sizes(dispatcher) == [1, 9]


@committing
async def test_many_creations_do_not_wait_for_the_call_before(dispatcher: Dispatcher):
    many = SECOND_FROM["submit"]
    dispatcher.store.slow.clear()
    async with asyncio.TaskGroup() as group:
        for number in range(many + 2):
            group.create_task(dispatcher.engine.committer.create([new_task(number)]))
            await pass_time(0.01)
        assert sizes(dispatcher) == [1, many]
        dispatcher.store.slow.set()

    assert sizes(dispatcher) == [1, many, 1]


async def create_one_by_one(dispatcher: Dispatcher, numbers: range, *, gap_s: float) -> float:
    """Each by a caller of its own; virtual seconds from the last one to its result."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for number in numbers:
            await pass_time(gap_s)
            began = loop.time()
            group.create_task(dispatcher.engine.committer.create([new_task(number)]))
    return loop.time() - began


@committing
async def test_creations_that_come_closely_share_calls_while_no_call_is_under_way(
    dispatcher: Dispatcher,
):
    await create_one_by_one(dispatcher, range(100), gap_s=GATHER_S / 4)

    calls = sizes(dispatcher)
    assert calls[0] == 1, "nobody waits before it is known that others come"
    assert min(calls[-10:-1]) >= 4


@committing
async def test_creation_waits_no_longer_than_a_moment_for_company(dispatcher: Dispatcher):
    took_s = await create_one_by_one(dispatcher, range(100), gap_s=GATHER_S / 4)

    assert GATHER_S / 2 < took_s < GATHER_S * 1.01


@committing
async def test_creation_that_comes_after_a_pause_waits_for_nobody(dispatcher: Dispatcher):
    await create_one_by_one(dispatcher, range(100), gap_s=GATHER_S / 4)
    took_s = await create_one_by_one(dispatcher, range(100, 101), gap_s=1.0)

    assert took_s < GATHER_S / 100


@committing
async def test_creations_in_company_wait_for_no_more(dispatcher: Dispatcher):
    await create_one_by_one(dispatcher, range(100), gap_s=GATHER_S / 4)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await create_side_by_side(dispatcher, [new_task(100 + number) for number in range(COMPANY)])

    assert loop.time() - began < GATHER_S / 100
    assert sizes(dispatcher)[-1] == COMPANY


@committing
async def test_creations_that_come_further_apart_wait_for_nobody(dispatcher: Dispatcher):
    await create_one_by_one(dispatcher, range(100), gap_s=GATHER_S * 0.75)

    assert sizes(dispatcher) == [1] * 100


@committing
async def test_what_workers_wait_for_never_waits_for_company(dispatcher: Dispatcher):
    many = 50
    tasks = [await dispatcher.submit(b"%d" % number) for number in range(many)]
    records = [await dispatcher.record(task_id) for task_id in tasks]
    dispatcher.store.commits.clear()
    async with asyncio.TaskGroup() as group:
        for task_id, record in zip(tasks, records, strict=True):
            group.create_task(cancel(dispatcher, task_id, record))
            await pass_time(GATHER_S / 10)

    assert sizes(dispatcher) == [1] * many


@committing
async def test_what_workers_wait_for_does_not_wait_for_the_call_before(dispatcher: Dispatcher):
    tasks = [await dispatcher.submit(b"%d" % number) for number in range(3)]
    records = [await dispatcher.record(task_id) for task_id in tasks]
    dispatcher.store.commits.clear()
    dispatcher.store.slow.clear()
    async with asyncio.TaskGroup() as group:
        for task_id, record in zip(tasks, records, strict=True):
            group.create_task(cancel(dispatcher, task_id, record))
            await pass_time(0.01)
        assert sizes(dispatcher) == [1, 1]
        dispatcher.store.slow.set()

    assert sizes(dispatcher) == [1, 1, 1]


@committing
async def test_call_carries_no_more_than_its_limit(dispatcher: Dispatcher):
    transitions = [new_task(number) for number in range(CALL_TRANSITIONS_MAX * 2 + 1)]

    results = await dispatcher.engine.committer.create(transitions)

    assert {result.verdict for result in results} == {Verdict.APPLIED}
    assert sizes(dispatcher) == [CALL_TRANSITIONS_MAX, CALL_TRANSITIONS_MAX, 1]


@committing
async def test_call_carries_no_more_bytes_than_its_limit(dispatcher: Dispatcher):
    payload = b"x" * (CALL_BYTES_MAX // 4)
    transitions = [new_task(number, payload=payload) for number in range(4)]

    await dispatcher.engine.committer.create(transitions)

    assert sizes(dispatcher) == [3, 1]


@committing
async def test_transition_beyond_the_limit_goes_alone(dispatcher: Dispatcher):
    large = new_task(1, payload=b"x" * (CALL_BYTES_MAX + 1))

    results = await dispatcher.engine.committer.create([new_task(0), large, new_task(2)])

    assert [result.verdict for result in results] == [Verdict.APPLIED] * 3
    assert sizes(dispatcher) == [1, 1, 1]


@committing
async def test_call_carries_one_transition_of_a_task_and_keeps_their_order(dispatcher: Dispatcher):
    first, same, other = new_task(1), new_task(1, payload=b"other"), new_task(2)

    verdicts = await create_side_by_side(dispatcher, [first, same, other])

    assert verdicts == [Verdict.APPLIED, Verdict.DUPLICATE, Verdict.APPLIED]
    assert sizes(dispatcher) == [2, 1]


@committing
async def test_conflict_is_decided_again_from_the_newer_record(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    stale = await dispatcher.record(task_id)
    await dispatcher.store.read("default", 1)
    await cancel(dispatcher, task_id, stale)

    outcome = await cancel(dispatcher, task_id, stale)

    assert not outcome.applied
    assert outcome.refusal is Refusal.OBSOLETE
    assert outcome.record is not None
    assert outcome.record.state == "cancelled"


@pytest.mark.parametrize(
    ("conflicts", "applied"), [(DECISIONS_MAX - 1, True), (DECISIONS_MAX, False)]
)
@committing
async def test_contended_task_is_given_up_after_some_decisions(
    dispatcher: Dispatcher, *, conflicts: int, applied: bool
):
    task_id = await dispatcher.submit()
    record = await dispatcher.record(task_id)
    commit, left = dispatcher.store.commit, conflicts
    op_ids: set[str] = set()

    async def contended(transitions: list[Transition], *, kind: CommitKind, live_max: int = 0):
        nonlocal left
        op_ids.update(one.op_id for one in transitions)
        if left:
            left -= 1
            return [Result(Verdict.VERSION_CONFLICT, record)]
        return await commit(transitions, kind=kind, live_max=live_max)

    dispatcher.store.commit = contended  # type: ignore[method-assign, assignment]
    outcome = await cancel(dispatcher, task_id, record)

    assert outcome.applied is applied
    assert len(op_ids) == 1
    if not applied:
        assert outcome.verdict is Verdict.VERSION_CONFLICT


@committing
async def test_refused_fact_is_not_sent(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    record = await dispatcher.record(task_id)
    sent = len(dispatcher.store.commits)

    (refused, applied) = await dispatcher.engine.committer.apply(
        [
            Proposal(task_id=task_id, record=record, fact=Redriven()),
            Proposal(task_id=task_id, record=record, fact=CancelAsked(reason="")),
        ]
    )

    assert refused.refusal is Refusal.NOT_FAILED
    assert (refused.verdict, applied.applied) == (None, True)
    assert sizes(dispatcher)[sent:] == [1]


@pytest.mark.parametrize("trouble", ["unreachable", "answer lost"])
@committing
async def test_lost_store_is_an_error_to_every_caller(dispatcher: Dispatcher, trouble: Trouble):
    dispatcher.store.troubles.append(trouble)
    errors = 0

    async def create(number: int) -> None:
        nonlocal errors
        try:
            await dispatcher.engine.committer.create([new_task(number)])
        except StoreUnavailable:
            errors += 1

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(create(number))

    assert errors == 20
    assert await dispatcher.engine.committer.create([new_task(99)])


@committing
async def test_what_could_not_be_committed_is_not_kept(dispatcher: Dispatcher):
    """Its inputs are large, and counted by nobody once their caller has been answered."""
    dispatcher.store.troubles.append("unreachable")
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(StoreUnavailable):
            await dispatcher.engine.committer.create([new_task(0)])
        await dispatcher.engine.committer.create([new_task(1)])
        kept = [call for call in gc.get_objects() if isinstance(call, Call)]
        assert new_task(0).task_id not in {call.transitions[0].task_id for call in kept}
    finally:
        gc.enable()


@committing
async def test_transition_that_fails_alone_leaves_the_others_whole(dispatcher: Dispatcher):
    """Of one caller as of others: each is told what became of its own."""
    broken = new_task(0)
    dispatcher.store.broken.add(broken.task_id)
    create = dispatcher.engine.committer.create
    async with asyncio.TaskGroup() as group:
        alone = group.create_task(create([new_task(1)]))
        beside = group.create_task(create([broken, new_task(2)]))

    assert sizes(dispatcher) == [3]
    error, result = beside.result()
    assert isinstance(error, InternalError)
    assert error.message == f"the store cannot change task {broken.task_id}"
    assert [result.verdict, alone.result()[0].verdict] == [Verdict.APPLIED] * 2


@committing
async def test_fact_that_the_store_cannot_carry_out_is_one_refusal_among_others(
    dispatcher: Dispatcher,
):
    tasks = [await dispatcher.submit(b"%d" % number) for number in range(3)]
    dispatcher.store.broken.add(tasks[1])
    proposals = [
        Proposal(task_id=one, record=await dispatcher.record(one), fact=CancelAsked(reason=""))
        for one in tasks
    ]

    with capture_logs() as logs:
        outcomes = await dispatcher.engine.committer.apply(proposals)
        outcomes += await dispatcher.engine.committer.apply([proposals[1]])

    assert [one.refusal for one in outcomes] == [None, Refusal.BROKEN, None, Refusal.BROKEN]
    assert [one.applied for one in outcomes] == [True, False, True, False]
    assert [(line["task"], line["error"]) for line in logs] == [(tasks[1], "a script error")]


@committing
async def test_what_became_of_nobody_knows_is_an_error_to_its_caller_alone(dispatcher: Dispatcher):
    commit = dispatcher.store.commit

    async def partly(transitions: list[Transition], *, kind: CommitKind, live_max: int = 0):
        results = await commit(transitions[1:], kind=kind, live_max=live_max)
        raise CommitPartly("it went away", [None, *results])

    dispatcher.store.commit = partly  # type: ignore[method-assign, assignment]
    async with asyncio.TaskGroup() as group:
        unknown = group.create_task(suppressed(dispatcher, new_task(0)))
        known = group.create_task(dispatcher.engine.committer.create([new_task(1)]))

    assert unknown.result() == "it went away"
    assert known.result()[0].verdict is Verdict.APPLIED


@with_dispatcher()
async def test_callers_of_an_interrupted_call_hear_of_it(dispatcher: Dispatcher):
    dispatcher.store.slow.clear()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(dispatcher.engine.committer.run())
        caller = group.create_task(suppressed(dispatcher, new_task(1)))
        await pass_time(0.01)
        running.cancel()

    assert caller.result() == "the commit was interrupted"


async def suppressed(dispatcher: Dispatcher, transition: Transition) -> str:
    try:
        await dispatcher.engine.committer.create([transition])
    except StoreUnavailable as error:
        return error.message
    return ""


@committing
async def test_caller_that_leaves_does_not_undo_what_it_asked_for(dispatcher: Dispatcher):
    dispatcher.store.slow.clear()
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(suppressed(dispatcher, new_task(1)))
        await pass_time(0.01)
        caller.cancel()
    dispatcher.store.slow.set()
    await pass_time(0.01)

    assert (await dispatcher.record(f"{1:032x}")).state == "pending"


@committing
async def test_submissions_do_not_wait_for_settlements(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    record = await dispatcher.record(task_id)
    dispatcher.store.slow.clear()
    async with asyncio.TaskGroup() as group:
        settling = group.create_task(cancel(dispatcher, task_id, record))
        await pass_time(0.01)
        creating = group.create_task(dispatcher.engine.committer.create([new_task(2)]))
        await pass_time(0.01)
        assert [call[0].task_id for call in dispatcher.store.commits[1:]] == [
            task_id,
            f"{2:032x}",
        ]
        dispatcher.store.slow.set()

    assert settling.result().applied
    assert creating.result()[0].verdict is Verdict.APPLIED


@with_dispatcher("committer", live_max=2)
async def test_creation_beyond_the_limit_is_full(dispatcher: Dispatcher):
    verdicts = await create_side_by_side(dispatcher, [new_task(number) for number in range(3)])

    assert sorted(verdicts) == [Verdict.APPLIED, Verdict.APPLIED, Verdict.FULL]


# --- a pipeline that nobody defines --------------------------------------------------------------


async def misplace(dispatcher: Dispatcher, *task_ids: str, pipeline: str = "gone@00000000") -> None:
    """Have tasks belong to a pipeline that is defined nowhere."""
    change = "json_set(fields, '$.pipeline', ?, '$.version', '9')"
    statement = f"UPDATE tasks SET fields = {change} WHERE task_id = ?"  # noqa: S608 - ours
    rows = [(pipeline, task_id) for task_id in task_ids]
    await dispatcher.store._database.run(lambda c: c.executemany(statement, rows))


@committing
async def test_unknown_pipeline_is_one_refusal_among_others(dispatcher: Dispatcher):
    lost, kept = [await dispatcher.submit(text) for text in (b"lost", b"kept")]
    await misplace(dispatcher, lost)
    proposals = [
        Proposal(task_id=one, record=await dispatcher.record(one), fact=CancelAsked(reason=""))
        for one in (lost, kept)
    ]

    outcomes = await dispatcher.engine.committer.apply(proposals)

    assert [outcome.refusal for outcome in outcomes] == [Refusal.UNKNOWN_PIPELINE, None]
    assert (await dispatcher.record(kept)).state == "cancelled"


@committing
async def test_step_that_its_pipeline_has_not_is_refused_too(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    record = msgspec.structs.replace(await dispatcher.record(task_id), step="another")

    assert (await cancel(dispatcher, task_id, record)).refusal is Refusal.UNKNOWN_PIPELINE


@committing
async def test_caller_is_told_that_the_pipeline_is_unknown(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    await misplace(dispatcher, task_id)

    with pytest.raises(InternalError, match="gone@00000000"):
        await dispatcher.engine.desk.cancel(task_id, reason="")


@with_dispatcher("committer", "feeder", "settling", "leases", "timers", "recovery")
async def test_tasks_of_an_unknown_pipeline_hold_up_no_other_and_are_logged_once(
    dispatcher: Dispatcher, capsys: pytest.CaptureFixture[str]
):
    delayed = [await dispatcher.submit(b"%d" % n, delay_ms=1_000) for n in range(300)]
    queued = await dispatcher.submit(b"queued")
    await misplace(dispatcher, queued, *delayed)
    sound = await dispatcher.submit(b"sound", delay_ms=2_000)
    session = await dispatcher.connect(slots=5)

    (handout,) = await dispatcher.handed_out(session)
    await pass_time(10)

    assert handout.attempt.task_id == sound
    assert (await dispatcher.record(queued)).stage is Stage.QUEUED
    assert capsys.readouterr().out.count("defined nowhere") == 1


@with_dispatcher("committer", "feeder", "recovery")
async def test_tasks_go_on_once_their_pipeline_is_defined(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    await misplace(dispatcher, task_id)
    session = await dispatcher.connect()
    await pass_time(2)
    assert await dispatcher.pending() == [task_id]

    await misplace(dispatcher, task_id, pipeline=TRANSLATION.key)

    (handout,) = await dispatcher.handed_out(session)
    assert handout.attempt.task_id == task_id
