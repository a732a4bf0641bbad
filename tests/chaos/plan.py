"""Which faults a run has, and when: a pure function of the seed and the length.

A table says what there is of each kind in a window of `WINDOW_S`; longer windows have more in
proportion. Kinds of one lane follow each other, lanes run side by side, so that faults overlap and
nothing is done to what is already dead.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import msgspec

__all__ = ["KINDS", "WINDOW_S", "Kind", "Planned", "Size", "plan"]

WINDOW_S = 120.0  # the length that the counts below are meant for
REST_S = 1.0  # at least, between two faults of a lane
RECOVERY_S = 6.0  # that a process which was ended needs before the next is done to it


class Size(msgspec.Struct, frozen=True):
    """How many processes there are to choose from."""

    workers: int
    dispatchers: int


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of fault."""

    name: str
    lane: str
    times: int  # in a window
    shortest_s: float
    longest_s: float
    target: str  # what is hit: worker, dispatcher, redis, worker-link, client-link, redis-link, all
    rest_s: float = REST_S


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One fault to come."""

    kind: str
    target: str
    start_s: float  # since the faults began
    lasts_s: float
    detail: str = ""  # direction of a half-cut: "up", "down" or "both"

    def __str__(self) -> str:
        words = (
            f"{self.start_s:7.1f} s  {self.kind:<18} {self.target:<12} for {self.lasts_s:4.1f} s"
        )
        return f"{words} {self.detail}".rstrip()


def _kind(name: str, lane: str, times: int, seconds: tuple[float, float], target: str) -> Kind:
    ends_process = name.split("-", maxsplit=1)[0] in {"kill", "drain"}
    rest_s = RECOVERY_S if ends_process else REST_S
    shortest_s, longest_s = seconds
    return Kind(
        name=name,
        lane=lane,
        times=times,
        shortest_s=shortest_s,
        longest_s=longest_s,
        target=target,
        rest_s=rest_s,
    )


# A freeze has to outlast the silence limit of 15 s; a link that is cut is cut once.
KINDS: Sequence[Kind] = (
    _kind("kill-worker", "worker", 7, (0.5, 3.0), "worker"),
    _kind("drain-worker", "worker", 1, (0.5, 2.0), "worker"),
    _kind("pause-worker", "worker", 1, (2.0, 4.0), "worker"),
    _kind("freeze-worker", "freeze-a", 3, (16.5, 20.0), "worker"),
    _kind("freeze-worker", "freeze-b", 3, (16.5, 20.0), "worker"),
    _kind("half-cut-worker", "worker-link", 1, (17.0, 20.0), "worker-link"),
    _kind("cut-worker", "worker-link", 4, (0.0, 0.0), "worker-link"),
    _kind("slow-worker", "worker-link", 1, (4.0, 8.0), "worker-link"),
    _kind("kill-dispatcher", "dispatcher", 2, (1.0, 4.0), "dispatcher"),
    _kind("freeze-dispatcher", "dispatcher", 1, (16.5, 20.0), "dispatcher"),
    _kind("drain-dispatcher", "dispatcher", 1, (0.5, 2.0), "dispatcher"),
    _kind("kill-all-dispatchers", "dispatcher", 1, (1.0, 2.0), "all"),
    _kind("kill-redis", "redis", 1, (1.5, 4.0), "redis"),
    _kind("stop-redis", "redis", 1, (2.0, 5.0), "redis"),
    _kind("script-flush", "redis", 1, (0.0, 0.0), "redis"),
    _kind("client-kill-normal", "redis", 1, (0.0, 0.0), "redis"),
    _kind("client-kill-pubsub", "redis", 1, (0.0, 0.0), "redis"),
    _kind("maxmemory", "redis", 1, (4.0, 6.0), "redis"),
    _kind("full-disk", "redis", 1, (4.0, 6.0), "redis"),
    _kind("cut-redis", "redis-link", 2, (0.0, 0.0), "redis-link"),
    _kind("half-cut-redis", "redis-link", 1, (4.0, 8.0), "redis-link"),
    _kind("slow-redis", "redis-link", 1, (3.0, 6.0), "redis-link"),
    _kind("cut-client", "client-link", 3, (0.0, 0.0), "client-link"),
    _kind("half-cut-client", "client-link", 1, (4.0, 8.0), "client-link"),
    _kind("slow-client", "client-link", 1, (3.0, 6.0), "client-link"),
)


def plan(seed: int, seconds: float, size: Size) -> list[Planned]:
    """The faults of a run, by their start.

    Args:
        seed: The same seed, length and size give the same faults.
        seconds: Length of the window; all faults end in it.
        size: What there is.
    """
    luck = random.Random(f"faults {seed}")
    lanes = dict.fromkeys(kind.lane for kind in KINDS)
    found = [fault for lane in lanes for fault in _lane(lane, luck, seconds, size)]
    return sorted(_apart(found, luck, size), key=lambda fault: fault.start_s)


def _lane(lane: str, luck: random.Random, seconds: float, size: Size) -> Iterator[Planned]:
    share = max(seconds / WINDOW_S, 0.0)
    kinds = [
        kind
        for kind in KINDS
        if kind.lane == lane
        for _ in range(max(1, round(kind.times * share)))
    ]
    luck.shuffle(kinds)
    lengths = [luck.uniform(kind.shortest_s, kind.longest_s) for kind in kinds]
    kinds, lengths = _that_fit(kinds, lengths, seconds)
    busy = sum(lengths) + sum(kind.rest_s for kind in kinds)
    cuts = sorted(luck.uniform(0.0, max(seconds - busy, 0.0)) for _ in kinds)
    at = 0.0
    for kind, lasts_s, offset in zip(kinds, lengths, cuts, strict=True):
        yield Planned(
            kind=kind.name,
            target=_target(kind, luck, size),
            start_s=round(offset + at, 3),
            lasts_s=round(lasts_s, 3),
            detail=luck.choice(("up", "down", "both")) if "half-cut" in kind.name else "",
        )
        at += lasts_s + kind.rest_s


def _that_fit(
    kinds: list[Kind], lengths: list[float], seconds: float
) -> tuple[list[Kind], list[float]]:
    """Leaves out repetitions of kinds until a lane fits its window."""
    while sum(lengths) + sum(kind.rest_s for kind in kinds) > seconds:
        names = [kind.name for kind in kinds]
        spare = next((i for i, name in enumerate(names) if names.count(name) > 1), None)
        if spare is None:
            raise ValueError(f"{seconds:g} s are too short for one fault of each kind")
        kinds = kinds[:spare] + kinds[spare + 1 :]
        lengths = lengths[:spare] + lengths[spare + 1 :]
    return kinds, lengths


def _target(kind: Kind, luck: random.Random, size: Size) -> str:
    worker = f"w-{luck.randrange(size.workers)}"
    dispatcher = f"d-{luck.randrange(size.dispatchers)}"
    targets = {
        "worker": worker,
        "dispatcher": dispatcher,
        "redis": "redis",
        "all": "dispatchers",
        "worker-link": worker,  # all of its links: it may be at any dispatcher
        "client-link": dispatcher,  # that of all clients
        "redis-link": dispatcher,
    }
    return targets[kind.target]


def _apart(faults: list[Planned], luck: random.Random, size: Size) -> Iterator[Planned]:
    """Gives another worker to a fault whose worker has one at that time."""
    taken: list[tuple[str, float, float]] = []
    for fault in sorted(faults, key=lambda one: one.start_s):
        end_s = fault.start_s + fault.lasts_s + RECOVERY_S
        busy = {one for one, since, until in taken if since < end_s and fault.start_s < until}
        target = fault.target
        if target.startswith("w-") and target in busy:
            free = sorted({f"w-{n}" for n in range(size.workers)} - busy)
            target = luck.choice(free) if free else target
        taken.append((target, fault.start_s, end_s))
        yield msgspec.structs.replace(fault, target=target)
