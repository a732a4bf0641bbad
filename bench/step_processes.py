"""What steps in processes cost and gain: `python -m bench.step_processes`.

Drives the worker's own pool, without a dispatcher: the time until a process is ready, that of an
empty attempt in a warm one, and how much faster four computations are on all cores than on one.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from queue import SimpleQueue

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker import RunsIn, StepContext, step
from stepstream.worker.attempt import Attempt
from stepstream.worker.processes import ProcessPool
from stepstream.worker.targets import Target, target_of

ROUNDS = 200
HASHES = 300_000
COMPUTATIONS = 4


@step("nothing", runs_in="process")
def nothing(_ctx: StepContext) -> None:
    """Returns."""


@step("compute", runs_in="process")
def compute(_ctx: StepContext) -> str:
    """Hashes, with the interpreter's lock held most of the time."""
    digest = b""
    for _ in range(HASHES):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


def seconds(pool: ProcessPool, name: str, count: int) -> float:
    """How long so many attempts at a step take, submitted together."""
    ended: SimpleQueue[pb.Settlement | None] = SimpleQueue()
    began_mono = time.monotonic()
    for number in range(count):
        assignment = pb.Assignment(step=name, lease_token=str(number))
        pool.submit(Attempt(assignment, lambda _: None), ended.put)
    for _ in range(count):
        settlement = ended.get()
        assert settlement is not None
        assert settlement.HasField("completed")
    return time.monotonic() - began_mono


def measure(processes: int, targets: list[Target]) -> tuple[float, float, float]:
    """Seconds until ready, of an empty attempt, and of the computations, with so many processes."""
    pool = ProcessPool(processes, targets)
    try:
        ready_s = seconds(pool, "nothing", processes)
        empty_s = statistics.median(seconds(pool, "nothing", 1) for _ in range(ROUNDS))
        return ready_s, empty_s, seconds(pool, "compute", COMPUTATIONS)
    finally:
        pool.close()


def main() -> None:
    """Measures and prints."""
    assert compute.runs_in is RunsIn.PROCESS
    targets = [target_of(nothing), target_of(compute)]
    cores = os.cpu_count() or 1
    ready_s, empty_s, alone_s = measure(1, targets)
    _, _, together_s = measure(cores, targets)
    gain = alone_s / together_s
    print(f"process ready after              {ready_s * 1000:8.0f} ms")
    print(f"empty attempt in a warm process  {empty_s * 1e6:8.0f} µs")
    print(f"{COMPUTATIONS} computations on {cores} cores         {gain:8.2f} x one process")


if __name__ == "__main__":
    main()
