"""rq: plain functions in a worker that does not fork for each job; jobs enqueued in pipelines."""

from __future__ import annotations

import rq_jobs
from producing import batches, serve
from redis import Redis
from reporting import REDIS_URL
from rq import Queue

BATCH = 250
KINDS = {"noop": rq_jobs.noop, "sleep": rq_jobs.sleep, "hold": rq_jobs.hold}

queue = Queue("bench", connection=Redis.from_url(REDIS_URL))


def enqueue(kind: str, payloads: list[str]) -> None:
    """Enqueue batches."""
    for batch in batches(payloads, BATCH):
        queue.enqueue_many(
            [Queue.prepare_data(KINDS[kind], args=(payload,), result_ttl=0) for payload in batch]
        )


def produce() -> None:
    """Be the enqueuing process."""
    serve(enqueue)
