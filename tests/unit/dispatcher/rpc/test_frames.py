"""What waits in an outbox, as frames that the protocol allows."""

from stepstream.session import Role
from stepstream.session import Session as Protocol
from stepstream.v1 import task_pb2
from stepstream_dispatcher.rpc._frames import frames_of, parts_of
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

TASKS = 6
LONG = task_pb2.Payload(text="x" * 1_000_000).SerializeToString()  # a batch has 4 MiB at most


@with_dispatcher("committer", "feeder")
async def test_the_word_that_the_dispatcher_leaves_follows_all_batches(dispatcher: Dispatcher):
    session = await dispatcher.connect(slots=TASKS)
    for number in range(TASKS):
        await dispatcher.submit(LONG, request_id=f"r-{number}")
    await pass_time(1)
    session.outbox.drain = "the dispatcher is leaving"
    protocol = Protocol(Role.DISPATCHER)
    protocol.receive(["register"])
    protocol.send(["registered"])

    frames = list(frames_of(session))
    for frame in frames:
        protocol.send(parts_of(frame))

    assert sum(len(frame.batch.assignments) for frame in frames) == TASKS
    assert [frame.HasField("drain") for frame in frames] == [*[False] * (len(frames) - 1), True]
    assert len(frames) > 2
