"""A dispatcher behind HTTP."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.edge import Edge, serving_edge


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """One for each test."""
    async with serving_edge() as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_edge() -> AsyncIterator[Edge]:
    """One for all tests of a file that leave nothing behind: uvicorn takes its time to stop."""
    async with serving_edge() as served:
        yield served
