"""A store that cannot be trusted any more is complained about, again and again."""

import pytest

from tests.support.engine import Dispatcher, with_dispatcher
from tests.support.virtual_time import pass_time


@with_dispatcher()
async def test_fault_is_logged_every_minute_and_its_end_once(
    dispatcher: Dispatcher, capsys: pytest.CaptureFixture[str]
):
    faults = ["it evicts"]

    async def read_faults() -> list[str]:
        return list(faults)

    dispatcher.store.faults = read_faults  # type: ignore[method-assign]
    dispatcher.run(dispatcher.engine.checkup.run)

    await pass_time(59)
    assert "evicts" not in capsys.readouterr().out
    await pass_time(122)
    assert capsys.readouterr().out.count("tasks may be lost: it evicts") == 3
    faults.clear()
    await pass_time(180)
    assert capsys.readouterr().out.count("mended: it evicts") == 1
