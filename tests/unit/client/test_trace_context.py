"""Trace context is read with suspicion: what is not as the standard has it is as if not sent."""

import hashlib

import pytest

from stepstream.trace_context import (
    TraceContext,
    parse_traceparent,
    read_carrier,
    span_id_of,
    trace_fields,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"

HOSTILE = [
    "",
    "00",
    "garbage",
    "-" * 55,
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE}-{SPAN}-001",
    f"00-{TRACE}-{SPAN}-0g",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN.upper()}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"FF-{TRACE}-{SPAN}-01",
    f"0-{TRACE}-{SPAN}-01",
    f"cc-{TRACE}-{SPAN}-01.what",
    f" 00-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01 ",
    f"00-{TRACE}-{SPAN}-01\n",
    f"00-{TRACE}\x00{SPAN}-01",
    f"00_{TRACE}_{SPAN}_01",
    f"00-{TRACE[:-1]}-{SPAN}-01",
    f"00-{TRACE}0-{SPAN}-01",
    f"00-{TRACE[:-1]}\u0661-{SPAN}-01",  # a digit, and not one of hexadecimal
    f"00-{TRACE[:-1]}\uff10-{SPAN}-01",
    "0" * 100_000,
    GOOD + ";" + "x" * 100_000,
]


def test_a_traceparent_is_read():
    assert parse_traceparent(GOOD, "a=1") == TraceContext(
        trace_id=TRACE, span_id=SPAN, flags=1, state="a=1"
    )


@pytest.mark.parametrize(
    ("flags", "kept", "sampled"),
    [("00", 0, False), ("01", 1, True), ("02", 2, False), ("03", 3, True), ("ff", 3, True)],
)
def test_flags_beyond_the_known_ones_are_left_out(flags, kept, sampled):
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}")

    assert context is not None
    assert (context.flags, context.sampled) == (kept, sampled)
    assert context.traceparent == f"00-{TRACE}-{SPAN}-{kept:02x}"


@pytest.mark.parametrize("text", [f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes"])
def test_a_later_version_is_read_as_far_as_it_is_known(text):
    context = parse_traceparent(text)

    assert context is not None
    assert context.traceparent == GOOD


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_traceparent_is_ignored(text):
    assert parse_traceparent(text) is None
    assert read_carrier([("traceparent", text), ("tracestate", "a=1")]) == {}


def test_a_carrier_has_what_was_sent_and_no_other_header():
    headers = [
        ("user-agent", "grpc"),
        ("traceparent", GOOD),
        ("tracestate", "shop=1, 2@vendor=x y"),
        ("baggage", "tenant=7;prop=1 , plan = gold"),
        ("authorization", "Bearer secret"),
    ]

    assert read_carrier(headers) == {
        "traceparent": GOOD,
        "tracestate": "shop=1,2@vendor=x y",
        "baggage": "tenant=7;prop=1,plan = gold",
    }


def test_a_header_in_parts_is_joined():
    headers = [("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2,,")]

    assert read_carrier(headers)["tracestate"] == "a=1,b=2"


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", GOOD), ("traceparent", GOOD)],
        [("traceparent", GOOD.encode())],
        [("Traceparent", GOOD)],
        [("tracestate", "a=1")],
    ],
    ids=["twice", "bytes", "another name", "state alone"],
)
def test_a_carrier_without_one_traceparent_is_empty(headers):
    assert read_carrier(headers) == {}


@pytest.mark.parametrize(
    "state",
    [
        "a",
        "=1",
        "A=1",
        "a=1,a=2",
        "a=1,b",
        "a=\u00e9",
        "a=1\x00",
        "a=b=c",
        "a= ",
        "a=" + "x" * 257,
        "@v=1",
        "a@=1",
        "k" * 257 + "=1",
        ",".join(f"k{n}=1" for n in range(33)),
        "a=" + "x" * 600,
    ],
)
def test_a_malformed_tracestate_is_left_out_and_the_traceparent_stays(state):
    carrier = read_carrier([("traceparent", GOOD), ("tracestate", state)])

    assert carrier == {"traceparent": GOOD}


@pytest.mark.parametrize(
    "baggage",
    [
        "a",
        "=1",
        "a b=1",
        'a="1"',
        "a=1\\",
        "a=\u00e9",
        "a=1\x00",
        "a=1;b=\x7f",
        ",".join(f"k{n}=1" for n in range(65)),
        "a=" + "x" * 1023,
    ],
)
def test_malformed_baggage_is_left_out(baggage):
    assert read_carrier([("baggage", baggage)]) == {}


def test_baggage_travels_without_a_trace():
    assert read_carrier([("baggage", "a=1")]) == {"baggage": "a=1"}


def test_a_span_id_is_the_beginning_of_a_digest_of_its_name():
    name = "0123/translate/2"

    assert span_id_of(name) == hashlib.sha256(name.encode()).digest()[:8].hex()


def test_log_fields_of_a_carrier():
    assert trace_fields({"traceparent": GOOD}) == {"trace_id": TRACE}
    assert trace_fields({"traceparent": "x"}) == trace_fields({}) == {}
