"""What happens to the server happens to nobody's work."""

from __future__ import annotations

import asyncio
import time
from typing import get_args

import pytest

from tests.faults.workers.oracle import judge_once
from tests.faults.workers.world import SHORT_OR_LONG, Fsync, World, the_world
from tests.support.until import until

VISIBILITY = 1.0
GATED = 12


@SHORT_OR_LONG
@pytest.mark.parametrize("fsync", get_args(Fsync))
async def test_killed_server(fsync: Fsync, seconds: float) -> None:
    """kill -9 of the server, which comes back with its AOF: all that was accepted is done once."""
    async with the_world(fsync=fsync, visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(3)
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.05, input={"fails": 1})
        end, killed = time.monotonic() + seconds, 0
        while time.monotonic() < end or killed < 3:
            await world.goes_on(world.rng.randint(1, 200))
            await world.kill_server()
            await world.start_server()
            killed += 1
        await world.verdict()
        print(f"  the server was killed {killed} times")


async def test_away_server_starts_nothing_twice() -> None:
    """A server that is away for longer than the visibility timeout: who lives goes on with what it executes."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2, concurrency=2 * GATED)
        runs = await world.runs_of("work", GATED, gate="g") + await world.runs_of("silent", GATED, gate="g")
        await until(lambda: world.begun(*runs) == len(runs), "all are executed", 20)
        await world.kill_server()
        await asyncio.sleep(2 * VISIBILITY)  # the fault itself
        await world.start_server()
        await world.claims_again(await world.now_ms() - 1000)
        assert world.begun(*runs) == len(runs)
        world.open_gate("g")
        history = await world.verdict()
        assert judge_once(history, runs) == []


@SHORT_OR_LONG
async def test_flushed_scripts(seconds: float) -> None:
    """SCRIPT FLUSH in mid-run, many times a second: everything is executed, once."""
    async with the_world(visibility_seconds=VISIBILITY) as world, world.client() as client:
        await world.begin_workers(2)
        await world.begin_producer(pause=0.02)
        end, flushed = time.monotonic() + seconds, 0
        while time.monotonic() < end or flushed < 10:
            await client.script_flush()
            await world.goes_on(3)
            flushed += 1
        history = await world.verdict()
        print(f"  scripts were flushed {flushed} times")
        assert judge_once(history, history.accepted) == []


async def _full(world: World, limit: str) -> None:
    async with world.client() as client:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", limit)


async def test_full_server_settles_and_heals() -> None:
    """Out of memory in mid-settle: what has nothing to write live ends, the rest waits and ends when there is room again."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2, concurrency=40)
        silent = await world.runs_of("silent", GATED, gate="g")
        runs = await world.runs_of("work", GATED, gate="g")
        await until(lambda: world.begun(*silent, *runs) == 2 * GATED, "all are executed", 20)
        await _full(world, "100kb")
        world.open_gate("g")

        async def settled() -> bool:
            return await world.succeeded() == GATED

        await until(settled, "runs without live events have ended", 20)
        assert world.begun(*silent, *runs) == 2 * GATED
        await _full(world, "0")
        history = await world.verdict()
        assert judge_once(history, [*silent, *runs]) == []


@SHORT_OR_LONG
async def test_server_is_full_now_and_then(seconds: float) -> None:
    """Under load the server runs out of memory again and again: nothing is lost, nothing is done twice."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2)
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.05, task="silent")
        end, filled = time.monotonic() + seconds, 0
        while time.monotonic() < end or filled < 3:
            await world.goes_on(world.rng.randint(1, 60))
            await _full(world, "100kb")
            await asyncio.sleep(world.rng.uniform(0.05, 0.5))  # the fault itself
            await _full(world, "0")
            filled += 1
        history = await world.verdict()
        print(f"  the server was full {filled} times")
        assert judge_once(history, history.accepted) == []
