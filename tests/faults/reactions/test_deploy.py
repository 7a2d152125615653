"""Two versions of a program share a group while one is rolled out: what only one of them handles is not lost."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.reactions.handlers import OTHER_FACT
from tests.faults.reactions.world import the_world


@pytest.mark.parametrize("way", ["out", pytest.param("back", marks=pytest.mark.soak)])
async def test_rolling_deploy(way: str) -> None:
    """Workers of the first version get events that only the second one has a handler for, while one after the other is
    replaced, by kill or in order: each event is applied once in every group."""
    old, new = (1, 2) if way == "out" else (2, 1)
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_workers(2, version=old)
        await world.begin_producer(pause=0.2)
        await world.goes_on(20)
        keeper = await world.begin_worker(version=2)  # the second version is there all the time
        await world.begin_producer(pause=0.2, type=OTHER_FACT)
        for worker in [one for one in world.workers.values() if one is not keeper]:
            await world.goes_on(30)
            await (world.kill_worker(worker) if world.rng.random() < 0.5 else world.stop_worker(worker))
            await world.goes_on(30)
            await world.begin_worker(version=new)
        await world.goes_on(30)
        await world.verdict()


async def test_the_last_of_the_old_version() -> None:
    """The old version alone is left for a moment: it keeps what it cannot handle for those who can, and they come."""
    async with the_world(visibility_seconds=1.0) as world:
        second = await world.begin_worker(version=2)
        await world.begin_worker(version=1)
        await world.stop_worker(second)
        facts = await world.told(3, type=OTHER_FACT)
        others = await world.told(3)
        for group in world.groups:
            await world.handles(group, len(others))
        assert world.begun(facts) == 0
        await asyncio.gather(*(world.begin_worker(version=2) for _ in range(2)))
        await world.verdict()
