"""The server as tools see it: health, reflection, limits, refusals."""

import asyncio
import base64
import json
import shutil
import sysconfig
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from stepstream.errors import TaskNotFound
from stepstream.v1 import dispatcher_service_pb2 as pb
from stepstream.v1.dispatcher_service_pb2_grpc import (
    DispatcherServiceServicer,
    DispatcherServiceStub,
)
from stepstream.v1.operator_service_pb2_grpc import OperatorServiceServicer
from stepstream.v1.worker_service_pb2_grpc import WorkerServiceServicer
from stepstream_dispatcher.addresses import ListenError
from stepstream_dispatcher.rpc.server import METADATA_BYTES_MAX, RpcServer
from tests.support.pace import lasts

SERVICES = [
    "grpc.channelz.v1.Channelz",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "stepstream.v1.DispatcherService",
    "stepstream.v1.OperatorService",
    "stepstream.v1.WorkerService",
]
REFLECTION_NAMES = ["grpc.reflection.v1", "grpc.reflection.v1alpha"]


class Dispatcher(DispatcherServiceServicer):
    async def Submit(self, request, context):  # noqa: N802 - gRPC's name
        return pb.SubmitResponse(task_id=request.pipeline, state=f"{request.input.ByteSize()}")

    async def GetTask(self, request, context):  # noqa: N802 - gRPC's name
        raise TaskNotFound(f"no task {request.task_id}")


def new_server() -> RpcServer:
    return RpcServer(
        dispatcher=Dispatcher(),
        worker=WorkerServiceServicer(),
        operator=OperatorServiceServicer(),
    )


@pytest.fixture
async def server() -> AsyncIterator[RpcServer]:
    server = new_server()
    yield server
    await server.stop(0)


@pytest.fixture
async def address(server: RpcServer) -> str:
    return f"127.0.0.1:{await server.start('127.0.0.1:0')}"


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


async def health(channel: grpc.aio.Channel, service: str) -> str:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


@pytest.mark.parametrize("service", ["", *SERVICES[3:]])
async def test_health_follows_the_life_of_the_server(
    server: RpcServer, channel: grpc.aio.Channel, service: str
):
    before = await health(channel, service)
    await server.set_serving(serving=True)
    serving = await health(channel, service)
    await server.drain()
    await server.set_serving(serving=True)

    assert (before, serving) == ("NOT_SERVING", "SERVING")
    assert await health(channel, service) == "NOT_SERVING"


