"""OperatorService: described by reflection, not served by this release."""

from __future__ import annotations

from typing import Any, NoReturn

from stepstream.errors import NotServed
from stepstream.v1.operator_service_pb2_grpc import OperatorServiceServicer

__all__ = ["OperatorService"]


async def _refuse(
    self: OperatorServiceServicer,  # noqa: ARG001
    request: Any,  # noqa: ARG001 - gRPC's types name the parameters
    context: Any,  # noqa: ARG001
) -> NoReturn:
    raise NotServed


class OperatorService(OperatorServiceServicer):
    """Answers every method with UNIMPLEMENTED and the reason NOT_IMPLEMENTED."""

    ListWorkers = _refuse
    DrainWorker = _refuse
    PauseQueue = _refuse
    ResumeQueue = _refuse
    ListDeadLetters = _refuse
    Redrive = _refuse
    UpdateInput = _refuse
    ListPipelines = _refuse
