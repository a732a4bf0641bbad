"""The stream of a worker that is gone before it is answered."""

from typing import Any

import pytest

from stepstream.v1 import worker_service_pb2 as api
from stepstream_dispatcher.rpc.worker_service import WorkerService
from tests.support.engine import Dispatcher, with_dispatcher


class GoneAfterRegister:
    """What a servicer sees of a peer that registers and is gone."""

    async def read(self) -> api.WorkRequest:
        register = api.Register(
            worker_name="short",
            instance_id="short",
            protocol_version=1,
            queues=["default"],
            step_types=["translate", "verify"],
            max_in_flight=1,
        )
        return api.WorkRequest(register=register)

    async def write(self, frame: Any) -> None:
        raise ConnectionError("the peer is gone")


@with_dispatcher("committer", "leases")
async def test_worker_that_leaves_while_it_registers_leaves_no_session(dispatcher: Dispatcher):
    with pytest.raises(ConnectionError):
        await WorkerService(dispatcher.engine).Work(None, GoneAfterRegister())

    assert len(dispatcher.engine.sessions) == 0
