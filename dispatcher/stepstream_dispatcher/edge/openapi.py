"""The OpenAPI document: the routes as they are served, the schemas as the messages have them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from stepstream_dispatcher.edge.problems import REASONS
from stepstream_dispatcher.edge.queries import Parameter
from stepstream_dispatcher.edge.routes import OPERATIONS, Operation

__all__ = ["FIELD_NOTES", "openapi_document"]

_ABOUT: Final = (
    "The calls of stepstream.v1 as JSON. Bodies and answers are the proto3 JSON of the messages: "
    'names in lowerCamelCase, 64-bit integers as strings, durations as "1.5s", bytes as base64. '
    "Errors are application/problem+json with a stable `reason`."
)
_ALWAYS: Final = (400, 414, 429, 500, 503)
_WITH_BODY: Final = (408, 415, 422)
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "SubmitRequest": ("pipeline", "input"),
    "SubmitBatchRequest": ("requests",),
    "DecideReviewRequest": ("decision", "reviewer"),
    "UpdateInputRequest": ("input",),
}
# What a schema can't tell of the members that a caller sends.
FIELD_NOTES: Final[Mapping[str, Mapping[str, Any]]] = {
    "Payload.json": {"description": "A JSON object, nested at most 32 levels deep."},
    "Payload.text": {"description": "UTF-8 text."},
    "Payload.data": {"description": "Bytes that are never looked into."},
    "SubmitRequest.pipeline": {"description": "Name of the pipeline.", "examples": ["translation"]},
    "SubmitRequest.input": {"description": "What the first step works on; at most 1 MiB."},
    "SubmitRequest.requestId": {
        "description": "The same as the header Idempotency-Key.",
        "maxLength": 128,
        "pattern": "^[!-~]*$",
    },
    "SubmitRequest.deadline": {
        "description": "Fails the task if it has not ended this long after it was accepted."
    },
    "SubmitRequest.delay": {"description": "Starts the task this much later; at most 366 days."},
    "SubmitRequest.labels": {
        "description": "Keys and values have at most 63 characters.",
        "maxProperties": 16,
    },
    "SubmitRequest.requireDurable": {
        "description": "Refuses rather than accepts with durability LOCAL or VOLATILE."
    },
    "RetryOverride.maxRetries": {"minimum": 0, "maximum": 100},
    "RetryOverride.initialDelay": {"description": "1 ms to 24 h; it doubles from there."},
    "RetryOverride.timeout": {"description": "Of one attempt; 1 ms to 24 h."},
    "SubmitBatchRequest.requests": {"minItems": 1, "maxItems": 1000},
    "CancelTaskRequest.reason": {"description": "For the history; at most 256 bytes."},
    "DecideReviewRequest.output": {"description": "With REVIEW_DECISION_EDITED, and only then."},
    "DecideReviewRequest.feedback": {
        "description": "Required with REVIEW_DECISION_REJECTED; at most 4 KiB."
    },
    "DecideReviewRequest.reviewer": {"description": "Who decides; at most 64 bytes."},
    "GetTaskRequest.includePayloads": {"description": "Adds payloads to the answer."},
    "UpdateInputRequest.input": {"description": "Replaces the input; at most 1 MiB."},
    "UpdateInputRequest.version": {
        "description": "The task's version that the operator saw; 0 or absent: as it is now."
    },
    "DecideReviewRequest.version": {
        "description": "The task's version that the reviewer saw; 0 or absent: as it is now."
    },
}
_TEXT: Final[dict[str, Any]] = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_COUNTS: Final = {"processed": _COUNT, "failed": _COUNT, "currentTasks": _COUNT}
_QUERY_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "number": _COUNT,
    "pairs": {"type": "array", "items": {**_TEXT, "pattern": "^[^=]+="}},
    "switch": {"type": "boolean"},
    "text": _TEXT,
}
# Answers that are no message.
_OWN_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "History": {
        "type": "object",
        "properties": {
            "taskId": _TEXT,
            "gap": {"$ref": "#/components/schemas/Gap"},
            "events": {"type": "array", "items": {"$ref": "#/components/schemas/TaskEvent"}},
        },
        "required": ["taskId", "events"],
    },
    "Problem": {
        "type": "object",
        "properties": {
            "type": {**_TEXT, "format": "uri"},
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "reason": _TEXT,
            "code": {**_TEXT, "description": "Name of the gRPC status, where there is one."},
            "field": {**_TEXT, "description": "The parameter, or the path of the member."},
            "retryAfter": {"type": "number", "description": "Seconds."},
            "incident": {**_TEXT, "description": "Finds the cause of a 500 in the log."},
        },
        "required": ["type", "title", "status", "detail", "reason"],
    },
    "Stats": {
        "type": "object",
        "properties": {
            "parallelProcessing": {"type": "boolean"},
            "isRunning": {"type": "boolean"},
            "workers": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "properties": {**_COUNTS, "isRunning": {"type": "boolean"}},
                },
            },
            "totals": {"type": "object", "properties": _COUNTS},
            "queue": {
                "type": "object",
                "properties": dict.fromkeys(
                    ("pending", "translating", "verifying", "reviewing"), _COUNT
                ),
            },
        },
    },
    "Status": {"type": "object", "properties": {"status": _TEXT, "reason": _TEXT}},
    "Document": {"type": "object"},
}
# Routes beside the task API: summary, and schemas of the answers by status.
_PLAIN: Final[Mapping[str, tuple[str, Mapping[int, str]]]] = {
    "/api/stats": ("Counts, workers and the sizes of the states.", {200: "Stats"}),
    "/api/openapi.json": ("This document.", {200: "Document"}),
    "/healthz": ("Whether the process lives.", {200: "Status"}),
    "/readyz": ("Whether calls should be sent here.", {200: "Status", 503: "Status"}),
}


def _request(operation: Operation) -> str:
    return operation.request or f"{operation.call}Request"


def openapi_document(schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Build the document.

    Args:
        schemas: Of the messages, by name.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    for path, (summary, answers) in _PLAIN.items():
        responses = {str(status): _answer(name, summary) for status, name in answers.items()}
        paths[path] = {"get": {"summary": summary, "responses": responses}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "stepstream", "version": version("stepstream"), "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": {**_described(schemas), **_OWN_SCHEMAS}},
    }


def _described(schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The schemas with notes on what is sent; what a caller sends has no further members."""
    described: dict[str, Any] = {}
    for name, schema in schemas.items():
        described[name] = dict(schema)
        if "properties" in schema:
            described[name]["properties"] = {
                member: {**one, **FIELD_NOTES.get(f"{name}.{member}", {})}
                for member, one in schema["properties"].items()
                if not (name in _IN_THE_PATH and member == "taskId")
            }
        if name in _REQUIRED:
            described[name]["required"] = list(_REQUIRED[name])
        if name.endswith("Request") or name in {"Payload", "RetryOverride"}:
            described[name]["additionalProperties"] = False
    return described


