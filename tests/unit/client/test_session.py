"""The protocol table, walked from both ends."""

import itertools

import pytest

from stepstream.errors import RemoteProtocolError
from stepstream.session import (
    HALF_CLOSE,
    PARTS,
    TABLE,
    LocalProtocolError,
    Role,
    Session,
    State,
    idle_beat_interval_s,
)
from stepstream.v1 import worker_service_pb2 as pb

WORKER, DISPATCHER = Role.WORKER, Role.DISPATCHER
EVENTS = [(role, part) for role in Role for part in sorted(PARTS[role])]
LENGTH_MAX = 4


def pair() -> dict[Role, Session]:
    return {role: Session(role) for role in Role}


def other(role: Role) -> Role:
    return DISPATCHER if role is WORKER else WORKER


def deliver(ends: dict[Role, Session], sender: Role, *parts: str) -> None:
    ends[sender].send(parts)
    ends[other(sender)].receive(parts)


def active() -> dict[Role, Session]:
    ends = pair()
    deliver(ends, WORKER, "register")
    deliver(ends, DISPATCHER, "registered")
    return ends


def test_parts_are_the_fields_of_the_frames() -> None:
    assert PARTS[WORKER] - {HALF_CLOSE} == {f.name for f in pb.WorkRequest.DESCRIPTOR.fields}
    assert PARTS[DISPATCHER] - {HALF_CLOSE} == {f.name for f in pb.WorkResponse.DESCRIPTOR.fields}


def test_no_two_rows_speak_of_the_same_move() -> None:
    keys = [(row.sender, row.state, row.part) for row in TABLE]

    assert len(keys) == len(set(keys))
    assert all(row.sentence.endswith(".") for row in TABLE)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("state", list(State))
def test_every_event_in_every_state_follows_the_table_or_is_refused(
    role: Role, state: State
) -> None:
    rows = {(row.sender, row.state, row.part): row for row in TABLE}
    for part in PARTS[role]:
        row = rows.get((role, state, part))
        sender, receiver = Session(role), Session(other(role))
        sender.state = receiver.state = state
        if row is None or row.crossing:
            with pytest.raises(LocalProtocolError, match=f"{role.value} may not send {part}"):
                sender.send([part])
            assert sender.state is state
        else:
            sender.send([part])
            assert sender.state is row.next
        if row is None:
            with pytest.raises(RemoteProtocolError, match=f"{role.value} sent {part}"):
                receiver.receive([part])
            assert receiver.state is State.FAILED
        else:
            receiver.receive([part])
            assert receiver.state is row.next


def test_both_ends_agree_after_every_sequence_that_does_not_cross() -> None:
    walked = 0
    for length in range(LENGTH_MAX + 1):
        for events in itertools.product(EVENTS, repeat=length):
            walked += walk(events)

    assert walked > 200  # sequences that the table allows


def walk(events: tuple[tuple[Role, str], ...]) -> int:
    """Delivers each event at once; returns 1 when all could be sent."""
    ends = pair()
    registered = 0
    for position, (sender, part) in enumerate(events):
        try:
            ends[sender].send([part])
        except LocalProtocolError:
            return 0
        ends[other(sender)].receive([part])
        assert ends[WORKER].state is ends[DISPATCHER].state
        assert (part == "register") <= (position == 0)
        registered += part == "registered"
    assert registered <= 1
    return 1


def test_every_interleaving_of_crossing_frames_is_received() -> None:
    """What an end may send in its own view never makes its peer fail, however late it arrives."""
    worker_sends = ["pull", "report", "heartbeat", "drain", HALF_CLOSE]
    dispatcher_sends = ["batch", "receipts", "heartbeat_ack", "cancels", "drain", HALF_CLOSE]
    for ups in itertools.product(worker_sends, repeat=2):
        for downs in itertools.product(dispatcher_sends, repeat=2):
            ends = active()
            sent_up = [part for part in ups if sent(ends[WORKER], part)]
            sent_down = [part for part in downs if sent(ends[DISPATCHER], part)]
            for part in sent_up:
                ends[DISPATCHER].receive([part])
            for part in sent_down:
                ends[WORKER].receive([part])


def sent(end: Session, part: str) -> bool:
    try:
        end.send([part])
    except LocalProtocolError:
        return False
    return True


def test_a_frame_of_several_parts_is_taken_in_order() -> None:
    ends = pair()

    deliver(ends, WORKER, "register", "pull")
    deliver(ends, DISPATCHER, "registered", "batch", "receipts")
    deliver(ends, WORKER, "pull", "report", "heartbeat", "drain")

    assert ends[WORKER].state is ends[DISPATCHER].state is State.DRAINING


def test_no_batch_may_be_sent_after_the_workers_drain_but_one_may_cross_it() -> None:
    ends = active()
    ends[WORKER].send(["drain"])
    ends[DISPATCHER].send(["batch"])

    ends[WORKER].receive(["batch"])
    ends[DISPATCHER].receive(["drain"])

    with pytest.raises(LocalProtocolError):
        ends[DISPATCHER].send(["batch"])


def test_results_go_on_while_draining_until_the_half_close() -> None:
    ends = active()
    deliver(ends, WORKER, "drain")
    deliver(ends, WORKER, "report", "heartbeat")
    deliver(ends, DISPATCHER, "receipts")
    deliver(ends, WORKER, HALF_CLOSE)

    with pytest.raises(LocalProtocolError):
        ends[WORKER].send(["report"])


def test_a_refused_frame_leaves_the_sender_as_it_was() -> None:
    ends = active()

    with pytest.raises(LocalProtocolError):
        ends[WORKER].send(["drain", "register"])

    assert ends[WORKER].state is State.ACTIVE


@pytest.mark.parametrize("parts", [[], ["of_a_newer_protocol"]])
def test_empty_frames_and_unknown_parts_are_ignored(parts: list[str]) -> None:
    for role in Role:
        session = Session(role)
        session.receive(parts)
        assert session.state is State.OPENING


def test_our_own_unknown_part_is_a_programmer_error() -> None:
    with pytest.raises(LocalProtocolError):
        active()[WORKER].send(["of_a_newer_protocol"])


@pytest.mark.parametrize(
    ("interval_s", "limit_s", "expected_s"),
    [
        (5.0, 15.0, 6.45),  # the defaults: two within the limit, the answer before two thirds of it
        (1.0, 15.0, 1.3),
        (60.0, 600.0, 78.0),
        (7.5, 15.0, 7.5),  # never more often than a worker that holds attempts
        (0.05, 0.1, 0.05),
    ],
)
def test_an_idle_worker_beats_less_often_and_twice_within_the_limit(
    interval_s: float, limit_s: float, expected_s: float
):
    assert idle_beat_interval_s(interval_s, limit_s) == pytest.approx(expected_s)
