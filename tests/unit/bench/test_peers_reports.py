"""What tasks say of themselves."""

import pytest

from bench.peers.reports import SIZE, Report, parse

ENDED = b"e1 00000042\n"
BEGUN = b"b0 00000007\n"


def test_reports_are_read_in_their_order():
    assert parse(BEGUN + ENDED) == [Report(False, "0", 7), Report(True, "1", 42)]


def test_a_report_has_the_size_that_is_documented():
    assert len(ENDED) == SIZE


@pytest.mark.parametrize("data", [ENDED[:-1], ENDED[1:], b"x1 00000042\n", b"hello\n"])
def test_anything_else_is_refused(data: bytes):
    with pytest.raises(ValueError, match="not a report"):
        parse(data)
