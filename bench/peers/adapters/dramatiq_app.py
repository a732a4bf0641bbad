"""Dramatiq: plain functions in threads, no results."""

from __future__ import annotations

import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from producing import serve
from reporting import HELD_S, REDIS_URL, STEP_S, begun, ended

broker = RedisBroker(url=REDIS_URL)
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(payload: str) -> None:
    """Do nothing."""
    ended(payload)


@dramatiq.actor
def sleep(payload: str) -> None:
    """Wait as for a service."""
    time.sleep(STEP_S)
    ended(payload)


@dramatiq.actor
def hold(payload: str) -> None:
    """Say when it begins, and wait."""
    begun(payload)
    time.sleep(HELD_S)
    ended(payload)


@dramatiq.actor
def step(_payload: str) -> None:
    """Wait as for a service, before the next step."""
    time.sleep(STEP_S)


KINDS = {"noop": noop, "sleep": sleep, "hold": hold}


def enqueue(kind: str, payloads: list[str]) -> None:
    """Enqueue one after the other: there is no call for many."""
    for payload in payloads:
        if kind == "chain":
            chain(payload).run()
        else:
            KINDS[kind].send(payload)


def chain(payload: str) -> dramatiq.pipeline:
    """Three steps that follow each other, each with the payload."""
    steps = (step, step, sleep)
    return dramatiq.pipeline(
        one.message_with_options(args=(payload,), pipe_ignore=True) for one in steps
    )


def produce() -> None:
    """Be the enqueuing process."""
    serve(enqueue)
