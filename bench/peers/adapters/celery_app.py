"""Celery: plain functions in threads, late acknowledgement, no results.

What a worker reserves ahead follows its documentation: much of short tasks, nothing of long ones.
"""

from __future__ import annotations

import time

from celery import Celery, chain
from producing import serve
from reporting import HELD_S, REDIS_URL, SHORT_TASKS, STEP_S, begun, ended

app = Celery("bench", broker=REDIS_URL)
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=128 if SHORT_TASKS else 1,
)


@app.task
def noop(payload: str) -> None:
    """Do nothing."""
    ended(payload)


@app.task
def sleep(payload: str) -> None:
    """Wait as for a service."""
    time.sleep(STEP_S)
    ended(payload)


@app.task
def hold(payload: str) -> None:
    """Say when it begins, and wait."""
    begun(payload)
    time.sleep(HELD_S)
    ended(payload)


@app.task
def step(_payload: str) -> None:
    """Wait as for a service, before the next step."""
    time.sleep(STEP_S)


KINDS = {"noop": noop, "sleep": sleep, "hold": hold}


def enqueue(kind: str, payloads: list[str]) -> None:
    """Enqueue one after the other over one connection: there is no call for many."""
    with app.producer_pool.acquire(block=True) as producer:
        for payload in payloads:
            signature(kind, payload).apply_async(producer=producer)


def signature(kind: str, payload: str) -> object:
    """The task, or three that follow each other."""
    if kind == "chain":
        return chain(step.si(payload), step.si(payload), sleep.si(payload))
    return KINDS[kind].si(payload)


def produce() -> None:
    """Be the enqueuing process."""
    serve(enqueue)
