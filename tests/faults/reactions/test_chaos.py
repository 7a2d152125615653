"""Everything at once: workers, the server and the way between them, by a plan that the seed draws."""

from __future__ import annotations

from processor.store.scripts import load_script
from tests.faults.crew_chaos import FAULTS, Fault, begin_both_ways, everything_fails, slow_network
from tests.faults.reactions.world import SHORT_OR_LONG, World, the_world
from tests.support.proxy import FaultProxy, fault_proxy


async def tail_lost(world: World, proxy: FaultProxy) -> None:
    """Producers make up for it before the next fault: a tail that is lost again is another story."""
    await world.lose_last(world.rng.uniform(0, 0.3))


async def network_slow(world: World, proxy: FaultProxy) -> None:
    """Of a read, a pull, a settlement, a relay."""
    asked = world.rng.choice(["react", "emit", "pull", "lease", "relay", "claim_log", "hold"])
    await slow_network(world, proxy, load_script(asked).sha)


ALL: tuple[Fault[World], ...] = (*FAULTS, tail_lost, network_slow)


@SHORT_OR_LONG
async def test_everything_at_once(seconds: float) -> None:
    """Whatever fails, in whatever order: what was accepted is applied once in every group, in order where there is one."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        await begin_both_ways(world, proxy)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.2, data={"flaky": 0.05})
        await world.begin_producer(pause=0.3, data={"pause_ms": 300})  # whatever fails, some of these are under way
        faults = await everything_fails(world, proxy, seconds, faults=ALL)
        await world.verdict(deadline=60)
        print(f"  {dict(faults)}")
