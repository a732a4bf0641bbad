"""Tasks that are handed out without being read."""

from stepstream_dispatcher.core.admission import Submission, creation
from stepstream_dispatcher.core.record import Transition
from stepstream_dispatcher.engine.fresh import DATA_BYTES_MAX, KEPT_MS, TASKS_MAX, Fresh
from stepstream_dispatcher.pipelines import read_pipelines
from stepstream_dispatcher.store.port import Entry

(TRANSLATION,) = read_pipelines()


def created(
    task_id: str, *, payload: bytes = b"text", delay_ms: int = 0, now_ms: int = 1000
) -> Transition:
    submission = Submission(pipeline="translation", input=payload, delay_ms=delay_ms)
    return creation(submission, TRANSLATION, task_id=task_id, op_id="op-00001", now_ms=now_ms)


def entry_of(task_id: str) -> Entry:
    return Entry("default", f"1-{task_id}", task_id, "translate")


def test_creation_is_taken_once_with_the_id_of_its_entry():
    fresh = Fresh()
    fresh.created(created("a"), "1-a")

    record, data = fresh.take(entry_of("a")) or (None, {})

    assert record is not None
    assert (record.version, record.state, record.entry) == (1, "pending", "1-a")
    assert data == {"input": b"text"}
    assert fresh.take(entry_of("a")) is None


def test_delayed_and_large_tasks_are_not_remembered():
    fresh = Fresh()

    fresh.created(created("later", delay_ms=1), "")
    fresh.created(created("large", payload=b"x" * (DATA_BYTES_MAX + 1)), "1-large")

    assert fresh.take(entry_of("later")) is None
    assert fresh.take(entry_of("large")) is None


def test_those_that_wait_are_remembered_while_there_is_no_room_for_new_ones():
    fresh = Fresh()

    for number in range(TASKS_MAX + 1):
        fresh.created(created(str(number)), f"1-{number}")

    assert fresh.take(entry_of("0")) is not None
    assert fresh.take(entry_of(str(TASKS_MAX))) is None


def test_those_whose_entry_is_never_taken_are_forgotten_after_a_while():
    fresh = Fresh()

    fresh.created(created("read elsewhere"), "1-read elsewhere")
    fresh.created(created("waits", now_ms=1001), "1-waits")
    fresh.created(created("latest", now_ms=1001 + KEPT_MS), "1-latest")

    assert fresh.take(entry_of("read elsewhere")) is None
    assert fresh.take(entry_of("waits")) is not None
    assert fresh.take(entry_of("latest")) is not None