async def test_health_of_an_unknown_service_is_not_found(channel: grpc.aio.Channel):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await health(channel, "nothing")

    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def ask_reflection(
    channel: grpc.aio.Channel, name: str, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    method = channel.stream_stream(
        f"/{name}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = [answer async for answer in method(iter([request]), timeout=10)]
    return answer


@pytest.mark.parametrize("name", REFLECTION_NAMES)
async def test_reflection_lists_the_services(channel: grpc.aio.Channel, name: str):
    request = reflection_pb2.ServerReflectionRequest(list_services="*")

    answer = await ask_reflection(channel, name, request)

    assert [service.name for service in answer.list_services_response.service] == SERVICES


@pytest.mark.parametrize("name", REFLECTION_NAMES)
@pytest.mark.parametrize(
    "symbol",
    [
        "stepstream.v1.DispatcherService",
        "stepstream.v1.DispatcherService.WatchTask",
        "stepstream.v1.SubmitRequest",
        "stepstream.v1.SubmitRequest.pipeline",
    ],
)
async def test_reflection_finds_services_methods_and_messages(
    channel: grpc.aio.Channel, name: str, symbol: str
):
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)

    answer = await ask_reflection(channel, name, request)

    file = FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
    assert file.name == "stepstream/v1/dispatcher_service.proto"


@pytest.mark.parametrize(
    "symbol", ["stepstream.v1.DispatcherService.Nothing", "nothing", "no.such.Thing", ""]
)
async def test_reflection_does_not_find_what_is_not_there(channel: grpc.aio.Channel, symbol: str):
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)

    answer = await ask_reflection(channel, "grpc.reflection.v1", request)

    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def buf_curl(address: str, method: str, data: dict[str, object]) -> tuple[int, str, str]:
    buf = shutil.which("buf", path=sysconfig.get_path("scripts")) or shutil.which("buf")
    if buf is None:
        pytest.skip("buf is not installed")
    process = await asyncio.create_subprocess_exec(
        *(buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(data)),
        f"http://{address}/{method}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout=30)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, out.decode(), err.decode()


async def test_buf_calls_with_nothing_but_reflection(address: str):
    code, out, err = await buf_curl(
        address, "stepstream.v1.DispatcherService/Submit", {"pipeline": "p", "input": {"text": ""}}
    )

    assert (code, err) == (0, "")
    assert json.loads(out) == {"taskId": "p", "state": "2"}


async def test_buf_shows_the_reason_of_an_error(address: str):
    code, _, err = await buf_curl(
        address, "stepstream.v1.DispatcherService/GetTask", {"taskId": "t1"}
    )

    failure = json.loads(err)
    assert code != 0
    assert (failure["code"], failure["message"]) == ("not_found", "no task t1")
    (detail,) = failure["details"]
    assert detail["type"] == "google.rpc.ErrorInfo"
    assert ErrorInfo.FromString(base64.b64decode(detail["value"] + "==")).reason == "TASK_NOT_FOUND"


async def test_channelz_shows_the_server_and_its_calls(channel: grpc.aio.Channel):
    await health(channel, "")

    answer = await channelz_pb2_grpc.ChannelzStub(channel).GetServers(
        channelz_pb2.GetServersRequest()
    )

    assert sum(server.data.calls_succeeded for server in answer.server) > 0


async def test_message_of_five_mebibytes_passes(address: str):
    limits = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=limits) as channel:
        request = pb.SubmitRequest(pipeline="p")
        request.input.data = bytes(5 * 1024 * 1024)

        answer = await DispatcherServiceStub(channel).Submit(request)

    assert int(answer.state) > 5 * 1024 * 1024


async def test_message_over_eight_mebibytes_is_refused(address: str):
    limits = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=limits) as channel:
        request = pb.SubmitRequest(pipeline="p")
        request.input.data = bytes(9 * 1024 * 1024)

        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await DispatcherServiceStub(channel).Submit(request)

    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def metadata_answers(channel: grpc.aio.Channel, size: int) -> set[grpc.StatusCode]:
    stub = health_pb2_grpc.HealthStub(channel)
    codes = set()
    for _ in range(20):
        call = stub.Check(health_pb2.HealthCheckRequest(), metadata=[("padding", "x" * size)])
        codes.add(await call.code())
    return codes


async def test_metadata_below_the_limit_always_passes(channel: grpc.aio.Channel):
    """Between gRPC's own two limits some calls would be refused, at random."""
    codes = await metadata_answers(channel, METADATA_BYTES_MAX - 1024)  # the other headers

    assert codes == {grpc.StatusCode.OK}


async def test_metadata_over_the_limit_is_always_refused(channel: grpc.aio.Channel):
    assert await metadata_answers(channel, METADATA_BYTES_MAX + 1) == {
        grpc.StatusCode.RESOURCE_EXHAUSTED
    }


@pytest.mark.slow
async def test_a_client_that_pings_an_idle_connection_keeps_it(
    address: str, capfd: pytest.CaptureFixture[str]
):
    """gRPC drops a connection after two pings that come too soon for it, which it says on stderr.

    The clients ping every 20 s; the pings here come as soon as the server allows.
    """
    options = [
        ("grpc.keepalive_time_ms", 6_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        await health(channel, "")
        await lasts(6.0 * 5)
        state = channel.get_state()

    assert state is grpc.ChannelConnectivity.READY
    assert "too_many_pings" not in capfd.readouterr().err


async def test_address_in_use_is_a_clear_error(address: str):
    second = new_server()

    with pytest.raises(ListenError, match=f"gRPC cannot listen at {address}: in use"):
        await second.start(address)


async def test_stop_before_start_does_nothing():
    await new_server().stop(0)
