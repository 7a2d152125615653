"""The faults, one function each. Each leaves everything running when it returns."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tests.faults.world import World
from tests.support.until import until

__all__ = ["FAULTS", "Fault"]

Fault = Callable[[World, random.Random, float], Awaitable[None]]
TRIMMED_RUN: Final = "trimmed"
DOOMED: Final = "doomed"  # producers with this prefix may be killed


async def gateway_killed(world: World, rng: random.Random, away: float) -> None:
    """A gateway dies (-9) and comes back at its port."""
    port = rng.choice(world.ports)
    await world.kill_gateway(port)
    world.start_gateway(port)
    await world.gateways_serve()


async def pubsub_killed(world: World, rng: random.Random, away: float) -> None:
    """All PubSub connections are cut, a few times in a row."""
    async with world.client() as client:
        for _ in range(rng.randint(1, 3)):
            await client.client_kill_filter(_type="pubsub")
            await asyncio.sleep(rng.uniform(0, 0.2))


async def server_killed(world: World, rng: random.Random, away: float) -> None:
    """The server dies (-9) and comes back at once, with its AOF."""
    await world.kill_server()
    await world.start_server()


async def server_away(world: World, rng: random.Random, away: float) -> None:
    """The server dies (-9), and is away for longer than the term of an owner."""
    await world.kill_server()
    await asyncio.sleep(away)
    await world.start_server()


async def owner_killed(world: World, rng: random.Random, away: float) -> None:
    """A process that executes a run dies (-9) in mid-answer."""
    alive = [p for name, (_, p) in world.producers.items() if name.startswith(DOOMED) and p.process.poll() is None]
    if alive:
        rng.choice(alive).kill()


async def gateway_frozen(world: World, rng: random.Random, away: float) -> None:
    """A gateway stands still, and the server drops its PubSub connection because its buffer is full."""
    async with world.client() as client:
        await client.config_set("client-output-buffer-limit", "pubsub 16kb 8kb 1")
        gateway = world.gateways[rng.choice(world.ports)]
        gateway.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(rng.uniform(0.5, 1.5))
        finally:
            gateway.send(signal.SIGCONT)
        await client.config_set("client-output-buffer-limit", "pubsub 64mb 16mb 60")


async def feed_trimmed(world: World, rng: random.Random, away: float) -> None:
    """The head of a run's feed is cut off under its readers."""
    await world.trim(TRIMMED_RUN, rng.randint(1, 40))


FAULTS: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (
        gateway_killed,
        pubsub_killed,
        server_killed,
        server_away,
        owner_killed,
        gateway_frozen,
        feed_trimmed,
    )
}


async def settled(world: World) -> None:
    """Everything answers again."""

    async def answers() -> bool:
        async with world.client() as client:
            return bool(await client.ping())

    await until(answers, "the server answers", 10)
    await world.gateways_serve()
