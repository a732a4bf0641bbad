"""The engine's loops, begun and ended together."""

import asyncio

from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time


@with_dispatcher()
async def test_a_loop_that_loses_its_cancellation_is_cancelled_again(dispatcher: Dispatcher):
    """So that a dispatcher that was told to leave ends."""
    lost = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append(True)

    dispatcher.engine.checkup.run = stubborn  # type: ignore[method-assign]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(dispatcher.engine.run())
        await pass_time(1)
        running.cancel()

    assert lost
    assert running.cancelled()
