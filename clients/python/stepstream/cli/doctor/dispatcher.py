"""Checks of what runs: the ports, the dispatcher behind them, its workers and their versions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import stepstream
from stepstream import errors
from stepstream.cli.doctor.finding import Finding, bad, fine, warn
from stepstream.cli.doctor.listeners import owner_of
from stepstream.cli.probe import Answer, dialable, fetch, is_taken
from stepstream.types import WorkerInfo

__all__ = ["check_dispatcher", "is_serving", "judge_sdks", "judge_workers"]

_TIMEOUT_S = 2.0
_PARTS_IN_STEP = 2  # of a version: 0.1.x works with 0.1.y


def is_serving(http_address: str) -> bool:
    """Whether a dispatcher of ours takes calls there."""
    reply = fetch(http_address, "/readyz")
    return reply is not None and reply.status == 200 and reply.body.get("status") == "ready"  # noqa: PLR2004


def check_dispatcher(
    grpc_address: str, http_address: str, client_address: str
) -> Iterator[Finding]:
    """Looks at both ports, and asks the dispatcher when there is one.

    Args:
        grpc_address: Where a dispatcher started here listens for gRPC.
        http_address: Where it listens for HTTP.
        client_address: Where clients call: the first of STEPSTREAM_ADDRESS.
    """
    health, ready = fetch(http_address, "/healthz"), fetch(http_address, "/readyz")
    ours = health is not None and health.body.get("status") == "ok"
    yield _judge_port("gRPC port", grpc_address, "STEPSTREAM_GRPC_ADDRESS", ours=ours)
    yield _judge_port("HTTP port", http_address, "STEPSTREAM_HTTP_ADDRESS", ours=ours)
    if not ours and not is_taken(client_address):
        advice = "start it: stepstream start, or say where it is: STEPSTREAM_ADDRESS"
        yield warn("dispatcher", f"none at {client_address}", advice)
        return
    if ours:
        yield _judge_readiness(ready)
    yield from _check_calls(client_address)


def judge_workers(counts: Mapping[str, Any]) -> Finding:
    """Judges the workers of /api/stats or GetStats, name to whether it runs."""
    running = sorted(name for name, runs in counts.items() if runs)
    if not running:
        return warn("workers", "none is connected", "start one: stepstream worker")
    shown = ", ".join(running[:5]) + (", …" if len(running) > 5 else "")  # noqa: PLR2004
    return fine("workers", f"{len(running)} connected: {shown}")


def judge_sdks(workers: Sequence[WorkerInfo], ours: str) -> Finding:
    """Judges whether the workers' SDKs are of the same minor version as this command line.

    Args:
        workers: Those of the dispatcher.
        ours: Our version, for example 0.1.0.
    """
    others = sorted(
        {
            f"{one.name}: {one.sdk}"
            for one in workers
            if one.connected and not _in_step(one.sdk, ours)
        }
    )
    if others:
        advice = f"bring them to {_minor(ours)}.x, dispatchers first"
        return warn("worker versions", "; ".join(others[:3]), advice)
    return fine("worker versions", f"all {_minor(ours)}.x")


def _judge_port(name: str, address: str, setting: str, *, ours: bool) -> Finding:
    if not is_taken(address):
        return fine(name, f"{address} is free")
    port = int(address.rpartition(":")[2])
    owner = owner_of(port)
    by = f" by {owner}" if owner else ""
    if ours:
        return fine(name, f"{address} taken by our dispatcher{f', {owner}' if owner else ''}")
    return bad(name, f"{address} is taken{by}", f"stop it, or set {setting}")


def _judge_readiness(ready: Answer | None) -> Finding:
    if ready is None:
        return bad("dispatcher", "it does not say whether it is ready", "look at its log")
    if ready.body.get("status") == "ready":
        return fine("dispatcher", "ready")
    reason = ready.body.get("reason", "no reason given")
    return bad("dispatcher", f"not ready: {reason}", "look at its log, and at Redis above")


def _check_calls(address: str) -> Iterator[Finding]:
    """Makes the calls that a client makes."""
    try:
        with stepstream.Client(address, timeout_s=_TIMEOUT_S, retry_s=0.0) as client:
            counts = client.stats()
            yield fine("mode", counts.execution_mode.lower().replace("_", " "))
            yield judge_workers({name: one.is_running for name, one in counts.workers.items()})
            yield judge_sdks(client.operator.list_workers(), stepstream.__version__)
    except errors.NotServed:
        advice = "upgrade the dispatcher"
        yield warn("worker versions", "the dispatcher is older than this command line", advice)
    except (errors.StepstreamError, TimeoutError) as error:
        yield bad("calls", f"{dialable(address)}: {error}", "look at the dispatcher's log")


def _in_step(sdk: str, ours: str) -> bool:
    """Whether it is of our minor version, or of another language, whose numbers are its own."""
    language, _, version = sdk.partition("/")
    return language != "stepstream-python" or _minor(version) == _minor(ours)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:_PARTS_IN_STEP])
