"""Why a task is not running: every row of the table, and which of two comes first."""

import msgspec
import pytest

from stepstream.v1.dispatcher_service_pb2 import ExplainReason
from stepstream_dispatcher.core.explain import RULES, Scene, Seat, explain
from tests.support.records import NOW_MS, TASK_ID, delayed, ended, leased, queued, waiting

NEVER_SENT = {"UNSPECIFIED"}


def seat(name: str = "worker-1", **changes: object) -> Seat:
    made = Seat(
        name=name,
        queues=frozenset({"default"}),
        step_types=frozenset({"translate", "verify"}),
        slots=2,
        held=0,
    )
    return msgspec.structs.replace(made, **changes)


def scene(**changes: object) -> Scene:
    made = Scene(
        task_id=TASK_ID,
        record=queued(),
        seats=[seat()],
        step_types=frozenset({"translate"}),
        paused={},
        now_ms=NOW_MS,
    )
    return msgspec.structs.replace(made, **changes)


CASES = [
    ("DEADLINE_PASSED", {"record": ended(deadline_ms=5, updated_ms=5)}, "its deadline passed at"),
    ("FINISHED", {"record": ended(deadline_ms=6, updated_ms=5)}, "it has ended: failed"),
    ("FINISHED", {"record": ended()}, f"stepstream redrive {TASK_ID}"),
    ("FINISHED", {"record": ended(state="done")}, "it has ended: done"),
    ("RUNNING", {"record": leased()}, "worker worker-1 runs translate, attempt 1, since"),
    ("RUNNING", {"record": leased(cancel=1)}, "a cancel is asked for"),
    ("AWAITING_REVIEW", {"record": waiting()}, f"stepstream review {TASK_ID}"),
    ("WAITING_UNTIL", {"record": delayed()}, "translate runs again at 2023-11-14 22:13:19 UTC"),
    ("WAITING_UNTIL", {"record": delayed(state="scheduled")}, "its start was delayed until"),
    ("QUEUE_PAUSED", {"paused": {"default": NOW_MS}}, "stepstream resume default"),
    ("NO_WORKER", {"seats": []}, "no connected worker serves queue default"),
    ("NO_WORKER", {"seats": [seat(queues=frozenset({"checks"}))]}, "no connected worker serves"),
    ("NO_WORKER", {"step_types": frozenset({"translate", "score"})}, "but not its step score"),
    ("NO_WORKER", {"seats": [seat(draining=True)]}, "worker-1 serves queue default and is leaving"),
    ("NO_FREE_SLOT", {"seats": [seat(held=2), seat("w", slots=1, held=1)]}, "3 of 3 slots"),
    ("NO_FREE_SLOT", {"seats": [seat(held=4), seat("w", slots=1, held=1)]}, "3 of 3 slots"),
    ("NO_FREE_SLOT", {"seats": [seat(slots=0)]}, "0 of 0 slots are taken at worker-1"),
    ("NO_FREE_SLOT", {"record": queued(losses=2), "seats": [seat(held=1)]}, "runs alone"),
    ("QUEUED", {}, "it is next in line in queue default"),
    ("QUEUED", {"seats": [seat(held=2), seat("w")]}, "next in line"),
    ("QUEUED", {"record": queued(losses=2)}, "next in line"),
    ("QUEUED", {"paused": {"checks": NOW_MS}}, "next in line"),
]


@pytest.mark.parametrize(("reason", "changes", "words"), CASES)
def test_reason_and_words(reason: str, changes: dict[str, object], words: str):
    explanation = explain(scene(**changes))

    assert explanation.reason == reason
    assert words in explanation.message


def test_every_reason_has_a_row_and_a_case():
    words = {name.removeprefix("EXPLAIN_REASON_") for name in ExplainReason.keys()}  # noqa: SIM118

    assert {rule.reason for rule in RULES} == words - NEVER_SENT
    assert {reason for reason, _, _ in CASES} == words - NEVER_SENT


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("RUNNING", {"record": leased(), "paused": {"default": 1}}),
        ("WAITING_UNTIL", {"record": delayed(), "seats": []}),
        ("QUEUE_PAUSED", {"paused": {"default": 1}, "seats": []}),
        ("NO_WORKER", {"seats": [seat(draining=True, held=2)]}),
    ],
)
def test_the_first_reason_that_applies_is_given(reason: str, changes: dict[str, object]):
    assert explain(scene(**changes)).reason == reason


def test_until_is_told_where_it_is_known():
    assert explain(scene(record=delayed(due_ms=NOW_MS + 5))).until_ms == NOW_MS + 5
    assert explain(scene(record=leased(due_ms=7))).until_ms == 0


def test_many_names_are_cut():
    seats = [seat(f"worker-{number}", held=2) for number in range(9)]

    words = explain(scene(seats=seats)).message

    assert "worker-0, worker-1, worker-2, worker-3, worker-4 and 4 more" in words
