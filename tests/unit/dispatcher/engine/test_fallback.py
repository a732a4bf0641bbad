"""When the probes turn the switch, and how the journal's tasks are taken home."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from stepstream.errors import InternalError, StoreUnavailable
from stepstream_dispatcher.engine.fallback import PROBE_EVERY_S, Fallback
from stepstream_dispatcher.engine.supervise import supervise
from stepstream_dispatcher.engine.switch import SwitchStore
from stepstream_dispatcher.engine.turn import STRANDED_S
from stepstream_dispatcher.store.port import Imported, StoreRefused, StoreUnreachable
from tests.support.engine import database
from tests.support.switched import Switched, created
from tests.support.tasks_at import advance, carry_out
from tests.support.transitions import build
from tests.support.virtual_time import in_virtual_time, pass_time


class Watched:
    """A fallback whose turns are noted."""

    def __init__(self, dispatcher: Switched) -> None:
        self.dispatcher = dispatcher
        self.switch, self.remote = dispatcher.switch, dispatcher.remote
        self.returned = 0
        self.turns: list[bool] = []
        self.trouble: Exception | None = None  # of what is done when Redis is back
        self.turn_trouble: Exception | None = None
        self.served = False  # whether a worker is connected
        self.fallback = Fallback(
            self.switch,
            returned=self._returned,
            turned=self._turned,
            serves=lambda _queue: self.served,
        )

    async def _returned(self) -> None:
        self.returned += 1
        if self.trouble is not None:
            raise self.trouble

    async def _turned(self) -> None:
        self.turns.append(self.switch.diverted)
        if self.turn_trouble is not None:
            raise self.turn_trouble


@contextlib.asynccontextmanager
async def watched(*loops: str) -> AsyncGenerator[Watched, None]:
    """A fallback whose loops, "probe" or "bring_home", run while the block lasts."""
    async with Switched(database()) as dispatcher, asyncio.TaskGroup() as group:
        made = Watched(dispatcher)
        tasks = [group.create_task(supervise(name, getattr(made.fallback, name))) for name in loops]
        await pass_time(0.01)
        yield made
        for task in tasks:
            task.cancel()


def pings(watch: Watched) -> int:
    return watch.remote.calls.count("ping")


@in_virtual_time
async def test_three_failures_in_a_row_turn_it():
    async with watched("probe") as watch:
        watch.remote.calls.clear()
        watch.remote.down()

        while not watch.switch.diverted:
            assert pings(watch) < 3
            await pass_time(0.05)

        assert pings(watch) == 3
        assert watch.turns == [True]


@in_virtual_time
async def test_it_turns_within_a_second_and_at_once_when_a_call_doubts():
    for doubts, limit_s in ((False, 1.0), (True, 0.25)):
        async with watched("probe") as watch:
            watch.remote.down()
            if doubts:
                watch.switch.doubted.set()
            await pass_time(limit_s)

            assert watch.switch.diverted


@pytest.mark.parametrize("between", [None, StoreUnavailable("slow")])
@in_virtual_time
async def test_failures_that_are_not_in_a_row_do_not(between: Exception | None):
    async with watched("probe") as watch:
        for _ in range(5):
            watch.remote.down()
            watch.remote.calls.clear()
            watch.switch.doubted.set()
            while pings(watch) < 2:
                await pass_time(0.01)
            watch.remote.trouble = between
            await pass_time(PROBE_EVERY_S)

        assert watch.turns == []


@in_virtual_time
async def test_slow_redis_is_not_down():
    async with watched("probe") as watch:
        watch.remote.trouble = StoreUnavailable("connected, and no answer")

        await pass_time(60)

        assert watch.turns == []


@in_virtual_time
async def test_one_answer_turns_it_back_and_what_was_lost_is_shared_first():
    async with watched("probe") as watch:
        watch.remote.down()
        await pass_time(2)
        watch.remote.trouble = None
        await pass_time(PROBE_EVERY_S + 0.1)

        assert (watch.turns, watch.returned) == ([True, False], 1)
        assert watch.switch.rested.is_set()


@pytest.mark.parametrize("trouble", [StoreUnreachable("again"), StoreRefused("it evicts")])
@in_virtual_time
async def test_redis_that_cannot_be_used_yet_is_tried_again(trouble: Exception):
    async with watched("probe") as watch:
        watch.remote.down()
        await pass_time(2)
        watch.trouble, watch.remote.trouble = trouble, None
        with capture_logs() as logs:
            await pass_time(3 * PROBE_EVERY_S)
        assert len(logs) == 1  # though it is tried each time
        assert (watch.switch.diverted, watch.turns) == (True, [True])
        assert watch.returned >= 2

        watch.trouble = None
        await pass_time(2 * PROBE_EVERY_S)

        assert watch.turns == [True, False]


@in_virtual_time
async def test_trouble_with_the_news_of_a_turn_stops_no_probe():
    async with watched("probe") as watch:
        watch.turn_trouble = StoreUnavailable("nobody listens")
        with capture_logs() as logs:
            for _ in range(10):  # flapping
                watch.remote.down()
                await pass_time(1)
                assert watch.switch.diverted
                watch.remote.trouble = None
                await pass_time(1)
                assert not watch.switch.diverted

        assert watch.turns == [True, False] * 10
        assert [line for line in logs if "loop" in line] == []


async def rest(watch: Watched, *task_ids: str) -> None:
    """Tasks of the journal that were cancelled while Redis was down."""
    watch.dispatcher.divert()
    for task_id in task_ids:
        made = build("create", task_id, None, now_ms=watch.switch.now_ms())
        await watch.switch.commit([made], kind="submit")
        await carry_out(watch.switch, "cancel", task_id)


@in_virtual_time
async def test_all_that_rests_is_imported_once_redis_is_back():
    async with watched("bring_home") as watch:
        await rest(watch, "t1", "t2")
        await pass_time(5)
        assert not watch.remote.taken

        watch.remote.words.extend([Imported.SUPERSEDED, Imported.DROPPED])
        with capture_logs() as logs:
            watch.dispatcher.rejoin()
            await pass_time(0.1)

        assert watch.fallback.imports == {Imported.SUPERSEDED: 1, Imported.DROPPED: 1}
        assert [(line["log_level"], line["result"]) for line in logs] == [
            ("info", "superseded"),
            ("warning", "dropped"),
        ]
        assert watch.switch.journaled == 0


@in_virtual_time
async def test_import_that_failed_is_tried_again():
    async with watched("bring_home") as watch:
        await rest(watch, "t1")
        watch.remote.words.append(StoreUnavailable("lost"))
        watch.dispatcher.rejoin()

        await pass_time(3)

        assert [task.task_id for task in watch.remote.taken] == ["t1", "t1"]
        assert watch.switch.journaled == 0


@in_virtual_time
async def test_task_that_cannot_be_imported_holds_up_no_other():
    async with watched("bring_home") as watch:
        await rest(watch, "bad", "good")
        watch.remote.words.append(InternalError("its history is not a list"))
        with capture_logs() as logs:
            watch.dispatcher.rejoin()
            await pass_time(0.5)

        assert [task.task_id for task in watch.remote.taken] == ["bad", "good"]
        assert "bad" in watch.switch
        assert [line["event"] for line in logs if line["log_level"] == "error"] == [
            "task cannot be imported"
        ]


@in_virtual_time
async def test_task_that_comes_to_rest_after_the_return_is_imported_then():
    async with watched("bring_home") as watch:
        watch.dispatcher.divert()
        made = build("create", "t1", None, now_ms=watch.switch.now_ms())
        await watch.switch.commit([made], kind="submit")
        watch.dispatcher.rejoin()
        await pass_time(5)
        assert not watch.remote.taken

        await carry_out(watch.switch, "cancel", "t1")
        await pass_time(0.1)

        assert [task.task_id for task in watch.remote.taken] == ["t1"]


@in_virtual_time
async def test_task_that_no_worker_here_takes_goes_to_redis_as_one_that_is_due():
    """Its dispatcher was restarted, and all workers are connected to others."""
    async with watched("bring_home") as watch:
        watch.dispatcher.divert()
        await created(watch.switch, "t1")
        watch.dispatcher.rejoin()

        await pass_time(STRANDED_S - 0.5)
        assert not watch.remote.taken
        await pass_time(2)

        (task,) = watch.remote.taken
        assert (task.fields["stage"], task.fields["entry"]) == ("delayed", "")
        assert task.due_ms == int(task.fields["due_ms"]) > 0
        assert "t1" not in watch.switch


@pytest.mark.parametrize("step", ["served", "lease"])
@in_virtual_time
async def test_task_that_a_worker_here_takes_or_has_stays_in_the_journal(step: str):
    async with watched("bring_home") as watch:
        watch.dispatcher.divert()
        await created(watch.switch, "t1")
        watch.served = step == "served"
        if step == "lease":
            await advance(watch.switch, "t1", "lease")
        watch.dispatcher.rejoin()

        await pass_time(60)

        assert not watch.remote.taken


@in_virtual_time
async def test_stranded_task_is_known_after_a_restart():
    async with watched("bring_home") as watch:
        watch.dispatcher.divert()
        await created(watch.switch, "t1")
        again = SwitchStore(cast("Any", watch.remote), watch.dispatcher.journal, running_max=3)
        await again.open()
        await pass_time(STRANDED_S + 1)

        assert again.stranded(lambda _queue: False) == ["t1"]
