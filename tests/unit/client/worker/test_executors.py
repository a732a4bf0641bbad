"""The threads of plain handlers."""

import threading

import pytest

from stepstream.worker.executors import ThreadPool

LIMIT_S = 10.0


@pytest.fixture
def pool():
    made = ThreadPool(2, "test-pool")
    yield made
    made.close()


def test_an_idle_thread_is_used_again(pool: ThreadPool) -> None:
    names: list[str] = []
    done = threading.Semaphore(0)

    def note() -> None:
        names.append(threading.current_thread().name)
        done.release()

    for _ in range(5):
        pool.submit(note)
        assert done.acquire(timeout=LIMIT_S)

    assert set(names) <= {"test-pool-1", "test-pool-2"}


def test_as_many_run_at_once_as_there_are_threads(pool: ThreadPool) -> None:
    together = threading.Barrier(2)
    done = threading.Semaphore(0)

    def meet() -> None:
        together.wait(LIMIT_S)
        done.release()

    for _ in range(4):
        pool.submit(meet)

    assert all(done.acquire(timeout=LIMIT_S) for _ in range(4))


def test_the_threads_do_not_keep_a_process_alive(pool: ThreadPool) -> None:
    daemon: list[bool] = []
    done = threading.Event()

    pool.submit(lambda: (daemon.append(threading.current_thread().daemon), done.set())[1])

    assert done.wait(LIMIT_S)
    assert daemon == [True]
