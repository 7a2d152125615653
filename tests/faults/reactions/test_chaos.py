"""Everything at once: workers, the server and the way between them, by a plan that the seed draws."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from processor.store.scripts import load_script
from tests.faults.reactions.world import SHORT_OR_LONG, World, the_world
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.until import until

VISIBILITY = 1.0
WORKERS = 4
Fault = Callable[[World, FaultProxy], Awaitable[None]]


async def worker_killed(world: World, proxy: FaultProxy) -> None:
    await world.kill_worker(world.any_worker())


async def worker_left(world: World, proxy: FaultProxy) -> None:
    """It drains; the others are enough."""
    await world.stop_worker(world.any_worker(), 40)


async def worker_frozen(world: World, proxy: FaultProxy) -> None:
    worker = world.any_worker()
    worker.send(signal.SIGSTOP)
    await asyncio.sleep(VISIBILITY * world.rng.uniform(0.5, 2))
    worker.send(signal.SIGCONT)


async def server_killed(world: World, proxy: FaultProxy) -> None:
    await world.kill_server()
    await asyncio.sleep(world.rng.choice([0, 0, 2 * VISIBILITY]))
    await world.start_server()


async def tail_lost(world: World, proxy: FaultProxy) -> None:
    """Producers make up for it before the next fault: a tail that is lost again is another story."""
    kept = world.aof_bytes()
    await asyncio.sleep(world.rng.uniform(0, 0.3))
    await world.lose_tail(kept)
    accepted = set(world.accepted)

    async def all_there() -> bool:
        history = await world.history()
        return all(fact.n in history.feeds[fact.run] for fact in accepted)

    await until(all_there, "what producers know of is there again", 20)


async def server_full(world: World, proxy: FaultProxy) -> None:
    async with world.client() as client:
        await client.config_set("maxmemory", "100kb")
        await asyncio.sleep(world.rng.uniform(0, 0.5))
        await client.config_set("maxmemory", "0")


async def scripts_flushed(world: World, proxy: FaultProxy) -> None:
    async with world.client() as client:
        await client.script_flush()


async def connections_cut(world: World, proxy: FaultProxy) -> None:
    proxy.break_all(world.rng.choice(["close", "reset"]))


async def network_slow(world: World, proxy: FaultProxy) -> None:
    """What is asked arrives late, when others have taken over what was held: a read, a pull, a settlement, a relay."""
    asked = world.rng.choice(["react", "emit", "pull", "lease", "relay", "claim_log", "hold"])
    proxy.hold_at(load_script(asked).sha)
    await asyncio.sleep(VISIBILITY * world.rng.uniform(0.2, 2))
    proxy.let_go()


FAULTS: tuple[Fault, ...] = (
    *(worker_killed, worker_left, worker_frozen, server_killed, tail_lost, server_full),
    *(scripts_flushed, connections_cut, network_slow),
)


@SHORT_OR_LONG
async def test_everything_at_once(seconds: float) -> None:
    """Whatever fails, in whatever order: what was accepted is applied once in every group, in order where there is one."""
    async with the_world(visibility_seconds=VISIBILITY) as world, fault_proxy(world.server.socket) as proxy:
        await world.begin_workers(WORKERS // 2)
        await world.begin_workers(WORKERS - WORKERS // 2, url=proxy.url)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.2, data={"flaky": 0.05})
        await world.begin_producer(pause=0.3, data={"pause_ms": 300})  # whatever fails, some of these are under way
        end, faults = time.monotonic() + seconds, Counter[str]()
        queue: list[Fault] = []
        while time.monotonic() < end:
            queue = queue or world.rng.sample(FAULTS, len(FAULTS))
            fault = queue.pop()
            await fault(world, proxy)
            faults[fault.__name__] += 1
            await world.begin_workers(WORKERS - len(world.workers), url=world.rng.choice([None, proxy.url]))
            await world.goes_on(world.rng.randint(0, 60), 60)
        await world.verdict(deadline=60)
        print(f"  {dict(faults)}")
