"""A program with tracing of its own that submits one task, within a span of its own.

Run with `python -m tests.integration.traced_client <pipeline> <input as JSON>`; prints the task id.
"""

from __future__ import annotations

import json
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from stepstream import Client

if __name__ == "__main__":
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    with trace.get_tracer("shop").start_as_current_span("checkout"), Client() as client:
        task = client.submit(sys.argv[1], json.loads(sys.argv[2]), initial_delay_s=0.05)
    provider.shutdown()
    print(f"submitted {task.task_id}", flush=True)  # noqa: T201 - for the test
