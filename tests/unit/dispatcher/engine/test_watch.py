"""A watcher sees every event once and in order, whatever happens to the messages."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from stepstream.errors import RateLimited, TaskNotFound
from stepstream_dispatcher.core.facts import (
    CancelAsked,
    Fact,
    Failed,
    InputUpdated,
    Leased,
    Progressed,
    Redriven,
    Released,
)
from stepstream_dispatcher.core.record import Event, Transition
from stepstream_dispatcher.engine.committer import Proposal
from stepstream_dispatcher.engine.watch import GapFrame, SnapshotFrame, WatchFrame
from stepstream_dispatcher.store.port import Signal
from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time

watching = with_dispatcher("committer", "watch")


async def happen(dispatcher: Dispatcher, task_id: str, fact: Fact) -> None:
    record = await dispatcher.record(task_id)
    proposal = Proposal(task_id=task_id, record=record, fact=fact)
    (outcome,) = await dispatcher.engine.committer.apply([proposal])
    assert outcome.applied, outcome


async def lease(dispatcher: Dispatcher, task_id: str) -> None:
    entry = (await dispatcher.record(task_id)).entry
    await happen(
        dispatcher, task_id, Leased(entry=entry, token="lease", owner="d", worker="worker-1")
    )


async def fail(dispatcher: Dispatcher, task_id: str) -> None:
    await lease(dispatcher, task_id)
    await happen(
        dispatcher, task_id, Failed(token="lease", code="BAD", message="", retryable=False)
    )


async def release(dispatcher: Dispatcher, task_id: str) -> None:
    await happen(dispatcher, task_id, Released(token="lease", reason="drain"))


class Follower:
    """Follows a task beside the test, and keeps what it saw."""

    def __init__(self, dispatcher: Dispatcher, task_id: str, **options: object) -> None:
        self.frames: list[WatchFrame] = []
        self.ended = False
        self._follow: Callable[[], AsyncIterator[WatchFrame]] = lambda: (
            dispatcher.engine.watch.follow(task_id, **{"after": None} | options)
        )

    async def run(self) -> None:
        async with aclosing(self._follow()) as frames:  # type: ignore[type-var]
            async for frame in frames:
                self.frames.append(frame)
        self.ended = True

    @property
    def sequences(self) -> list[int]:
        return [frame.sequence for frame in self.frames if isinstance(frame, Event)]


async def followed(dispatcher: Dispatcher, task_id: str, **options: object) -> Follower:
    follower = Follower(dispatcher, task_id, **options)
    dispatcher.run(follower.run)
    await pass_time(0.01)
    return follower


@watching
async def test_watch_begins_with_the_task_as_it_stands_and_ends_with_it(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    follower = await followed(dispatcher, task_id)

    await fail(dispatcher, task_id)
    await pass_time(0.01)

    snapshot = follower.frames[0]
    assert isinstance(snapshot, SnapshotFrame)
    assert (snapshot.record.version, snapshot.data["input"]) == (1, b"text")
    assert follower.sequences == [2, 3]
    assert follower.ended


@pytest.mark.parametrize(("after", "sequences"), [(None, []), (0, [1, 2, 3]), (1, [2, 3]), (3, [])])
@watching
async def test_ended_task_is_told_from_where_the_watcher_left(
    dispatcher: Dispatcher, after: int | None, sequences: list[int]
):
    task_id = await dispatcher.submit()
    await fail(dispatcher, task_id)

    follower = await followed(dispatcher, task_id, after=after)

    assert follower.sequences == sequences
    assert follower.ended


@pytest.mark.parametrize("after", [2, 3])
@watching
async def test_watch_of_a_dead_letter_whose_input_was_edited_ends(
    dispatcher: Dispatcher, after: int
):
    task_id = await dispatcher.submit()
    await fail(dispatcher, task_id)
    await happen(dispatcher, task_id, InputUpdated(input=b"i", input_hash="0" * 16))

    follower = await followed(dispatcher, task_id, after=after)

    assert follower.sequences == [3, 4][after - 2 :]
    assert follower.ended


@watching
async def test_watch_goes_on_past_an_old_failure_that_was_redriven(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    await fail(dispatcher, task_id)
    await happen(dispatcher, task_id, Redriven())

    follower = await followed(dispatcher, task_id, after=1)
    assert follower.sequences == [2, 3, 4]
    assert not follower.ended
    await happen(dispatcher, task_id, CancelAsked(reason=""))
    await pass_time(0.01)

    assert follower.sequences == [2, 3, 4, 5]
    assert follower.ended


@watching
async def test_watcher_that_is_ahead_of_the_record_still_sees_the_end(dispatcher: Dispatcher):
    """A failover may have lost what the watcher has seen."""
    task_id = await dispatcher.submit()
    follower = await followed(dispatcher, task_id, after=50)

    await happen(dispatcher, task_id, CancelAsked(reason=""))
    await pass_time(0.01)

    assert follower.sequences == [2]
    assert follower.ended


@watching
async def test_progress_is_told_to_those_who_ask(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    await lease(dispatcher, task_id)
    plain = await followed(dispatcher, task_id)
    curious = await followed(dispatcher, task_id, progress=True)

    await happen(dispatcher, task_id, Progressed(token="lease", progress=0.5, note="half"))
    await pass_time(0.01)

    assert plain.sequences == []
    assert curious.sequences == [0]


@pytest.mark.parametrize("fate", ["dropped", "doubled", "reordered", "on time"])
@watching
async def test_no_event_is_missed_or_doubled(dispatcher: Dispatcher, fate: str):
    """Whatever the pushes do, the history in the store decides."""
    hub = dispatcher.engine.watch
    applied, late = hub.applied, []

    def tampered(transition: Transition) -> None:
        if fate == "doubled":
            applied(transition)
        if fate == "reordered":
            late.append(transition)
        elif fate != "dropped":
            applied(transition)

    hub.applied = tampered  # type: ignore[method-assign]
    task_id = await dispatcher.submit()
    follower = await followed(dispatcher, task_id)
    for _ in range(3):
        await lease(dispatcher, task_id)
        await pass_time(0.3)
        await release(dispatcher, task_id)
    await fail(dispatcher, task_id)
    for transition in reversed(late):
        applied(transition)
    await pass_time(2.1)

    last = (await dispatcher.record(task_id)).version
    assert follower.sequences == list(range(2, last + 1))
    assert follower.ended


@watching
async def test_hole_is_filled_as_soon_as_it_shows(dispatcher: Dispatcher):
    hub = dispatcher.engine.watch
    applied = hub.applied
    task_id = await dispatcher.submit()
    follower = await followed(dispatcher, task_id)
    hub.applied = lambda _: None  # type: ignore[method-assign]
    await lease(dispatcher, task_id)
    hub.applied = applied  # type: ignore[method-assign]
    await release(dispatcher, task_id)
    await pass_time(0.01)

    assert follower.sequences == [2, 3]


@watching
async def test_resync_has_the_history_read_at_once(dispatcher: Dispatcher):
    hub = dispatcher.engine.watch
    hub.applied = lambda _: None  # type: ignore[method-assign]
    task_id = await dispatcher.submit()
    follower = await followed(dispatcher, task_id)
    await lease(dispatcher, task_id)

    dispatcher.store.heard.put_nowait(Signal("resync"))
    await pass_time(0.01)

    assert follower.sequences == [2]


@watching
async def test_event_of_another_process_is_told_at_once(dispatcher: Dispatcher):
    dispatcher.engine.watch.applied, push = (  # type: ignore[method-assign]
        lambda _: None,
        dispatcher.store.heard.put_nowait,
    )
    task_id = await dispatcher.submit()
    follower = await followed(dispatcher, task_id)
    await lease(dispatcher, task_id)
    (_, event) = await dispatcher.history(task_id)

    push(Signal("event", task_id=task_id, event=event))
    await pass_time(0.01)

    assert follower.sequences == [2]


@watching
async def test_trimmed_history_is_a_gap(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    await fail(dispatcher, task_id)
    statement = "DELETE FROM history WHERE sequence <= 2"
    await dispatcher.store._database.run(lambda c: c.execute(statement))

    follower = await followed(dispatcher, task_id, after=0)

    assert follower.frames[1] == GapFrame(1, 3)
    assert follower.sequences == [3]


@watching
async def test_slow_watcher_misses_nothing_of_a_flood(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    async with aclosing(dispatcher.engine.watch.follow(task_id, after=None)) as frames:
        await anext(frames)
        for _ in range(200):
            await lease(dispatcher, task_id)
            await release(dispatcher, task_id)
        await happen(dispatcher, task_id, CancelAsked(reason=""))

        seen = [frame.sequence async for frame in frames if isinstance(frame, Event)]

    assert seen == list(range(2, 403))


@watching
async def test_unknown_task_cannot_be_watched(dispatcher: Dispatcher):
    with pytest.raises(TaskNotFound):
        await anext(dispatcher.engine.watch.follow("0" * 32, after=None))

    assert dispatcher.engine.watch._watchers == {}


@watching
async def test_watch_ends_when_its_task_expires(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    frames = dispatcher.engine.watch.follow(task_id, after=None)
    await anext(frames)
    await dispatcher.store._database.run(lambda c: c.execute("DELETE FROM tasks"))

    with pytest.raises(TaskNotFound, match="expired"):
        await anext(frames)


@watching
async def test_watchers_are_limited_and_leave_nothing_behind(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    hub = dispatcher.engine.watch
    frames = hub.follow(task_id, after=None)
    await anext(frames)
    hub._watchers_max = 2
    second = hub.follow(task_id, after=None)
    await anext(second)

    with pytest.raises(RateLimited, match="2 watchers are connected") as refused:
        await anext(hub.follow(task_id, after=None))

    assert refused.value.retry_after_s == 1.0
    await second.aclose()
    await frames.aclose()
    assert (hub._amount, hub._watchers, hub._wanted.is_set()) == (0, {}, False)
