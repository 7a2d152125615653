"""Everything at once: workers, the server and the way between them, by a plan that the seed draws."""

from __future__ import annotations

from tests.faults.crew_chaos import FAULTS, Fault, begin_both_ways, everything_fails, slow_network
from tests.faults.workers.oracle import lost_executions
from tests.faults.workers.world import SHORT_OR_LONG, World, the_world
from tests.support.proxy import FaultProxy, fault_proxy


async def network_slow(world: World, proxy: FaultProxy) -> None:
    await slow_network(world, proxy, b"EVALSHA")


ALL: tuple[Fault[World], ...] = (*FAULTS, network_slow)


@SHORT_OR_LONG
async def test_everything_at_once(seconds: float) -> None:
    """Whatever fails, in whatever order: nothing is lost, no effect lands twice, no old attempt speaks after a newer one."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        await begin_both_ways(world, proxy)
        await world.begin_producer(pause=0.03)
        await world.begin_producer(pause=0.05, input={"fails": 1})
        await world.begin_producer(pause=0.1, input={"pause_ms": 300})  # whatever fails, some of these are under way
        faults = await everything_fails(world, proxy, seconds, faults=ALL)
        history = await world.verdict(deadline=60)
        print(f"  {dict(faults)}, {lost_executions(history)} executions lost")
