"""Every error has a word on the wire, survives the way there and back, and is documented."""

import re

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from stepstream.errors import ERRORS_BY_REASON, StepstreamError
from stepstream.v1.error_pb2 import ErrorReason
from stepstream_dispatcher.edge.problems import REASONS as HTTP_REASONS
from stepstream_dispatcher.edge.problems import http_status
from stepstream_dispatcher.rpc.status import ERROR_DOMAIN, rich_status
from tests.support.tree import ROOT

ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (\w+) \| (\d+) \| (yes|no) \| .+ \|$", re.MULTILINE)
ERRORS = list(ERRORS_BY_REASON.values())
REASONS = set(ErrorReason.DESCRIPTOR.values_by_name)
HTTP_ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| .+ \| .+ \|$", re.MULTILINE)
LEAVES = [error for error in ERRORS if not error.__subclasses__()]
# Unavailable is what a client raises when nobody answered, and what a call that was given up gets.
CLIENT_ONLY = {"UNAVAILABLE"}


@pytest.mark.parametrize("error", LEAVES)
def test_leaf_has_its_reason_in_the_proto(error: type[StepstreamError]):
    assert f"ERROR_REASON_{error.reason}" in REASONS


def test_every_reason_of_the_proto_has_a_class():
    words = {name.removeprefix("ERROR_REASON_") for name in REASONS}

    assert words - {"UNSPECIFIED"} == set(ERRORS_BY_REASON) - CLIENT_ONLY


@pytest.mark.parametrize("error", ERRORS)
def test_error_survives_the_way_there_and_back(error: type[StepstreamError]):
    sent = error("what, which id, 訳", field="input.json", retry_after_s=0.25)

    status = Status.FromString(rich_status(sent).SerializeToString())

    info, violations, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for packed, message in zip(status.details, (info, violations, retry), strict=True):
        assert packed.Unpack(message)
    assert info.domain == ERROR_DOMAIN
    assert ERRORS_BY_REASON[info.reason] is error
    assert status.message == sent.message
    assert violations.field_violations[0].field == sent.field
    assert retry.retry_delay.ToTimedelta().total_seconds() == sent.retry_after_s


def test_page_has_a_row_for_each_error_and_no_other():
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")

    expected = {
        (
            error.__name__,
            error.reason,
            error.status,
            str(http_status(error)),
            "yes" if error.retryable else "no",
        )
        for error in ERRORS
    }

    assert set(ROW.findall(page)) == expected


def test_page_has_a_row_for_each_reason_that_only_http_has():
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")

    assert set(HTTP_ROW.findall(page)) == {
        (word, str(status)) for status, word in HTTP_REASONS.items()
    }
