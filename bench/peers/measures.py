"""What is measured of each peer, the same way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers.peer import Peer
from bench.peers.stage import Stage

__all__ = ["Measure", "measures"]

WORKERS: Final = 2
SLEEPERS: Final = 48
SHAPES: Final = ((1, 1), (2, 3), (4, 3))  # workers x slots
LIMIT_S: Final = 120.0


@dataclass(frozen=True)
class Measure:
    """One column of the table.

    Args:
        name: its heading.
        is_rate: tasks a second, where more is better; otherwise seconds, where less is.
        take: measures a peer once.
        needs_chains: only peers with chains can do it.
    """

    name: str
    is_rate: bool
    take: Callable[[Peer, Path], float]
    needs_chains: bool = False

    def suits(self, peer: Peer) -> bool:
        """Whether the peer can do what is measured."""
        return peer.chains or not self.needs_chains


def measures(tasks: int, names: str = "") -> list[Measure]:
    """The measures with these names, with so many no-op tasks; all of them if no name is given.

    Raises:
        ValueError: there is no measure of that name.
    """
    every = [_noops(tasks), *(_shape(*shape) for shape in SHAPES), _chain(*SHAPES[-1])]
    wanted = set(names.replace(",", " ").split())
    known = {one.name for one in every}
    if unknown := sorted(wanted - known):
        raise ValueError(f"no such measure: {', '.join(unknown)}; there are {', '.join(known)}")
    return [one for one in every if not wanted or one.name in wanted]


def _noops(tasks: int) -> Measure:
    """No-op tasks a second, enqueued while two workers work."""

    def take(peer: Peer, home: Path) -> float:
        with Stage(peer, home, WORKERS, peer.slots, short=True) as stage:
            return tasks / _seconds(stage, "noop", tasks)

    return Measure("noop", is_rate=True, take=take)


def _shape(workers: int, slots: int) -> Measure:
    """Seconds for sleepers of 100 ms."""

    def take(peer: Peer, home: Path) -> float:
        with Stage(peer, home, workers, slots, short=False) as stage:
            return _seconds(stage, "sleep", SLEEPERS)

    return Measure(f"{workers}x{slots}", is_rate=False, take=take)


def _chain(workers: int, slots: int) -> Measure:
    """Seconds for chains of three steps of 100 ms."""

    def take(peer: Peer, home: Path) -> float:
        with Stage(peer, home, workers, slots, short=False) as stage:
            return _seconds(stage, "chain", SLEEPERS)

    return Measure("chain", is_rate=False, take=take, needs_chains=True)


def _seconds(stage: Stage, kind: str, amount: int) -> float:
    """From the first submit to the last completion."""
    began_s = time.perf_counter()
    tasks = stage.submit(kind, amount)
    ended_s = stage.all_ended(tasks, LIMIT_S)
    stage.sent(LIMIT_S)
    return ended_s - began_s
