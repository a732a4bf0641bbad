"""Streams of workers that are gone before they are answered, or read late."""

import asyncio
from typing import Any

import pytest

from stepstream.errors import RemoteProtocolError
from stepstream.v1 import task_pb2
from stepstream.v1 import worker_service_pb2 as api
from stepstream_dispatcher.core.record import Stage
from stepstream_dispatcher.engine import settling
from stepstream_dispatcher.rpc._frames import credit_of
from stepstream_dispatcher.rpc.worker_service import WorkerService
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

BEAT_S = 5.0
TEXT = task_pb2.Payload(text="text").SerializeToString()


def register(slots: int = 1) -> api.WorkRequest:
    return api.WorkRequest(
        register=api.Register(
            worker_name="short",
            instance_id="short",
            protocol_version=1,
            queues=["default"],
            step_types=["translate", "verify"],
            max_in_flight=slots,
        )
    )


class GoneAfterRegister:
    """What a servicer sees of a peer that registers and is gone."""

    async def read(self) -> api.WorkRequest:
        return register()

    async def write(self, frame: Any) -> None:
        raise ConnectionError("the peer is gone")


@with_dispatcher("committer", "leases")
async def test_worker_that_leaves_while_it_registers_leaves_no_session(dispatcher: Dispatcher):
    with pytest.raises(ConnectionError):
        await WorkerService(dispatcher.engine).Work(None, GoneAfterRegister())

    assert len(dispatcher.engine.sessions) == 0


class Peer:
    """What a servicer sees of a worker that runs two assignments and beats all the time."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[api.WorkRequest] = asyncio.Queue()
        self.say(register(slots=2))
        self.assigned: list[api.Assignment] = []
        self.heard_at: list[float] = []
        self.receipts: list[api.Receipt] = []

    async def read(self) -> api.WorkRequest:
        return await self._said.get()

    async def write(self, frame: api.WorkResponse) -> None:
        self.heard_at.append(asyncio.get_running_loop().time())
        self.assigned.extend(frame.batch.assignments)
        self.receipts.extend(frame.receipts.receipts)

    def say(self, frame: api.WorkRequest) -> None:
        self._said.put_nowait(frame)

    def beat(self) -> None:
        held = [
            api.HeldAttempt(assignment_id=one.assignment_id, lease_token=one.lease_token)
            for one in self.assigned
        ]
        self.say(api.WorkRequest(heartbeat=api.Heartbeat(held=held, batch_received=1)))

    def report(self, one: api.Assignment) -> None:
        settled = api.Settlement(assignment_id=one.assignment_id, lease_token=one.lease_token)
        settled.completed.outcome = "completed"
        settled.completed.output.text = "output"
        self.say(api.WorkRequest(report=api.Report(settlements=[settled])))


@with_dispatcher("committer", "feeder", "settling", "leases")
async def test_worker_that_is_read_late_because_the_store_is_slow_is_not_silent(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    """Its heartbeats lie behind what nobody has room for; it hears that it is not forgotten."""
    peer = Peer()
    task_ids = [await dispatcher.submit(TEXT, request_id=f"r-{number}") for number in range(2)]
    dispatcher.run(lambda: WorkerService(dispatcher.engine).Work(None, peer))
    await pass_time(1)
    first, second = peer.assigned
    monkeypatch.setattr(settling, "REPORT_BYTES_MAX", 1)
    dispatcher.store.slow.clear()

    peer.report(first)
    for _ in range(12):
        await pass_time(BEAT_S)
        peer.beat()

    gaps = [
        later - earlier for earlier, later in zip(peer.heard_at, peer.heard_at[1:], strict=False)
    ]
    (session,) = dispatcher.engine.sessions
    assert session.attempts.keys() == {second.lease_token}
    assert max(gaps) < 2 * BEAT_S, "the worker dials elsewhere"

    dispatcher.store.slow.set()
    peer.beat()
    await pass_time(1)
    records = [await dispatcher.record(task_id) for task_id in task_ids]
    assert [word.lease_token for word in peer.receipts] == [first.lease_token]
    assert [record.losses for record in records] == [0, 0]
    assert Stage.LEASED in {record.stage for record in records}


@with_dispatcher("committer", "feeder", "settling", "leases")
async def test_worker_says_what_it_runs_and_what_it_takes_ahead(dispatcher: Dispatcher):
    peer = Peer()
    dispatcher.run(lambda: WorkerService(dispatcher.engine).Work(None, peer))
    await pass_time(1)
    (session,) = dispatcher.engine.sessions
    assert (session.max_in_flight, session.ahead) == (2, 0)

    peer.say(api.WorkRequest(pull=api.Pull(max_in_flight=3, ahead=1)))
    await pass_time(1)
    assert (session.max_in_flight, session.ahead) == (3, 1)

    peer.say(api.WorkRequest(pull=api.Pull(max_in_flight=3)))
    await pass_time(1)
    assert (session.max_in_flight, session.ahead) == (3, 0)


@pytest.mark.parametrize(
    ("pull", "field"),
    [
        (api.Pull(max_in_flight=-1), "max_in_flight"),
        (api.Pull(max_in_flight=10_001), "max_in_flight"),
        (api.Pull(max_in_flight=1, ahead=-1), "ahead"),
        (api.Pull(max_in_flight=1, ahead=10_001), "ahead"),
    ],
)
def test_credit_that_is_out_of_range_is_refused(pull: api.Pull, field: str):
    with pytest.raises(RemoteProtocolError, match=f"^{field}.*0 to 10000"):
        credit_of(pull)


def test_credit_is_what_runs_and_what_waits():
    assert credit_of(api.Pull(max_in_flight=3, ahead=2)) == (3, 2)
    assert credit_of(api.Pull(max_in_flight=3)) == (3, 0)
