"""Addresses."""

import pytest

from stepstream_dispatcher.addresses import split_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:3000", ("::1", 3000)),
        ("my-host_1.example:65535", ("my-host_1.example", 65535)),
    ],
)
def test_address_is_split(address: str, expected: tuple[str, int]):
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address", ["", "host", ":1", "h:", "h:65536", "h:-1", "::1:5", "h:1\n", "h/x:1"]
)
def test_other_words_are_refused(address: str):
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(address)