_IN_THE_PATH: Final = frozenset(
    _request(operation) for operation in OPERATIONS if "{task_id}" in operation.path
)


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.call,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation),
    }
    if operation.body != "none":
        content = {"application/json": {"schema": _reference(_request(operation))}}
        required = operation.body != "optional"
        described["requestBody"] = {"required": required, "content": content}
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    schema: dict[str, Any]
    if "{task_id}" in operation.path:
        schema = {**_TEXT, "pattern": "^[0-9a-f]{32}$"}
        found.append({"name": "task_id", "in": "path", "required": True, "schema": schema})
    if operation.keyed:
        schema = {**_TEXT, "maxLength": 128, "pattern": "^[!-~]+$"}
        words = "The same key with the same task is the same task again, whenever it comes."
        key: dict[str, Any] = {"name": "Idempotency-Key", "in": "header", "description": words}
        found.append(key | {"schema": schema})
    return found + [_query_parameter(parameter) for parameter in operation.query]


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    schema = _QUERY_SCHEMAS[parameter.kind]
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
    }
    return described | {"schema": schema}


def _responses(operation: Operation) -> dict[str, Any]:
    name = _ANSWERS.get(operation.call, f"{operation.call}Response")
    good = (200, 201) if operation.keyed else (200,)
    bad = {*_ALWAYS, *operation.refusals}
    if operation.body != "none":
        bad |= set(_WITH_BODY)
    answers = {str(status): _answer(name, operation.summary) for status in good}
    return answers | {str(status): _problem(status) for status in sorted(bad)}


# Where the answer is not the call's whole answer.
_ANSWERS: Final[Mapping[str, str]] = {
    operation.call: "Task" for operation in OPERATIONS if operation.unwrap == "task"
} | {"GetHistory": "History"}


def _answer(name: str, words: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(name)}}
    return {"description": words, "content": content}


def _problem(status: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _reference("Problem")}}
    words = REASONS.get(status, "REFUSED").replace("_", " ").capitalize()
    return {"description": f"{words}, or as its reason says.", "content": content}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
