"""Matches of entries and workers."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stepstream_dispatcher.core.assign import Offer, Want, assign

QUEUES = st.sampled_from(["a", "b", "c"])
OFFERS = st.lists(
    st.builds(
        Offer,
        session_id=st.uuids().map(str),
        queues=st.frozensets(QUEUES, min_size=1),
        free=st.integers(0, 4),
        held=st.integers(0, 3),
        ahead=st.integers(0, 4),
    ),
    max_size=6,
    unique_by=lambda offer: offer.session_id,
)
WANTS = st.lists(st.builds(Want, queue=QUEUES), max_size=20)


def offer(
    session_id: str, *, free: int = 1, held: int = 0, queues: str = "a", ahead: int = 0
) -> Offer:
    return Offer(session_id=session_id, queues=frozenset(queues), free=free, held=held, ahead=ahead)


def test_nothing_is_matched_without_offers():
    assert assign([Want(queue="a")], []) == [None]
    assert assign([], [offer("x")]) == []


def test_work_spreads_over_the_freest():
    offers = [offer("x", free=3), offer("y", free=2)]

    assert assign([Want(queue="a")] * 5, offers) == ["x", "y", "x", "y", "x"]


def test_among_equally_free_ones_the_one_that_holds_least_is_first():
    offers = [offer("x", held=2), offer("y", held=1)]

    assert assign([Want(queue="a")] * 2, offers) == ["y", "x"]


def test_surplus_is_not_matched():
    assert assign([Want(queue="a")] * 2, [offer("x")]) == ["x", None]


def test_want_goes_only_where_its_lane_is_served():
    offers = [offer("x", queues="b"), offer("y", queues="ab")]

    assert assign([Want(queue="a"), Want(queue="c")], offers) == ["y", None]


def test_a_free_slot_goes_before_a_place_where_one_is_waited_for():
    offers = [offer("busy", free=0, held=8, ahead=8), offer("x", free=2, ahead=1)]

    matches = assign([Want(queue="a")] * 4, offers)

    assert matches[:2] == ["x", "x"]
    assert matches[2:] == ["busy", "busy"]


def test_places_are_shared_by_all_lanes_of_a_worker():
    wants = [Want(queue="a"), Want(queue="b"), Want(queue="a")]

    matches = assign(wants, [offer("x", queues="ab", free=1, ahead=1)])

    assert matches == ["x", "x", None]


def test_slots_are_shared_by_all_lanes_of_a_worker():
    wants = [Want(queue="a"), Want(queue="b")]

    assert sorted(map(str, assign(wants, [offer("x", queues="ab")]))) == ["None", "x"]


@given(WANTS, OFFERS)
def test_match_keeps_every_promise(wants: list[Want], offers: list[Offer]):
    by_id = {offer.session_id: offer for offer in offers}

    matches = assign(wants, offers)

    assert len(matches) == len(wants)
    given_to = Counter(match for match in matches if match is not None)
    assert all(given_to[name] <= by_id[name].room for name in given_to)
    pairs = [(want, by_id[name]) for want, name in zip(wants, matches, strict=True) if name]
    assert all(want.queue in one.queues for want, one in pairs)


@given(WANTS, OFFERS)
def test_no_room_is_left_beside_a_want_that_fits(wants: list[Want], offers: list[Offer]):
    matches = assign(wants, offers)

    given_to = Counter(matches)
    left = [one for one in offers if given_to[one.session_id] < one.room]
    unmatched = {want.queue for want, name in zip(wants, matches, strict=True) if name is None}
    assert not any(unmatched & one.queues for one in left)


@given(WANTS, OFFERS)
def test_nothing_waits_for_a_slot_that_is_free_elsewhere(wants: list[Want], offers: list[Offer]):
    matches = assign(wants, offers)

    given_to: Counter[str | None] = Counter()
    for want, name in zip(wants, matches, strict=True):
        given_to[name] += 1
        free = [one for one in offers if given_to[one.session_id] < one.free]
        waits = any(one.session_id == name and given_to[name] > one.free for one in offers)
        assert not (waits and any(want.queue in one.queues for one in free))
