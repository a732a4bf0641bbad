"""One stub for the two services that clients call."""

from typing import Any

from stepstream.v1.dispatcher_service_pb2_grpc import DispatcherServiceStub
from stepstream.v1.operator_service_pb2_grpc import OperatorServiceStub

__all__ = ["stub_of"]


class _Stub(DispatcherServiceStub, OperatorServiceStub):
    """The methods of both services; no two share a name."""

    def __init__(self, channel: Any) -> None:
        # What is generated takes a channel, which its type stub says of __new__ only.
        for service in (DispatcherServiceStub, OperatorServiceStub):
            service.__init__(self, channel)  # type: ignore[call-arg]


def stub_of(channel: Any) -> Any:
    """Makes the stub on a channel of `grpc` or of `grpc.aio`."""
    return _Stub(channel)
