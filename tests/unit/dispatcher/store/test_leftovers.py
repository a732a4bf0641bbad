"""Tasks in a journal that nobody would import are told of at the start."""

from pathlib import Path

from stepstream_dispatcher.store.leftovers import leftover_journals
from stepstream_dispatcher.store.local import LocalStore
from stepstream_dispatcher.store.local_database import LocalDatabase
from tests.support.transitions import build


async def journal(path: Path, *task_ids: str) -> Path:
    store = LocalStore(LocalDatabase(path), dispatcher_id="d1")
    await store.open()
    for task_id in task_ids:
        await store.commit([build("create", task_id, None, now_ms=1)], kind="submit")
    await store.close()
    return path


async def test_other_journals_with_tasks_are_found(tmp_path: Path):
    own = await journal(tmp_path / "journal-own.sqlite", "t1")
    other = await journal(tmp_path / "journal-o?#ther.sqlite", "t1", "t2")
    await journal(tmp_path / "journal-empty.sqlite")
    await journal(tmp_path / "tasks.sqlite", "t1")
    (tmp_path / "journal-broken.sqlite").write_bytes(b"no database" * 100)

    assert leftover_journals(own) == {other: 2}


def test_a_directory_without_journals_has_none(tmp_path: Path):
    assert leftover_journals(tmp_path / "journal-own.sqlite") == {}
