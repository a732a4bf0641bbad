"""What a worker holds, from batch to receipt."""

import pytest

from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker.inventory import Inventory


def settlement(token: str, *, size: int = 0) -> pb.Settlement:
    return pb.Settlement(lease_token=token, completed=pb.Completed(output={"data": b"x" * size}))


@pytest.fixture
def inventory() -> Inventory:
    made = Inventory()
    for number in range(3):
        made.add(f"assignment-{number}", f"lease-{number}", float(number))
    return made


def test_an_attempt_is_held_until_its_receipt(inventory: Inventory) -> None:
    inventory.settle("lease-1", settlement("lease-1"))
    inventory.take(1000)
    held_before = "lease-1" in inventory
    inventory.drop("lease-1")

    assert held_before
    assert [item.token for item in inventory.items()] == ["lease-0", "lease-2"]


def test_an_attempt_is_taken_in_once(inventory: Inventory) -> None:
    assert not inventory.add("assignment-1", "lease-1", 9.0)
    assert len(inventory) == 3


def test_the_first_result_counts(inventory: Inventory) -> None:
    first = settlement("lease-1", size=1)

    assert inventory.settle("lease-1", first)
    assert not inventory.settle("lease-1", settlement("lease-1", size=2))
    assert inventory.take(1000) == [first]


def test_a_result_of_an_attempt_that_is_gone_is_dropped(inventory: Inventory) -> None:
    inventory.drop("lease-1")

    assert not inventory.settle("lease-1", settlement("lease-1"))
    assert inventory.take(1000) == []


def test_a_result_is_sent_once_until_it_is_queued_again(inventory: Inventory) -> None:
    inventory.settle("lease-1", settlement("lease-1"))

    taken = [inventory.take(1000), inventory.take(1000)]
    inventory.resend("lease-1")
    inventory.resend("lease-1")

    assert [len(batch) for batch in taken] == [1, 0]
    assert len(inventory.take(1000)) == 1


def test_nothing_is_sent_for_an_attempt_without_result(inventory: Inventory) -> None:
    inventory.resend("lease-1")
    inventory.resend("unknown")

    assert inventory.take(1000) == []


def test_results_fill_a_frame_by_bytes_and_at_least_one_goes(inventory: Inventory) -> None:
    for number, size in enumerate([400, 400, 5000]):
        inventory.settle(f"lease-{number}", settlement(f"lease-{number}", size=size))

    taken = [inventory.take(1000) for _ in range(3)]

    assert [[one.lease_token for one in batch] for batch in taken] == [
        ["lease-0", "lease-1"],
        ["lease-2"],
        [],
    ]


def test_a_dropped_result_is_skipped(inventory: Inventory) -> None:
    for number in range(2):
        inventory.settle(f"lease-{number}", settlement(f"lease-{number}"))
    inventory.drop("lease-0")

    assert [one.lease_token for one in inventory.take(1000)] == ["lease-1"]


def test_one_attempt_may_be_held_under_two_leases(inventory: Inventory) -> None:
    inventory.add("assignment-1", "lease-9", 9.0)

    assert inventory.tokens_of("assignment-1") == ["lease-1", "lease-9"]
    assert inventory.tokens_of("unknown") == []


def test_progress_is_news_once(inventory: Inventory) -> None:
    assert inventory.progress("lease-1", 0.5, "half")
    assert not inventory.progress("lease-1", 0.5, "half")
    assert inventory.progress("lease-1", 0.5, "still half")
    assert not inventory.progress("unknown", 0.5, "half")


def test_a_settled_attempt_makes_no_progress(inventory: Inventory) -> None:
    inventory.settle("lease-1", settlement("lease-1"))

    assert not inventory.progress("lease-1", 0.5, "half")
    assert inventory.unsettled() == ["lease-0", "lease-2"]
