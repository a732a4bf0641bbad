"""What operators ask for, on a store in memory and with hand-made workers."""

import pytest

from stepstream.errors import (
    InvalidTask,
    PayloadTooLarge,
    QueueNotFound,
    TaskNotFailed,
    TaskNotFound,
    WorkerNotFound,
)
from stepstream_dispatcher.core.facts import CancelAsked, Failed
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.engine.committer import Proposal
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

operated = with_dispatcher("committer", "feeder", "settling", "intents", "_roster")
UNKNOWN = "0" * 32


async def dead_letter(dispatcher: Dispatcher, text: bytes = b"text") -> str:
    """A task that a worker has failed for good; its worker is gone."""
    session = await dispatcher.connect("fails")
    task_id = await dispatcher.submit(text)
    (handout,) = await dispatcher.handed_out(session)
    fact = Failed(
        token=handout.attempt.record.lease, code="BAD", message="no text", retryable=False
    )
    await dispatcher.report(session, handout, fact)
    dispatcher.engine.sessions.remove(session)
    await dispatcher.engine._roster.save()
    return task_id


# --- workers -------------------------------------------------------------------------------------


@operated
async def test_workers_are_listed_with_what_they_hold(dispatcher: Dispatcher):
    session = await dispatcher.connect("b", slots=3)
    await dispatcher.submit()
    await dispatcher.handed_out(session)
    await dispatcher.connect("a")
    await pass_time(0.3)

    a, b = await dispatcher.engine.operations.workers()

    assert (a.name, b.name) == ("a", "b")
    assert (b.in_flight, b.max_in_flight, b.dispatcher_id) == (1, 3, "dispatcher-1")
    assert (b.queues, b.step_types) == (("checks", "default"), ("translate", "verify"))
    assert (b.instance_id, b.sdk, b.draining) == ("b-instance", "test", False)
    assert 0 <= dispatcher.store.now_ms() - b.seen_ms < 1000


