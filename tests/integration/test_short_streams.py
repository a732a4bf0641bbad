"""Workers that leave while they register."""

import asyncio
from pathlib import Path

import grpc

from stepstream.v1 import worker_service_pb2 as api
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceStub
from tests.support.cluster import running_cluster

STREAMS = 40


async def leave_while_registering(stub: WorkerServiceStub, number: int) -> None:
    call = stub.Work()
    name = f"short-{number}"
    register = api.Register(
        worker_name=name,
        instance_id=name,
        protocol_version=1,
        queues=["default"],
        step_types=["translate", "verify"],
        max_in_flight=1,
    )
    await call.write(api.WorkRequest(register=register))
    call.cancel()


async def test_a_worker_that_leaves_while_it_registers_leaves_no_session(tmp_path: Path):
    async with running_cluster(tmp_path, workers=0) as cluster:
        address = cluster.dispatchers["d-0"].address
        async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(leave_while_registering(WorkerServiceStub(channel), number))

        async with asyncio.timeout(5), cluster.client() as client:
            while any(worker.is_running for worker in (await client.stats()).workers.values()):
                pass  # each look is a call; a session left behind would run for 15 s
