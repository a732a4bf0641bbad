"""The gRPC server: limits, services, health, channelz and reflection."""

from __future__ import annotations

from typing import Final

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from stepstream.v1 import dispatcher_service_pb2, operator_service_pb2, worker_service_pb2
from stepstream.v1.dispatcher_service_pb2_grpc import (
    DispatcherServiceServicer,
    add_DispatcherServiceServicer_to_server,
)
from stepstream.v1.operator_service_pb2_grpc import (
    OperatorServiceServicer,
    add_OperatorServiceServicer_to_server,
)
from stepstream.v1.worker_service_pb2_grpc import (
    WorkerServiceServicer,
    add_WorkerServiceServicer_to_server,
)
from stepstream_dispatcher.addresses import ListenError, split_address
from stepstream_dispatcher.rpc.intake import CallIntake, CallLimits
from stepstream_dispatcher.rpc.reflection import add_reflection
from stepstream_dispatcher.rpc.status import StatusInterceptor

__all__ = ["MESSAGE_BYTES_MAX", "METADATA_BYTES_MAX", "RpcServer"]

MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024  # a batch of 4 MiB and what surrounds it
# All headers of a call. gRPC has a soft limit below the hard one, between which it refuses some
# calls and lets others pass; with both the same, a call always ends the same way.
METADATA_BYTES_MAX: Final = 16 * 1024

_OPTIONS: Final = (
    # One process, one port: a second server at the same port fails, not takes half the calls.
    ("grpc.so_reuseport", 0),
    # Beyond the defaults of 1,000 and 3,000 queued calls gRPC drops at random, as CANCELLED.
    ("grpc.server.max_pending_requests", 50_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A dead peer is noticed within 30 s even when no heartbeat is expected of it, as of a watcher.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # a minute otherwise, whatever the line above says
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients ping every 10 s; the default of 300 s would end their connections.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.enable_channelz", 1),
)

_SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (dispatcher_service_pb2, "DispatcherService"),
        (worker_service_pb2, "WorkerService"),
        (operator_service_pb2, "OperatorService"),
    )
)
_HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_CHANNELZ: Final = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class RpcServer:
    """Serves the three services, health, channelz and reflection; started once.

    Args:
        dispatcher: What clients call.
        worker: What workers call.
        operator: What operators call.
        limits: How much of it at once.
    """

    def __init__(
        self,
        *,
        dispatcher: DispatcherServiceServicer,
        worker: WorkerServiceServicer,
        operator: OperatorServiceServicer,
        limits: CallLimits | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._worker = worker
        self._operator = operator
        self._limits = limits or CallLimits()
        self._health = HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str) -> int:
        """Listen, and report NOT_SERVING until `set_serving` is called.

        Args:
            address: `host:port`; port 0 lets the system choose.

        Returns:
            The port.

        Raises:
            ListenError: The address is in use or not ours.
        """
        interceptors = [StatusInterceptor(), CallIntake(self._limits)]  # the outer one first
        server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
        add_DispatcherServiceServicer_to_server(self._dispatcher, server)
        add_WorkerServiceServicer_to_server(self._worker, server)
        add_OperatorServiceServicer_to_server(self._operator, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        channelz.add_channelz_servicer(server)
        add_reflection(server, [*_SERVICES, _HEALTH, _CHANNELZ])
        await self.set_serving(serving=False)
        port = _listen(server, address)
        await server.start()
        self._server = server
        return port

    async def set_serving(self, *, serving: bool) -> None:
        """Tell health checks of each service, and of the whole, whether to send calls here."""
        for name in ("", *_SERVICES):
            await self._health.set(name, _SERVING if serving else _NOT_SERVING)

    async def drain(self) -> None:
        """Tell health checks that calls should go elsewhere, from now on for ever."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, and cancel after `grace_s` seconds what has not ended."""
        if self._server is not None:
            await self._server.stop(grace_s)


def _listen(server: grpc.aio.Server, address: str) -> int:
    split_address(address)
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError("gRPC", address, "in use, or not an address of this host") from error
