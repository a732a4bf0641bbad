"""When a submit is answered."""

import pytest

from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream_dispatcher.rpc.dispatcher_service import DispatcherService
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time


class Context:
    """What a servicer sees of a caller."""

    def invocation_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize("is_batch", [False, True])
@with_dispatcher("committer", "feeder")
async def test_task_is_on_its_way_to_a_worker_before_its_caller_hears(
    dispatcher: Dispatcher, is_batch: bool
):
    service = DispatcherService(dispatcher.engine)
    await dispatcher.connect(slots=1)
    await pass_time(0.1)
    request = api.SubmitRequest(pipeline="translation")
    request.input.text = "text"

    if is_batch:
        await service.SubmitBatch(api.SubmitBatchRequest(requests=[request]), Context())
    else:
        await service.Submit(request, Context())

    creation, lease = dispatcher.store.commits
    assert [one.enqueue for one in (*creation, *lease)] == ["default", None]
