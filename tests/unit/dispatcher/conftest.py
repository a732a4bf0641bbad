"""What every test of the dispatcher's parts leaves behind: nothing."""

from collections.abc import Iterator

import pytest

from tests.support.engine import close_databases


@pytest.fixture(autouse=True)
def databases_closed() -> Iterator[None]:
    yield
    close_databases()
