"""Everything at once: faults of a crew, its server and the way between them, one function each, in an order the seed draws.

Each fault leaves everything running when it returns, but for workers: the crew is brought back to full strength behind it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from tests.faults.crew import Crew
from tests.faults.recurring import again
from tests.support.proxy import FaultProxy

__all__ = ["FAULTS", "Fault", "begin_both_ways", "everything_fails", "slow_network"]

WORKERS: Final = 4
C = TypeVar("C", bound=Crew)
Fault = Callable[[C, FaultProxy], Awaitable[None]]


async def worker_killed(crew: Crew, proxy: FaultProxy) -> None:
    await crew.kill_worker(crew.any_worker())


async def worker_left(crew: Crew, proxy: FaultProxy) -> None:
    """It drains; the others are enough."""
    await crew.stop_worker(crew.any_worker(), 40)


async def worker_frozen(crew: Crew, proxy: FaultProxy) -> None:
    await crew.freeze_worker(crew.any_worker(), crew.visibility_seconds * crew.rng.uniform(0.5, 2))


async def server_killed(crew: Crew, proxy: FaultProxy) -> None:
    await crew.restart_server(crew.rng.choice([0, 0, 2 * crew.visibility_seconds]))


async def server_full(crew: Crew, proxy: FaultProxy) -> None:
    async with crew.full_server():
        await asyncio.sleep(crew.rng.uniform(0, 0.5))


async def scripts_flushed(crew: Crew, proxy: FaultProxy) -> None:
    async with crew.client() as client:
        await client.script_flush()


async def connections_cut(crew: Crew, proxy: FaultProxy) -> None:
    proxy.break_all(crew.rng.choice(["close", "reset"]))


# Of whatever crew; a scenario adds its own.
FAULTS: Final[tuple[Fault[Crew], ...]] = (
    *(worker_killed, worker_left, worker_frozen, server_killed, server_full),
    *(scripts_flushed, connections_cut),
)


async def slow_network(crew: Crew, proxy: FaultProxy, asked: bytes) -> None:
    """What is asked arrives late, when others have taken over what was held."""
    proxy.hold_at(asked)
    await asyncio.sleep(crew.visibility_seconds * crew.rng.uniform(0.2, 2))
    proxy.let_go()


async def begin_both_ways(crew: Crew, proxy: FaultProxy) -> None:
    """Half of the workers reach the server by the proxy."""
    await crew.begin_workers(WORKERS // 2)
    await crew.begin_workers(WORKERS - WORKERS // 2, url=proxy.url)


async def everything_fails(crew: C, proxy: FaultProxy, seconds: float, *, faults: Sequence[Fault[C]]) -> Counter[str]:
    """One fault after the other, each as often as the others. How often each one was."""
    happened = Counter[str]()
    queue: list[Fault[C]] = []
    for _ in again(seconds):
        queue = queue or crew.rng.sample(faults, len(faults))
        fault = queue.pop()
        await fault(crew, proxy)
        happened[fault.__name__] += 1
        await crew.begin_workers(WORKERS - len(crew.workers), url=crew.rng.choice([None, proxy.url]))
        await crew.goes_on(crew.rng.randint(0, 60), 60)
    return happened
