"""What callers ask for, in every stage of a task."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stepstream.errors import (
    InvalidTask,
    QueueFull,
    ReviewConflict,
    RevisionsExhausted,
    StepstreamError,
    StoreUnavailable,
    TaskConflict,
    TaskFinished,
    TaskNotFound,
)
from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.facts import Completed, Failed, Reviewed
from stepstream_dispatcher.core.record import Event, Stage
from stepstream_dispatcher.engine.desk import BATCH_MAX, Accepted, Selection
from stepstream_dispatcher.engine.sessions import Session
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

serving = with_dispatcher("committer", "feeder", "settling", "watch")


async def work(dispatcher: Dispatcher, session: Session, outcome: str) -> str:
    """Complete the next attempt; returns its task id."""
    (handout,) = await dispatcher.handed_out(session)
    fact = Completed(token=handout.attempt.record.lease, outcome=outcome, output=b"output")
    assert await dispatcher.report(session, handout, fact) == "ACCEPTED"
    return handout.attempt.task_id


async def in_review(dispatcher: Dispatcher) -> str:
    session = await dispatcher.connect(slots=1)
    task_id = await dispatcher.submit()
    await work(dispatcher, session, "completed")
    await work(dispatcher, session, "rejected")
    session.max_in_flight = 0
    return task_id


async def queued(dispatcher: Dispatcher) -> str:
    return await dispatcher.submit()


async def scheduled(dispatcher: Dispatcher) -> str:
    return await dispatcher.submit(delay_ms=60_000)


async def retrying(dispatcher: Dispatcher) -> str:
    session = await dispatcher.connect(slots=1)
    task_id = await dispatcher.submit()
    (handout,) = await dispatcher.handed_out(session)
    token = handout.attempt.record.lease
    fact = Failed(token=token, code="BUSY", message="busy", retryable=True)
    await dispatcher.report(session, handout, fact)
    return task_id


def decision(word: str, **changes: object) -> Reviewed:
    return Reviewed(decision=word, reviewer="ada", **changes)  # type: ignore[arg-type]


# --- submit --------------------------------------------------------------------------------------


@serving
async def test_same_request_is_one_task(dispatcher: Dispatcher):
    desk = dispatcher.engine.desk
    submission = Submission(pipeline="translation", input=b"text", request_id="r-1")

    first, second = await desk.submit(submission), await desk.submit(submission)

    assert first.task_id == second.task_id
    assert (first.duplicate, second.duplicate) == (False, True)
    assert second.state == "pending"


@serving
async def test_same_request_with_another_input_is_a_conflict(dispatcher: Dispatcher):
    await dispatcher.submit(b"one", request_id="r-1")

    with pytest.raises(TaskConflict):
        await dispatcher.submit(b"two", request_id="r-1")


@serving
async def test_requests_without_an_id_are_tasks_of_their_own(dispatcher: Dispatcher):
    assert await dispatcher.submit() != await dispatcher.submit()


@serving
async def test_batch_answers_each_by_itself_and_in_order(dispatcher: Dispatcher):
    good = Submission(pipeline="translation", input=b"text", request_id="same")
    submissions = [
        good,
        Submission(pipeline="unknown", input=b"text"),
        good,
        Submission(pipeline="translation", input=b""),
        Submission(pipeline="translation", input=b"other", request_id="same"),
    ]

    answers = await dispatcher.engine.desk.submit_batch(submissions)

    assert [type(answer) for answer in answers] == [
        Accepted,
        InvalidTask,
        Accepted,
        InvalidTask,
        TaskConflict,
    ]
    fields = [answer.field for answer in answers if isinstance(answer, InvalidTask)]
    assert fields == ["pipeline", "input"]


@pytest.mark.parametrize("amount", [0, BATCH_MAX + 1])
@serving
async def test_batch_has_limits(dispatcher: Dispatcher, amount: int):
    submission = Submission(pipeline="translation", input=b"text")

    with pytest.raises(InvalidTask):
        await dispatcher.engine.desk.submit_batch([submission] * amount)


@with_dispatcher("committer", live_max=1)
async def test_task_beyond_the_limit_is_refused_with_a_delay(dispatcher: Dispatcher):
    await dispatcher.submit()

    with pytest.raises(QueueFull) as caught:
        await dispatcher.submit()

    assert caught.value.retry_after_s == 1.0


@serving
async def test_lost_store_is_an_error_of_each(dispatcher: Dispatcher):
    dispatcher.store.troubles.append("answer lost")
    good = Submission(pipeline="translation", input=b"text", request_id="r-1")
    bad = Submission(pipeline="translation", input=b"")

    answers = await dispatcher.engine.desk.submit_batch([good, bad])

    assert [type(answer) for answer in answers] == [StoreUnavailable, InvalidTask]
    assert (await dispatcher.engine.desk.submit(good)).duplicate


# --- read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task_id", "error"), [("0" * 32, TaskNotFound), ("not an id", InvalidTask)]
)
@serving
async def test_what_is_not_there_cannot_be_read_or_changed(
    dispatcher: Dispatcher, task_id: str, error: type[StepstreamError]
):
    desk = dispatcher.engine.desk
    for call in (
        desk.get(task_id),
        desk.wait(task_id, timeout_s=1, through_review=False),
        desk.cancel(task_id, reason=""),
        desk.review(task_id, decision("approved")),
    ):
        with pytest.raises(error):
            await call


@serving
async def test_wait_ends_with_the_task(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    desk = dispatcher.engine.desk
    async with asyncio.TaskGroup() as group:
        waiter = group.create_task(desk.wait(task_id, timeout_s=30, through_review=False))
        await pass_time(1)
        await desk.cancel(task_id, reason="")

    sight = waiter.result()
    assert sight is not None
    assert sight.record.state == "cancelled"


@pytest.mark.parametrize(("through", "state"), [(False, "human_review"), (True, None)])
@serving
async def test_wait_ends_at_a_review_unless_told_to_go_through(
    dispatcher: Dispatcher, *, through: bool, state: str | None
):
    task_id = await in_review(dispatcher)

    sight = await dispatcher.engine.desk.wait(task_id, timeout_s=5, through_review=through)

    assert (sight.record.state if sight else None) == state


@serving
async def test_wait_has_a_limit_and_leaves_no_watcher(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    began = asyncio.get_running_loop().time()

    assert await dispatcher.engine.desk.wait(task_id, timeout_s=7, through_review=True) is None

    assert asyncio.get_running_loop().time() - began == pytest.approx(7)
    assert dispatcher.engine.watch._watchers == {}


@serving
async def test_tasks_are_listed_by_state_and_label_over_pages(dispatcher: Dispatcher):
    desk = dispatcher.engine.desk
    for number in range(5):
        await dispatcher.submit(b"%d" % number, labels={"odd": str(number % 2)})
        await pass_time(0.01)
    await scheduled(dispatcher)

    listed: list[bytes] = []
    token = ""
    while True:
        page = await desk.list(Selection(page_size=1, page_token=token, labels={"odd": "0"}))
        listed += [sight.data["input"] for sight in page.tasks]
        if not (token := page.next_page_token):
            break

    assert listed == [b"4", b"2", b"0"]
    assert len((await desk.list(Selection(state="scheduled"))).tasks) == 1
    assert len((await desk.list(Selection(pipeline="translation"))).tasks) == 6


@pytest.mark.parametrize(
    "selection", [Selection(page_size=-1), Selection(page_size=1001), Selection(page_token="?")]
)
@serving
async def test_bad_page_is_refused(dispatcher: Dispatcher, selection: Selection):
    with pytest.raises(InvalidTask):
        await dispatcher.engine.desk.list(selection)


@pytest.mark.parametrize(
    ("selection", "field"),
    [(Selection(state="transalting"), "state"), (Selection(pipeline="other"), "pipeline")],
)
@serving
async def test_filter_that_nothing_can_match_is_refused(
    dispatcher: Dispatcher, selection: Selection, field: str
):
    with pytest.raises(InvalidTask) as caught:
        await dispatcher.engine.desk.list(selection)

    assert caught.value.field == field


@serving
async def test_a_task_that_has_expired_is_not_found_by_what_it_left(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    left = await dispatcher.history(await dispatcher.submit())

    async def history(_task_id: str, *, after: int) -> list[Event]:
        return left  # in Redis, until it is trimmed

    monkeypatch.setattr(dispatcher.store, "history", history)

    with pytest.raises(TaskNotFound):
        await dispatcher.engine.desk.history("0" * 32, after=0)


# --- cancel --------------------------------------------------------------------------------------


@pytest.mark.parametrize("brought", [queued, scheduled, retrying, in_review])
@serving
async def test_cancel_ends_what_nobody_holds(
    dispatcher: Dispatcher, brought: Callable[[Dispatcher], Awaitable[str]]
):
    task_id = await brought(dispatcher)
    desk = dispatcher.engine.desk

    assert (await desk.cancel(task_id, reason="r")).record.state == "cancelled"
    assert (await desk.cancel(task_id, reason="r")).record.state == "cancelled"
    assert (await dispatcher.store.counts())["live"] == 0


@serving
async def test_cancel_of_a_running_step_is_told_to_its_worker_once(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    task_id = await dispatcher.submit()
    await dispatcher.handed_out(session)

    for _ in range(2):
        sight = await dispatcher.engine.desk.cancel(task_id, reason="r")
        assert (sight.record.stage, sight.record.cancel) == (Stage.LEASED, 1)

    assert [word.reason for word in session.outbox.cancels] == ["REQUESTED"]


@serving
async def test_cancel_after_the_end_is_refused(dispatcher: Dispatcher):
    task_id = await in_review(dispatcher)
    await dispatcher.engine.desk.review(task_id, decision("approved"))

    with pytest.raises(TaskFinished, match="done"):
        await dispatcher.engine.desk.cancel(task_id, reason="r")


# --- review --------------------------------------------------------------------------------------


@serving
async def test_review_that_was_decided_before_says_by_whom(dispatcher: Dispatcher):
    task_id = await in_review(dispatcher)
    desk = dispatcher.engine.desk
    assert (await desk.review(task_id, decision("approved"))).record.state == "done"

    with pytest.raises(ReviewConflict, match="decided by ada"):
        await desk.review(task_id, decision("approved"))


@serving
async def test_of_two_reviewers_at_once_one_wins(dispatcher: Dispatcher):
    task_id = await in_review(dispatcher)
    version = (await dispatcher.record(task_id)).version
    conflicts = 0

    async def review(word: str) -> None:
        nonlocal conflicts
        try:
            fact = decision(word, seen_version=version, output=b"edited")
            await dispatcher.engine.desk.review(task_id, fact)
        except ReviewConflict:
            conflicts += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(review("approved"))
        group.create_task(review("edited"))

    assert conflicts == 1


@serving
async def test_review_of_another_version_is_told_to_look_again(dispatcher: Dispatcher):
    task_id = await in_review(dispatcher)

    with pytest.raises(ReviewConflict, match="look again"):
        await dispatcher.engine.desk.review(task_id, decision("approved", seen_version=1))


@serving
async def test_task_that_does_not_wait_cannot_be_reviewed(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()

    with pytest.raises(ReviewConflict, match="does not wait"):
        await dispatcher.engine.desk.review(task_id, decision("approved"))


@serving
async def test_revisions_run_out(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=1)
    task_id = await dispatcher.submit()
    desk = dispatcher.engine.desk
    fact = decision("rejected", feedback="again")
    for _ in range(3):
        await work(dispatcher, session, "completed")
        await work(dispatcher, session, "rejected")
        assert (await desk.review(task_id, fact)).record.state == "translating"
    await work(dispatcher, session, "completed")
    await work(dispatcher, session, "rejected")

    with pytest.raises(RevisionsExhausted):
        await desk.review(task_id, fact)

    assert (await dispatcher.record(task_id)).state == "human_review"
    assert (await desk.review(task_id, decision("approved"))).record.state == "done"
