"""The attempts of a worker, whose handlers do nothing by themselves."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker.desk import Desk, Handlers
from stepstream.worker.runner import Command, Start
from tests.support.fake_dispatcher import assignment


def test_what_never_started_and_cannot_be_stopped_takes_no_slot() -> None:
    """Its handlers' loop is blocked, so that it is not even told."""
    sent: list[Command] = []
    planned: list[Callable[[], None]] = []
    desk = Desk(
        Handlers(slots=1, send=sent.append, moved=lambda _: None, loop_lag_s=lambda: 0.0),
        lambda _, do: planned.append(do),
    )
    desk.batch([assignment(1), assignment(2)])
    [start] = [command for command in sent if isinstance(command, Start)]
    start.attempts[0].began_mono = 1.0

    for number, capacity in ((2, 1), (1, 0)):
        name = f"task-{number}/echo/1"
        desk.cancels([pb.Cancel(assignment_id=name, grace=Duration(seconds=5))])
        planned.pop()()

        assert desk.capacity == capacity
