"""huey: plain functions in threads, blocking reads, no results."""

from __future__ import annotations

import time

from huey import RedisHuey
from producing import serve
from reporting import HELD_S, REDIS_URL, STEP_S, begun, ended

huey = RedisHuey("bench", url=REDIS_URL, results=False)


@huey.task()
def noop(payload: str) -> None:
    """Do nothing."""
    ended(payload)


@huey.task()
def sleep(payload: str) -> None:
    """Wait as for a service."""
    time.sleep(STEP_S)
    ended(payload)


@huey.task()
def hold(payload: str) -> None:
    """Say when it begins, and wait."""
    begun(payload)
    time.sleep(HELD_S)
    ended(payload)


@huey.task()
def step(_payload: str) -> None:
    """Wait as for a service, before the next step."""
    time.sleep(STEP_S)


KINDS = {"noop": noop, "sleep": sleep, "hold": hold}


def enqueue(kind: str, payloads: list[str]) -> None:
    """Enqueue one after the other: there is no call for many."""
    for payload in payloads:
        if kind == "chain":
            huey.enqueue(step.s(payload).then(step, payload).then(sleep, payload))
        else:
            KINDS[kind](payload)


def produce() -> None:
    """Be the enqueuing process."""
    serve(enqueue)