@operated
async def test_worker_that_left_holds_nothing_and_belongs_to_nobody(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    dispatcher.engine.leases.broke(session)
    await pass_time(0.3)

    (worker,) = await dispatcher.engine.operations.workers()

    assert (worker.dispatcher_id, worker.in_flight, worker.draining) == ("", 0, False)


@operated
async def test_workers_of_a_dispatcher_that_is_gone_are_gone(dispatcher: Dispatcher):
    await dispatcher.connect()
    await dispatcher.store.save_worker("worker-1", {"dispatcher": "dead"})

    (worker,) = await dispatcher.engine.operations.workers()

    assert worker.dispatcher_id == ""


@operated
async def test_drained_worker_is_shown_as_such_at_once(dispatcher: Dispatcher):
    await dispatcher.connect()

    await dispatcher.engine.operations.drain("worker-1")

    (worker,) = await dispatcher.engine.operations.workers()
    assert worker.draining


@operated
async def test_drain_is_forgotten_once_the_worker_has_left(dispatcher: Dispatcher):
    session = await dispatcher.connect()
    await dispatcher.engine.operations.drain("worker-1")
    await pass_time(0.3)
    assert (await dispatcher.store.intents()).draining == {"worker-1-instance"}

    dispatcher.engine.leases.broke(session)
    await pass_time(0.3)

    assert (await dispatcher.store.intents()).draining == set()
    await dispatcher.engine.operations.drain("worker-1")  # it has left: nothing to do
    assert (await dispatcher.store.intents()).draining == set()


@pytest.mark.parametrize(("name", "error"), [("nobody", WorkerNotFound), ("", InvalidTask)])
@operated
async def test_nobody_is_not_drained(dispatcher: Dispatcher, name: str, error: type[Exception]):
    with pytest.raises(error):
        await dispatcher.engine.operations.drain(name)


# --- queues --------------------------------------------------------------------------------------


@operated
async def test_queue_that_a_worker_serves_can_be_paused(dispatcher: Dispatcher):
    with pytest.raises(QueueNotFound):
        await dispatcher.engine.operations.pause("extra")
    await dispatcher.connect(queues=frozenset({"default", "extra"}))

    await dispatcher.engine.operations.pause("extra")

    assert (await dispatcher.engine.operations.paused()).keys() == {"extra"}


@operated
async def test_pause_and_resume_may_be_repeated(dispatcher: Dispatcher):
    operations = dispatcher.engine.operations
    await operations.resume("default")
    await operations.pause("default")
    await operations.pause("default")
    assert (await operations.paused()).keys() == {"default"}

    await operations.resume("default")
    await operations.resume("default")

    assert await operations.paused() == {}


@operated
async def test_paused_queue_can_be_resumed_although_nobody_knows_it_any_more(
    dispatcher: Dispatcher,
):
    await dispatcher.store.pause("gone")

    await dispatcher.engine.operations.resume("gone")

    assert await dispatcher.engine.operations.paused() == {}


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize(("queue", "error"), [("nothing", QueueNotFound), ("", InvalidTask)])
@operated
async def test_unknown_queue_is_refused(
    dispatcher: Dispatcher, verb: str, queue: str, error: type[Exception]
):
    with pytest.raises(error):
        await getattr(dispatcher.engine.operations, verb)(queue)


# --- dead letters --------------------------------------------------------------------------------


@operated
async def test_dead_letters_are_listed_by_pages_the_latest_first(dispatcher: Dispatcher):
    first = await dead_letter(dispatcher, b"1")
    await pass_time(1)
    second = await dead_letter(dispatcher, b"2")
    operations = dispatcher.engine.operations

    page = await operations.dead_letters(page_size=1, page_token="")
    rest = await operations.dead_letters(page_size=1, page_token=page.next_page_token)

    assert [sight.task_id for sight in (*page.tasks, *rest.tasks)] == [second, first]
    assert "error.0" in page.tasks[0].data


@operated
async def test_redriven_task_runs_again(dispatcher: Dispatcher):
    task_id = await dead_letter(dispatcher)

    assert await dispatcher.engine.operations.redrive([task_id]) == [None]

    worker = await dispatcher.connect("fresh")
    (handout,) = await dispatcher.handed_out(worker)
    assert handout.attempt.task_id == task_id


@operated
async def test_redrive_answers_for_each_task_by_itself(dispatcher: Dispatcher):
    dead, queued = await dead_letter(dispatcher), await dispatcher.submit(b"queued")

    answers = await dispatcher.engine.operations.redrive([UNKNOWN, dead, "?", queued, dead])

    reasons = [answer.reason if answer else "" for answer in answers]
    assert reasons == ["TASK_NOT_FOUND", "", "INVALID_TASK", "TASK_NOT_FAILED", ""]
    assert (await dispatcher.record(dead)).stage is Stage.QUEUED


@operated
async def test_redrive_that_is_repeated_changes_nothing(dispatcher: Dispatcher):
    task_id = await dead_letter(dispatcher)
    await dispatcher.engine.operations.redrive([task_id])
    before = await dispatcher.record(task_id)

    (answer,) = await dispatcher.engine.operations.redrive([task_id])

    assert isinstance(answer, TaskNotFailed)
    assert await dispatcher.record(task_id) == before


@operated
async def test_redrive_takes_a_thousand(dispatcher: Dispatcher):
    answers = await dispatcher.engine.operations.redrive(
        [f"{number:032x}" for number in range(1000)]
    )

    assert len(answers) == 1000
    assert all(isinstance(answer, TaskNotFound) for answer in answers)


@pytest.mark.parametrize("amount", [0, 1001])
@operated
async def test_redrive_of_none_or_too_many_is_refused(dispatcher: Dispatcher, amount: int):
    with pytest.raises(InvalidTask, match=f"got {amount}"):
        await dispatcher.engine.operations.redrive([UNKNOWN] * amount)


@operated
async def test_edited_input_is_what_runs_after_the_redrive(dispatcher: Dispatcher):
    task_id = await dead_letter(dispatcher, b"wrong")
    version = (await dispatcher.record(task_id)).version
    operations = dispatcher.engine.operations

    sight = await operations.update_input(task_id, b"right", version=version)
    await operations.redrive([task_id])

    worker = await dispatcher.connect("fresh")
    (handout,) = await dispatcher.handed_out(worker)
    assert sight.data["input"] == handout.data["input"] == b"right"


@operated
async def test_edited_input_counts_for_a_resent_submit(dispatcher: Dispatcher):
    task_id = await dead_letter(dispatcher, b"wrong")
    before = (await dispatcher.record(task_id)).input_hash

    sight = await dispatcher.engine.operations.update_input(task_id, b"right", version=0)

    assert sight.record.input_hash != before


@operated
async def test_edit_is_fenced_by_the_version_that_was_seen(dispatcher: Dispatcher):
    task_id = await dead_letter(dispatcher)
    version = (await dispatcher.record(task_id)).version
    operations = dispatcher.engine.operations
    await operations.update_input(task_id, b"of another", version=version)

    with pytest.raises(TaskNotFailed, match=rf"at version {version + 1}, not {version}"):
        await operations.update_input(task_id, b"too late", version=version)

    assert (await dispatcher.engine.desk.get(task_id)).data["input"] == b"of another"


@operated
async def test_only_dead_letters_are_edited(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    record = await dispatcher.record(task_id)
    fact = CancelAsked(reason="")
    await dispatcher.engine.committer.apply([Proposal(task_id=task_id, record=record, fact=fact)])

    with pytest.raises(TaskNotFailed, match="it is cancelled"):
        await dispatcher.engine.operations.update_input(task_id, b"x", version=0)


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        ({"task_id": "?"}, InvalidTask, "task_id"),
        ({"payload": b""}, InvalidTask, "input"),
        ({"payload": bytes(2 << 20)}, PayloadTooLarge, "input"),
        ({"version": -1}, InvalidTask, "version"),
        ({"task_id": UNKNOWN}, TaskNotFound, ""),
    ],
)
@operated
async def test_edit_that_cannot_be_is_refused(
    dispatcher: Dispatcher, arguments: dict[str, object], error: type[InvalidTask], field: str
):
    given = {"task_id": UNKNOWN, "payload": b"x", "version": 0, **arguments}

    with pytest.raises(error) as caught:
        await dispatcher.engine.operations.update_input(**given)  # type: ignore[arg-type]

    assert caught.value.field == field


