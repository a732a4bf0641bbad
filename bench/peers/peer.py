"""The peers: how each is installed and started, and how many slots it is fastest with.

A command may name {python} and {home} (its environment), {slots}, {index} and {redis}.
Reasons for each configuration are in docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

__all__ = ["ADAPTERS", "OURS", "PEERS", "PINS", "Peer", "chosen"]

ADAPTERS: Final = Path(__file__).with_name("adapters")
PINS: Final = Path(__file__).with_name("pins")


@dataclass(frozen=True)
class Peer:
    """One queue.

    Args:
        name: what the table calls it; also its environment and its pins.
        worker: command of one worker process.
        producer: command of the process that enqueues.
        slots: of each of two workers for no-op tasks, where the peer is fastest.
        chains: whether it has steps that follow each other, at twelve slots.
        runtime: what its environment is made with; "ours" is where the driver runs.
        server: command of a process beside workers and Redis.
    """

    name: str
    worker: tuple[str, ...]
    producer: tuple[str, ...]
    slots: int
    chains: bool = False
    runtime: Literal["ours", "python", "node", "go"] = "python"
    server: tuple[str, ...] = ()


def _python(name: str, *worker: str, slots: int, chains: bool = False) -> Peer:
    return Peer(name, ("{python}", "-m", *worker), _producer(name), slots, chains)


def _producer(name: str) -> tuple[str, ...]:
    """Imports the adapter as the worker does: run as a script, its tasks had other names."""
    return ("{python}", "-c", f"import {name}_app; {name}_app.produce()")


OURS: Final = Peer(
    name="stepstream",
    worker=("{python}", "stepstream_worker_app.py"),
    producer=_producer("stepstream"),
    slots=512,
    chains=True,
    runtime="ours",
    server=("{python}", "-m", "stepstream_dispatcher"),
)

_DRAMATIQ: Final = ("dramatiq", "dramatiq_app", "--processes", "1", "--threads", "{slots}")
_TASKIQ: Final = (
    *("taskiq", "worker", "taskiq_app:broker", "--workers", "1", "--no-parse"),
    *("--max-async-tasks", "{slots}", "--log-level", "WARNING"),
)
_HUEY: Final = (
    *("huey.bin.huey_consumer", "huey_app.huey", "--worker-type", "thread"),
    *("--workers", "{slots}", "--no-periodic", "--quiet"),
)
_CELERY: Final = (
    *("celery", "--app", "celery_app", "worker", "--pool", "threads", "--concurrency", "{slots}"),
    *("--hostname", "worker-{index}", "--loglevel", "ERROR"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)
_RQ: Final = (
    *("{home}/.venv/bin/rq", "worker-pool", "bench", "--num-workers", "{slots}", "--quiet"),
    *("--worker-class", "rq.worker.SimpleWorker", "--url", "{redis}", "--path", "."),
)

PEERS: Final = (
    OURS,
    Peer("asynq", ("{home}/asynq", "worker"), ("{home}/asynq", "produce"), 64, runtime="go"),
    Peer(
        name="bullmq",
        worker=("node", "{home}/worker.mjs"),
        producer=("node", "{home}/producer.mjs"),
        slots=64,
        chains=True,
        runtime="node",
    ),
    _python("huey", *_HUEY, slots=8, chains=True),
    _python("saq", "saq", "saq_app.settings", slots=10),
    _python("taskiq", *_TASKIQ, slots=100),
    _python("dramatiq", *_DRAMATIQ, slots=8, chains=True),
    _python("streaq", "streaq", "run", "streaq_app:worker", slots=16, chains=True),
    _python("arq", "arq", "arq_app.WorkerSettings", slots=10),
    _python("celery", *_CELERY, slots=4, chains=True),
    Peer("rq", _RQ, _producer("rq"), slots=1),
)


def chosen(names: str) -> list[Peer]:
    """The peers with these names, ours among them; all of them if no name is given.

    Raises:
        ValueError: there is no peer of that name.
    """
    wanted = names.replace(",", " ").split()
    known = {peer.name for peer in PEERS}
    if unknown := sorted(set(wanted) - known):
        raise ValueError(
            f"no such peer: {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return [peer for peer in PEERS if not wanted or peer.name in wanted or peer is OURS]
