"""The routes of the task API, as data: which call each serves, and how it is asked for."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from stepstream_dispatcher.edge.queries import Parameter

__all__ = ["OPERATIONS", "Operation"]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    The request of the call has the fields of the body, of the path and of the query together.
    """

    method: Literal["GET", "POST", "PUT"]
    path: str
    call: str  # name of the RPC
    summary: str
    query: tuple[Parameter, ...] = ()
    body: Literal["none", "optional", "required", "batch"] = "none"
    keyed: bool = False  # takes Idempotency-Key, and answers 201 for what is new
    request: str = ""  # message that the body is; empty: the call's own
    unwrap: str = ""  # member of the call's answer that is the whole body; empty: all of it
    refusals: tuple[int, ...] = ()  # statuses besides those that any operation may have


_PAYLOADS: Final = Parameter(
    name="payloads",
    field="include_payloads",
    kind="switch",
    description="true adds input, outputs, result and errors.",
)
_PAGE: Final = (
    Parameter(
        name="page_size", field="page_size", kind="number", description="1 to 1,000; default 100."
    ),
    Parameter(
        name="page_token",
        field="page_token",
        description="nextPageToken of the page before; absent for the first.",
    ),
)

OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/api/tasks",
        call="Submit",
        summary="Submit a task; 201 when it is new, 200 when its key was known.",
        body="required",
        keyed=True,
        refusals=(409, 413),
    ),
    Operation(
        method="GET",
        path="/api/tasks",
        call="ListTasks",
        summary="List tasks, newest first.",
        query=(
            *_PAGE,
            Parameter(name="state", field="state", description="Only tasks in this state."),
            Parameter(name="pipeline", field="pipeline", description="Only of this pipeline."),
            Parameter(
                name="label",
                field="labels",
                kind="pairs",
                description="KEY=VALUE; may stand several times, and all of them must match.",
            ),
        ),
    ),
    Operation(
        method="POST",
        path="/api/tasks:batch",
        call="SubmitBatch",
        summary="Submit up to 1,000 tasks, each accepted or refused by itself.",
        body="batch",
        refusals=(413,),
    ),
    Operation(
        method="GET",
        path="/api/tasks/{task_id}",
        call="GetTask",
        summary="Read one task.",
        query=(_PAYLOADS,),
        unwrap="task",
        refusals=(404,),
    ),
    Operation(
        method="GET",
        path="/api/tasks/{task_id}/history",
        call="GetHistory",
        summary="Read what has happened to a task so far, oldest first.",
        query=(
            Parameter(
                name="after",
                field="after",
                kind="number",
                description="Only events with a greater sequence; default 0, all that are kept.",
            ),
        ),
        refusals=(404,),
    ),
    Operation(
        method="POST",
        path="/api/tasks/{task_id}/cancel",
        call="CancelTask",
        summary="Cancel a task, now or as soon as its worker has let go.",
        body="optional",
        unwrap="task",
        refusals=(404, 409, 413),
    ),
    Operation(
        method="POST",
        path="/api/tasks/{task_id}/review",
        call="DecideReview",
        summary="Decide a task that waits for a person.",
        body="required",
        unwrap="task",
        refusals=(404, 409, 413),
    ),
    Operation(
        method="GET",
        path="/api/tasks/{task_id}/explain",
        call="ExplainTask",
        summary="Say why a task is not running.",
        refusals=(404,),
    ),
    Operation(
        method="GET",
        path="/api/dead-letters",
        call="ListDeadLetters",
        summary="List failed tasks with their errors, latest first.",
        query=_PAGE,
    ),
    Operation(
        method="POST",
        path="/api/dead-letters/{task_id}/redrive",
        call="Redrive",
        summary="Start a failed task anew at the step that failed.",
        body="optional",
        request="GetTaskRequest",
        unwrap="task",
        refusals=(404, 409, 413),
    ),
    Operation(
        method="PUT",
        path="/api/dead-letters/{task_id}/input",
        call="UpdateInput",
        summary="Replace the input of a failed task.",
        body="required",
        unwrap="task",
        refusals=(404, 409, 413),
    ),
)
