"""One system for the tests that only use it: two dispatchers, a worker at each, one at both."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster, running_cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Runs until the last test; tests that kill anything take a cluster of their own.

    The worker `w-0` is connected to the dispatcher `d-0` alone.
    """
    folder = tmp_path_factory.mktemp("shared")
    async with running_cluster(folder, dispatchers=2, workers=0) as cluster:
        await cluster.start_worker("w-0", at=["d-0"], slots=8)
        yield cluster