# --- pipelines and explanations ------------------------------------------------------------------


@operated
async def test_pipelines_are_the_current_ones(dispatcher: Dispatcher):
    (pipeline,) = dispatcher.engine.operations.pipelines()

    assert pipeline.name == "translation"


@operated
async def test_explanation_follows_the_workers_and_the_queue(dispatcher: Dispatcher):
    """From nobody there to the next in line, as what is missing comes."""
    operations = dispatcher.engine.operations
    dispatcher.engine.feeder.stop()  # nothing is handed out, so that it stays queued
    task_id = await dispatcher.submit()
    told = [(await operations.explain(task_id)).reason]
    session = await dispatcher.connect(slots=0)
    told.append((await operations.explain(task_id)).reason)
    session.max_in_flight = 1
    await pass_time(0.3)
    told.append((await operations.explain(task_id)).reason)
    await operations.pause("default")
    told.append((await operations.explain(task_id)).reason)
    await operations.resume("default")
    await operations.drain("worker-1")
    told.append((await operations.explain(task_id)).reason)

    assert told == ["NO_WORKER", "NO_FREE_SLOT", "QUEUED", "QUEUE_PAUSED", "NO_WORKER"]


@operated
async def test_explanation_of_nothing_is_refused(dispatcher: Dispatcher):
    with pytest.raises(TaskNotFound):
        await dispatcher.engine.operations.explain(UNKNOWN)
    with pytest.raises(InvalidTask):
        await dispatcher.engine.operations.explain("?")
