"""The OpenAPI document says what is served, and nothing else."""

from typing import Any

from google.protobuf.descriptor_pool import Default
from starlette.applications import Starlette
from starlette.routing import Route

from stepstream_dispatcher.core.admission import LABELS_MAX, RETRIES_MAX
from stepstream_dispatcher.edge.api import api_routes
from stepstream_dispatcher.edge.app import build_app
from stepstream_dispatcher.edge.openapi import FIELD_NOTES, openapi_document
from stepstream_dispatcher.edge.routes import OPERATIONS
from stepstream_dispatcher.engine.desk import BATCH_MAX
from stepstream_dispatcher.rpc.json_calls import json_schemas
from tests.support.edge import LIMITS, Edge

# Answers and parts of answers that no message has.
OWN = {"History", "Problem", "Stats", "Status", "Document"}


def document() -> dict[str, Any]:
    return openapi_document(json_schemas())


def served() -> Starlette:
    async def never() -> Any:
        raise AssertionError

    return build_app(never, never, api_routes({}, json_schemas(), LIMITS))


async def test_the_document_is_served(edge: Edge):
    response = await edge.http.get("/api/openapi.json")

    assert response.json() == document()
    assert response.json()["openapi"] == "3.1.0"


def test_every_route_is_in_the_document_and_no_other():
    routes = {
        (route.path, method.lower())
        for route in served().routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }

    described = {(path, method) for path, one in document()["paths"].items() for method in one}

    assert described == routes


def test_every_member_of_a_schema_is_a_field_of_its_message():
    for name, schema in document()["components"]["schemas"].items():
        if name in OWN or "properties" not in schema:
            continue
        message = Default().FindMessageTypeByName(f"stepstream.v1.{name}")
        fields = {field.json_name for field in message.fields}
        assert set(schema["properties"]) <= fields
        assert fields - set(schema["properties"]) <= {"taskId"}


def test_every_note_is_about_a_member():
    schemas = document()["components"]["schemas"]

    for note in FIELD_NOTES:
        name, _, member = note.partition(".")
        assert member in schemas[name]["properties"], note


def test_every_reference_leads_to_a_schema():
    described = document()

    names = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}

    assert references(described) <= names


def references(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*map(references, value.values()))


def test_every_parameter_of_a_query_is_a_field_of_the_request():
    for operation in OPERATIONS:
        name = f"stepstream.v1.{operation.request or operation.call + 'Request'}"
        if operation.call == "GetHistory":  # no message has it
            continue
        fields = Default().FindMessageTypeByName(name).fields_by_name
        assert {parameter.field for parameter in operation.query} <= set(fields)
        assert ("task_id" in fields) == ("{task_id}" in operation.path)


def test_limits_are_those_of_the_code():
    assert FIELD_NOTES["SubmitRequest.labels"]["maxProperties"] == LABELS_MAX
    assert FIELD_NOTES["RetryOverride.maxRetries"]["maximum"] == RETRIES_MAX
    assert FIELD_NOTES["SubmitBatchRequest.requests"]["maxItems"] == BATCH_MAX
