"""A watch over several streams."""

from stepstream._watch import Watch
from stepstream.types import Gap, Task, TaskEvent
from stepstream.v1 import dispatcher_service_pb2 as pb2
from tests.unit.client.dispatcher_stub import frame, make_event, make_task, snapshot


def _sequences(watch: Watch, *frames: pb2.WatchTaskResponse) -> list[int]:
    items = [watch.accept(item) for item in frames]
    return [item.sequence for item in items if isinstance(item, TaskEvent)]


def test_each_sequence_is_handed_on_once_and_the_terminal_one_ends_it():
    watch = Watch("t1", after=None, progress=False)

    assert isinstance(watch.accept(snapshot(make_task(version=2))), Task)
    assert _sequences(watch, frame(make_event(2, "LEASED")), frame(make_event(3, "COMPLETED"))) == [
        3
    ]
    assert watch.request().after_sequence == 3
    assert watch.accept(snapshot(make_task(version=3))) is None
    assert _sequences(watch, frame(make_event(3, "COMPLETED"))) == []
    assert not watch.is_over()
    assert _sequences(watch, frame(make_event(4, "DONE"))) == [4]
    assert watch.is_over()


def test_the_first_request_asks_for_what_the_caller_wants():
    assert not Watch("t1", after=None, progress=False).request().HasField("after_sequence")
    assert Watch("t1", after=0, progress=True).request() == pb2.WatchTaskRequest(
        task_id="t1", after_sequence=0, include_progress=True
    )


def test_a_finished_task_is_its_snapshot_only():
    watch = Watch("t1", after=None, progress=False)

    watch.accept(snapshot(make_task(state="done", version=9)))

    assert watch.is_over()


def test_the_history_of_a_finished_task_goes_to_its_last_event():
    """An operator may have put the task back after a first failure."""
    watch = Watch("t1", after=0, progress=False)

    watch.accept(snapshot(make_task(state="done", version=3)))
    watch.accept(frame(make_event(1, "FAILED")))
    assert not watch.is_over()
    watch.accept(frame(make_event(2, "REDRIVEN")))
    watch.accept(frame(make_event(3, "DONE")))

    assert watch.is_over()


def test_progress_has_no_sequence_and_passes():
    watch = Watch("t1", after=None, progress=True)
    watch.accept(snapshot(make_task(version=2)))

    assert _sequences(watch, frame(make_event(0, "PROGRESS", progress=0.5))) == [0]
    assert watch.request().after_sequence == 2


def test_a_gap_is_handed_on_and_skipped():
    watch = Watch("t1", after=1, progress=False)
    gap = pb2.WatchTaskResponse(gap=pb2.Gap(first_missing=2, first_available=10))

    assert watch.accept(gap) == Gap(first_missing=2, first_available=10)
    assert _sequences(watch, frame(make_event(10, "LEASED"))) == [10]


def test_a_frame_of_an_unknown_kind_is_nothing():
    assert Watch("t1", after=None, progress=False).accept(pb2.WatchTaskResponse()) is None


def test_an_early_end_of_the_stream_is_a_break():
    watch = Watch("t1", after=None, progress=False)
    watch.accept(snapshot(make_task(version=2)))

    assert watch.closed() is not None
    assert not watch.is_over()


def test_the_end_of_a_finished_task_s_history_ends_it():
    watch = Watch("t1", after=0, progress=False)
    watch.accept(snapshot(make_task(state="done", version=9)))

    assert watch.closed() is None
    assert watch.is_over()
