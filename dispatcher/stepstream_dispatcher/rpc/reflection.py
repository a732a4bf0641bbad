"""Reflection for grpcurl, buf and ghz, under both of its names and for method names too.

The stock servicer serves v1alpha only, and cannot look up `pkg.Service.Method`: protobuf's upb pool
does not know methods as symbols. The messages of v1 and v1alpha are the same on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

__all__ = ["add_reflection"]

_V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
_V1: Final = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: grpc.aio.Server, service_names: Iterable[str]) -> None:
    """Serve reflection.

    Args:
        server: Not yet started.
        service_names: Full names of the services to list, this one excluded.
    """
    # v1 is served but not listed: no descriptor of it exists here that a client could ask for.
    servicer = _MethodNames([*service_names, _V1ALPHA])
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
            for name in (_V1, _V1ALPHA)
        )
    )


class _MethodNames(ReflectionServicer):
    """Finds the file of a method by the service that it belongs to."""

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        service, _, method = fully_qualified_name.rpartition(".")
        symbol = service if _has_method(service, method) else fully_qualified_name
        return super()._file_containing_symbol(request, symbol)  # type: ignore[misc]


def _has_method(service: str, method: str) -> bool:
    try:
        return method in descriptor_pool.Default().FindServiceByName(service).methods_by_name
    except KeyError:
        return False
