"""What `doctor --repair` says."""

import pytest

from stepstream.cli.doctor.finding import State
from stepstream.cli.doctor.repair import judge_repairs, repair_by
from stepstream.cli.probe import free_address
from stepstream.types import Repairs
from stepstream.v1 import operator_service_pb2 as pb2
from tests.unit.client.operator_stub import StubOperator, serving_both


@pytest.mark.parametrize(
    ("repaired", "counted", "state", "words"),
    [
        ({}, True, State.OK, "nothing to repair; 9 tasks in 1.5 s"),
        ({"index": 2, "entries": 3}, True, State.OK, "repaired: 3 entries, 2 index; 9 tasks"),
        ({"entries": 3}, False, State.WARN, "not verified"),
    ],
)
def test_each_outcome_is_told(repaired: dict[str, int], counted: bool, state: State, words: str):
    repairs = Repairs(repaired=repaired, tasks=9, duration_s=1.5, counted=counted)

    finding = judge_repairs(repairs)

    assert finding.state is state
    assert words in finding.found


def test_the_dispatcher_is_asked():
    stub = StubOperator()
    stub.repairs = pb2.RepairResponse(repaired={"timers": 1}, tasks=4, counted=True)

    with serving_both(stub) as address:
        finding = repair_by(address)

    assert finding.state is State.OK
    assert finding.found.startswith("repaired: 1 timers")


def test_nobody_there_is_bad():
    assert repair_by(free_address()).state is State.BAD
