"""A watch over many tasks has the latest state of each, whatever happens to the messages."""

from collections.abc import Callable
from contextlib import aclosing

import pytest

from stepstream.errors import InvalidTask, RateLimited, StoreUnavailable
from stepstream_dispatcher.core.facts import CancelAsked, Failed, Leased, Progressed, Redriven
from stepstream_dispatcher.engine import overview as module
from stepstream_dispatcher.engine.committer import Proposal
from stepstream_dispatcher.engine.overview import Filter, Look
from stepstream_dispatcher.store.port import Signal
from tests.support.engine import Dispatcher, database, with_dispatcher
from tests.support.virtual_time import in_virtual_time, pass_time

LOOPS = ("committer", "watch", "overview")
watching = with_dispatcher(*LOOPS)
PROMISED_S = 2.0


async def happen(dispatcher: Dispatcher, task_id: str, fact: object) -> None:
    record = await dispatcher.record(task_id)
    proposal = Proposal(task_id=task_id, record=record, fact=fact)  # type: ignore[arg-type]
    (outcome,) = await dispatcher.engine.committer.apply([proposal])
    assert outcome.applied, outcome


async def lease(dispatcher: Dispatcher, task_id: str) -> None:
    entry = (await dispatcher.record(task_id)).entry
    fact = Leased(entry=entry, token=f"lease-{task_id[:8]}", owner="d", worker="worker-1")
    await happen(dispatcher, task_id, fact)


async def fail(dispatcher: Dispatcher, task_id: str) -> None:
    await lease(dispatcher, task_id)
    token = f"lease-{task_id[:8]}"
    await happen(dispatcher, task_id, Failed(token=token, code="BAD", message="", retryable=False))


async def cancel(dispatcher: Dispatcher, task_id: str) -> None:
    await happen(dispatcher, task_id, CancelAsked(reason=""))


class Reader:
    """Follows tasks beside the test, and keeps what it saw; reads only while it may."""

    def __init__(self, dispatcher: Dispatcher, wanted: Filter) -> None:
        self.looks: list[Look] = []
        self.error: Exception | None = None
        self._follow: Callable[[], object] = lambda: dispatcher.engine.overview.follow(wanted)

    async def run(self) -> None:
        try:
            async with aclosing(self._follow()) as looks:  # type: ignore[type-var]
                async for look in looks:
                    self.looks.append(look)
        except (RateLimited, StoreUnavailable) as error:
            self.error = error

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [(look.task_id, look.record.state) for look in self.looks]

    def forget(self) -> None:
        self.looks.clear()


async def reading(dispatcher: Dispatcher, **wanted: object) -> Reader:
    """A reader that has been told of what is there."""
    reader = Reader(dispatcher, Filter(**wanted))  # type: ignore[arg-type]
    await dispatcher.store.heard.put(Signal("resync"))
    dispatcher.run(reader.run)
    await pass_time(1.5)
    return reader


@watching
async def test_watch_begins_with_what_has_not_ended_the_newest_first(dispatcher: Dispatcher):
    ended = await dispatcher.submit(b"1")
    await cancel(dispatcher, ended)
    old = await dispatcher.submit(b"2")
    await pass_time(0.01)
    new = await dispatcher.submit(b"3")

    reader = await reading(dispatcher)

    assert reader.seen == [(new, "pending"), (old, "pending")]


