"""Effects for other partitions whose relay dies between its steps: they land once, in order."""

from __future__ import annotations

import pytest

from processor.store.scripts import load_script
from tests.faults.reactions.world import SHORT_OR_LONG, the_world
from tests.support.proxy import Break, fault_proxy
from tests.support.until import until

RUNS = 8


async def test_killed_before_the_relay() -> None:
    """The outbox has them and the process that would take them on dies: another one does, and what was on its way changes
    nothing when it arrives behind that."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        proxy.hold_at(load_script("relay").sha)
        dying = await world.begin_worker(url=proxy.url)
        await world.told(4, runs=RUNS)
        await until(lambda: proxy.holds, "effects are on their way", 20)
        await world.kill_worker(dying)
        await world.begin_worker()
        for group in world.groups:
            await world.handles(group, 4 * RUNS)
        proxy.let_go()
        await world.verdict()


@pytest.mark.parametrize("after", [1, *(pytest.param(n, marks=pytest.mark.soak) for n in (0, 5))])
async def test_killed_behind_the_relay(after: int) -> None:
    """The target has them, and the process dies before it hears so: nobody takes them on a second time."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        proxy.plan = lambda number: Break(after, "silent", load_script("relay").sha)
        dying = await world.begin_worker(url=proxy.url)
        await world.told(4, runs=RUNS)
        await until(lambda: proxy.open < proxy.opened, "effects were taken, and nobody was told", 20)
        await world.kill_worker(dying)
        await world.begin_worker()
        await world.verdict()


@SHORT_OR_LONG
async def test_late_relays(seconds: float) -> None:
    """Relays of several processes arrive late and behind one another, and the processes die: each effect lands once."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        await world.begin_workers(2, url=proxy.url)
        await world.begin_worker()
        await world.begin_producer(pause=0.1)
        relay = load_script("relay").sha
        for _ in range(max(4, int(seconds))):
            await world.goes_on(world.rng.randint(1, 100))
            proxy.hold_at(relay)
            await until(lambda: proxy.holds, "effects are on their way", 20)
            if world.rng.random() < 0.5:
                await world.kill_worker(world.any_worker())
                await world.begin_worker()
            await world.goes_on(world.rng.randint(1, 50))
            proxy.let_go()
        await world.verdict()
