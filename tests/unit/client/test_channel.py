"""Which address a client turns to."""

import random

import pytest

from stepstream._channel import Endpoints

_LUCK = random.Random(1)


@pytest.mark.parametrize(
    ("given", "addresses"),
    [
        ("a:1", ("a:1",)),
        ("a:1, b:2", ("a:1", "b:2")),
        (["a:1", "b:2"], ("a:1", "b:2")),
        ("[::1]:1,[fe80::1%eth0]:2", ("[::1]:1", "[fe80::1%eth0]:2")),
    ],
)
def test_addresses_come_as_a_text_or_a_sequence(given, addresses):
    assert Endpoints(given).all == addresses


@pytest.mark.parametrize("given", ["", "a:1,", [], ["a:1", ""]])
def test_there_is_an_address_in_it(given):
    with pytest.raises(ValueError, match="at least one address"):
        Endpoints(given)


def test_none_is_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STEPSTREAM_ADDRESS", "a:1, [::1]:2")

    assert Endpoints(None).all == ("a:1", "[::1]:2")


def test_the_address_that_works_stays_current():
    endpoints = Endpoints("a:1,b:1,c:1")

    endpoints.failed("a:1", 0.0, _LUCK)
    endpoints.answered("b:1")

    assert endpoints.current == "b:1"


def test_the_one_that_is_due_first_is_tried_next():
    endpoints = Endpoints("a:1,b:1")

    pauses = [endpoints.failed(endpoints.current, now, _LUCK) for now in (0.0, 1.0, 1.0, 1.1)]

    assert pauses[:2] == [0.0, 0.0]
    assert endpoints.current == "a:1"
    assert pauses[2] == pytest.approx(0.1, rel=0.3)


def test_a_late_failure_of_a_former_address_moves_nobody():
    """Threads share a client: each tells of its own call."""
    endpoints = Endpoints("a:1,b:1")

    endpoints.failed("a:1", 0.0, _LUCK)
    endpoints.failed("a:1", 0.0, _LUCK)

    assert endpoints.current == "b:1"


def test_an_answer_forgets_the_failures():
    endpoints = Endpoints("a:1")
    for _ in range(5):
        endpoints.failed("a:1", 0.0, _LUCK)

    endpoints.answered("a:1")

    assert endpoints.failed("a:1", 0.0, _LUCK) == pytest.approx(0.1, rel=0.2)