@watching
async def test_change_here_is_told_in_its_latest_state(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    reader = await reading(dispatcher)
    reader.forget()

    await fail(dispatcher, task_id)  # two transitions, at once
    await pass_time(0.5)

    assert reader.seen == [(task_id, "failed")]


@watching
async def test_new_task_is_told(dispatcher: Dispatcher):
    reader = await reading(dispatcher)

    task_id = await dispatcher.submit()
    await pass_time(0.5)

    assert reader.seen == [(task_id, "pending")]


@watching
async def test_what_does_not_change_is_told_once(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    ended = await dispatcher.submit(b"other")
    await cancel(dispatcher, ended)
    reader = await reading(dispatcher)

    await dispatcher.store.heard.put(Signal("resync"))
    await pass_time(30)

    assert reader.seen == [(task_id, "pending")]


@watching
async def test_progress_is_no_change(dispatcher: Dispatcher):
    task_id = await dispatcher.submit()
    await lease(dispatcher, task_id)
    reader = await reading(dispatcher)
    reader.forget()

    token = f"lease-{task_id[:8]}"
    await happen(dispatcher, task_id, Progressed(token=token, progress=0.5, note=""))
    await pass_time(10)

    assert reader.seen == []


@pytest.mark.parametrize("hears", [True, False])
@in_virtual_time
async def test_change_at_another_dispatcher_is_told_in_time(*, hears: bool):
    """Also when its message is lost: the newest and the live ones are looked at again."""
    shared = database()
    async with (
        Dispatcher(shared, *LOOPS) as here,
        Dispatcher(shared, *LOOPS, dispatcher_id="dispatcher-2") as there,
    ):
        changes, unchanged = await there.submit(b"1"), await there.submit(b"2")
        reader = await reading(here)
        assert len(reader.seen) == 2
        reader.forget()

        await cancel(there, changes)
        if hears:
            (event,) = await there.store.history(changes, after=1)
            await here.store.heard.put(Signal("event", task_id=changes, event=event))
        new = await there.submit(b"3")
        await pass_time(0.5 if hears else PROMISED_S)

        assert (changes, "cancelled") in reader.seen
        await pass_time(PROMISED_S)
        assert (new, "pending") in reader.seen
        assert unchanged not in dict(reader.seen)


@in_virtual_time
async def test_old_live_tasks_are_looked_at_again_by_turns():
    """Those that are not among the newest: they are known since the watch began."""
    shared = database()
    async with (
        Dispatcher(shared, *LOOPS) as here,
        Dispatcher(shared, *LOOPS, dispatcher_id="dispatcher-2") as there,
    ):
        old = await there.submit(b"old")
        await pass_time(0.01)
        for number in range(module.PAGE + 10):
            ended = await there.submit(b"%d" % number)
            await cancel(there, ended)
        reader = await reading(here)
        assert reader.seen == [(old, "pending")]

        await cancel(there, old)
        await pass_time(PROMISED_S)

        assert reader.seen[1:] == [(old, "cancelled")]


@in_virtual_time
async def test_listener_that_was_cut_off_compares_everything():
    shared = database()
    async with (
        Dispatcher(shared, *LOOPS) as here,
        Dispatcher(shared, *LOOPS, dispatcher_id="dispatcher-2") as there,
    ):
        dead = await there.submit(b"dead")
        await fail(there, dead)  # ended before the watch: nobody looks at it by turns
        await pass_time(5)
        for number in range(module.PAGE):
            await there.submit(b"%d" % number)
        reader = await reading(here)
        reader.forget()
        await happen(there, dead, Redriven())

        await here.store.heard.put(Signal("resync"))
        await pass_time(0.5)

        assert reader.seen == [(dead, "translating")]


@watching
async def test_loop_that_broke_off_tells_what_changed_meanwhile(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    """Also of a task that had ended and is not among the newest."""
    monkeypatch.setattr(module, "PAGE", 2)
    broken = Dispatcher(dispatcher.store._database, supervised=True, dispatcher_id="dispatcher-2")
    async with broken:
        broken.run(broken.engine.overview.run)
        dead = await dispatcher.submit()
        await fail(dispatcher, dead)
        await pass_time(5)
        live = [await dispatcher.submit(b"%d" % number) for number in range(3)]
        reader = await reading(broken)
        reader.forget()
        broken.store.down = True
        await pass_time(3)

        await cancel(dispatcher, live[0])
        await happen(dispatcher, dead, Redriven())
        await pass_time(3)
        broken.store.down = False
        await pass_time(10)

        assert sorted(reader.seen) == sorted([(live[0], "cancelled"), (dead, "translating")])


@watching
async def test_filters_hold_all_together(dispatcher: Dispatcher):
    mine = await dispatcher.submit(b"1", labels={"team": "a", "lang": "zh"})
    await dispatcher.submit(b"2", labels={"team": "b", "lang": "zh"})
    await dispatcher.submit(b"3")
    wanted = {"labels": {"team": "a"}, "pipeline": "translation", "states": frozenset({"pending"})}
    reader = await reading(dispatcher, **wanted)
    assert reader.seen == [(mine, "pending")]
    reader.forget()

    await lease(dispatcher, mine)  # leaves the states: is not told
    another = await dispatcher.submit(b"4", labels={"team": "a"})
    await pass_time(5)

    assert reader.seen == [(another, "pending")]


@watching
async def test_reader_of_other_states_costs_no_reads(dispatcher: Dispatcher):
    reader = await reading(dispatcher, states=frozenset({"human_review"}))

    task_id = await dispatcher.submit()
    await pass_time(0)

    assert dispatcher.engine.overview._changed == {}
    assert reader.seen == []
    assert dispatcher.engine.overview._known[task_id] == 0


@watching
async def test_slow_reader_gets_the_latest_state_of_each_task(dispatcher: Dispatcher):
    await dispatcher.store.heard.put(Signal("resync"))
    looks = dispatcher.engine.overview.follow(Filter())
    first = await dispatcher.submit(b"1")
    async with aclosing(looks):
        assert (await anext(looks)).task_id == first
        second = await dispatcher.submit(b"2")
        await pass_time(0.5)
        await fail(dispatcher, second)
        await pass_time(0.5)
        await cancel(dispatcher, first)
        await pass_time(0.5)

        told = [await anext(looks) for _ in range(2)]

    assert [(look.task_id, look.record.state) for look in told] == [
        (second, "failed"),
        (first, "cancelled"),
    ]


@pytest.mark.parametrize("beside", [True, False])
@watching
async def test_state_that_has_passed_is_not_told_late(dispatcher: Dispatcher, *, beside: bool):
    """A slow reader of one state, alone and beside one who wants all of them."""
    if beside:
        await reading(dispatcher)
    await dispatcher.store.heard.put(Signal("resync"))
    looks = dispatcher.engine.overview.follow(Filter(states=frozenset({"pending"})))
    await dispatcher.submit(b"1")
    async with aclosing(looks):
        await anext(looks)
        second = await dispatcher.submit(b"2")
        await pass_time(0.5)
        await lease(dispatcher, second)
        await pass_time(0.5)
        third = await dispatcher.submit(b"3")

        assert (await anext(looks)).task_id == third


@watching
async def test_reader_that_does_not_read_is_sent_away(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAILBOX_MAX", 3)
    await dispatcher.store.heard.put(Signal("resync"))
    looks = dispatcher.engine.overview.follow(Filter())
    await dispatcher.submit(b"first")
    async with aclosing(looks):
        await anext(looks)
        for number in range(4):
            await dispatcher.submit(b"%d" % number)
        await pass_time(0.5)

        with pytest.raises(RateLimited, match="3 tasks waited"):
            await anext(looks)


@watching
async def test_watch_begins_with_a_bounded_number_of_tasks(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "PRESENT_MAX", 2)
    for number in range(5):
        await dispatcher.submit(b"%d" % number)

    reader = await reading(dispatcher)

    assert len(reader.seen) == 2


@watching
async def test_too_many_changes_at_once_are_found_by_comparing(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    reader = await reading(dispatcher)
    monkeypatch.setattr(module, "CHANGED_MAX", 2)

    task_ids = {await dispatcher.submit(b"%d" % number) for number in range(7)}
    await pass_time(0.5)

    assert set(dict(reader.seen)) == task_ids
    assert len(dispatcher.engine.overview._changed) == 0


@watching
async def test_memory_of_what_was_told_is_bounded(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "KNOWN_MAX", 3)
    monkeypatch.setattr(module, "PAGE", 2)
    reader = await reading(dispatcher)

    for number in range(9):
        await dispatcher.submit(b"%d" % number)
    await pass_time(0.5)

    overview = dispatcher.engine.overview
    assert len(dict(reader.seen)) == 9
    assert (len(overview._known), len(overview._live)) == (3, 3)


@watching
async def test_everything_rests_when_the_last_reader_has_left(dispatcher: Dispatcher):
    await dispatcher.store.heard.put(Signal("resync"))
    looks = dispatcher.engine.overview.follow(Filter())
    await dispatcher.submit()
    async with aclosing(looks):
        await anext(looks)
    await pass_time(1)

    await dispatcher.submit(b"unwatched")

    overview = dispatcher.engine.overview
    assert [len(one) for one in (overview._followers, overview._known, overview._live)] == [0] * 3
    assert overview._changed == {}
    assert dispatcher.engine.watch._taps == []


@watching
async def test_too_many_readers_are_refused(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    await reading(dispatcher)
    monkeypatch.setattr(module, "FOLLOWERS_MAX", 1)

    with pytest.raises(RateLimited):
        await anext(dispatcher.engine.overview.follow(Filter()))


@with_dispatcher("committer", "watch")
async def test_watch_without_its_loop_is_unavailable(dispatcher: Dispatcher):
    """As when Redis is away: the loop cannot run."""
    with pytest.raises(StoreUnavailable):
        await anext(dispatcher.engine.overview.follow(Filter()))


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (Filter(pipeline="nothing"), "pipeline"),
        (Filter(states=frozenset({"transalting"})), "states"),
        (Filter(states=frozenset({""})), "states"),
        (Filter(states=frozenset(map(str, range(65)))), "states"),
        (Filter(labels={str(number): "" for number in range(17)}), "labels"),
    ],
)
@watching
async def test_filter_that_cannot_be_is_refused(dispatcher: Dispatcher, wanted: Filter, field: str):
    with pytest.raises(InvalidTask) as caught:
        await anext(dispatcher.engine.overview.follow(wanted))

    assert caught.value.field == field
