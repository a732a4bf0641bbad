"""The names that callers may use: those of all pipelines that this dispatcher can know of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from stepstream.errors import InvalidTask
from stepstream_dispatcher.core.pipeline import Catalog

__all__ = ["Vocabulary"]


class Vocabulary:
    """Tells a name from a misspelt one.

    A name that is not known is looked for among the definitions that other dispatchers have stored
    before it is refused.

    Args:
        learn: Reads those definitions into the catalog.
    """

    def __init__(self, catalog: Catalog, *, learn: Callable[[], Awaitable[None]]) -> None:
        self._catalog = catalog
        self._learn = learn

    async def check_pipeline(self, name: str) -> None:
        """Refuse a pipeline that no dispatcher has; an empty name is none.

        Raises:
            InvalidTask: With the field `pipeline`.
            StoreUnavailable: The name is new here, and Redis does not answer.
        """
        if name and not await self._knows(self._catalog.names, [name]):
            raise InvalidTask(f"pipeline {name[:64]!r} is not known", field="pipeline")

    async def check_states(self, states: Iterable[str], field: str) -> None:
        """Refuse a state that no task can be in.

        Raises:
            InvalidTask: With the field.
            StoreUnavailable: A state is new here, and Redis does not answer.
        """
        wanted = [state for state in states if state]
        if await self._knows(self._catalog.states, wanted):
            return
        unknown = min(set(wanted) - self._catalog.states())
        raise InvalidTask(f"{field}: no pipeline has the state {unknown[:64]!r}", field=field)

    async def has_queue(self, queue: str) -> bool:
        """Whether a pipeline has the queue."""
        return await self._knows(self._catalog.queues, [queue])

    async def _knows(self, known: Callable[[], frozenset[str]], names: Iterable[str]) -> bool:
        wanted = frozenset(names)
        if not wanted <= known():
            await self._learn()
        return wanted <= known()
