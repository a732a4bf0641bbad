"""Rounds of sections that are compared take turns."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bench.run import FIGURES, SECTIONS, measure_group
from bench.sections import Round


async def test_every_second_round_goes_backwards():
    taken: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[Mapping[str, Round]]:
        async def one() -> None:
            taken.append("one")

        async def other() -> None:
            taken.append("other")

        yield {"one": one, "other": other, "unwanted": other}
        taken.append("closed")

    await measure_group(opened(), ["one", "other"], 3)

    assert taken == ["one", "other", "other", "one", "one", "other", "closed"]


def test_figures_begin_with_their_section():
    assert {figure.name.partition(".")[0] for figure in FIGURES} == set(SECTIONS)
