"""`stepstream workers` and `drain`: who works, and sending one of them home."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from stepstream.cli.completion import complete_worker
from stepstream.cli.connect import connected
from stepstream.cli.exits import interruptible
from stepstream.cli.options import Address, AsJson, parse_seconds
from stepstream.cli.output import on_terminal, print_json, print_lines, print_table
from stepstream.cli.waiting import passing_words
from stepstream.cli.wording import short_time
from stepstream.types import WorkerInfo

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["drain", "workers"]

_LOOK_INTERVAL_S = 0.25


def workers(as_json: AsJson = False, address: Address = None) -> None:
    """Show the workers: what each serves, what it holds, what it has done.

    One that has gone stays listed for 10 minutes. In a pipe: name, state, attempts held, slots,
    done, failed, queues, steps, last heard, dispatcher, SDK, with tabs between.

    Examples:
      stepstream workers
      stepstream workers --json | jq '.[] | select(.draining)'
    """
    with connected(address) as client:
        found = client.operator.list_workers()
    if as_json:
        print_json(found)
    elif not on_terminal():
        print_lines([_row(worker) for worker in found])
    elif found:
        columns = ("worker", "state", "#slots", "#done", "#failed", "heard", "queue", "steps")
        print_table(columns, [_short_row(worker) for worker in found])
    else:
        sys.stdout.write("no worker is connected: start one with `stepstream worker`\n")


def drain(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The worker.", autocompletion=complete_worker),
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it has left.")] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long --wait waits, for example 90s or 10m.")
    ] = "10m",
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Tell a worker to finish what it runs, to take nothing more, and to leave.

    Nothing is lost: what it has not begun is given back. A supervisor that keeps it running starts
    it again.

    Examples:
      stepstream drain worker-0
      stepstream drain worker-0 --wait --timeout 5m
    """
    timeout_s = parse_seconds(timeout)
    with connected(address) as client:
        client.operator.drain_worker(name)
        if wait:
            with interruptible(f"{name} drains on; look again: stepstream workers"):
                _await_departure(client, name, timeout_s)
    if as_json:
        print_json({"worker": name, "left": wait})
    else:
        sys.stdout.write(f"{name} has left\n" if wait else f"{name} drains\n")


def state_of(worker: WorkerInfo) -> str:
    """What a worker does, in a word."""
    if not worker.connected:
        return "gone"
    return "draining" if worker.draining else "connected"


def _await_departure(client: "Client", name: str, timeout_s: float) -> None:
    """Waits until the process that was told has no session any more.

    Raises:
        TimeoutError: it still has one after timeout_s seconds.
    """
    end_mono = time.monotonic() + timeout_s
    told = _find(client, name)
    with passing_words() as show:
        while (worker := _find(client, name)) and _is_same(worker, told):
            if time.monotonic() >= end_mono:
                words = f"{name} still runs {worker.in_flight} after {timeout_s:g} s"
                raise TimeoutError(words)
            if show is not None:
                show(f"{name} still runs {worker.in_flight} of {worker.max_in_flight}")
            time.sleep(_LOOK_INTERVAL_S)


def _find(client: "Client", name: str) -> WorkerInfo | None:
    found = client.operator.list_workers()
    return next((worker for worker in found if worker.name == name and worker.connected), None)


def _is_same(worker: WorkerInfo, told: WorkerInfo | None) -> bool:
    """Whether it is the process that was told, and not its successor of the same name."""
    return told is not None and worker.instance_id == told.instance_id


def _row(worker: WorkerInfo) -> tuple[object, ...]:
    counts = (worker.in_flight, worker.max_in_flight, worker.processed, worker.failed)
    serves = (",".join(worker.queues), ",".join(worker.step_types))
    heard = worker.last_seen_time.isoformat() if worker.last_seen_time else ""
    return worker.name, state_of(worker), *counts, *serves, heard, worker.dispatcher_id, worker.sdk


def _short_row(worker: WorkerInfo) -> tuple[object, ...]:
    return (
        worker.name,
        state_of(worker),
        f"{worker.in_flight}/{worker.max_in_flight}",
        worker.processed,
        worker.failed,
        short_time(worker.last_seen_time)[:8],
        ", ".join(worker.queues),
        ", ".join(worker.step_types),
    )
