"""What happens to the server happens to nobody's work."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.faults import recurring
from tests.faults.workers.oracle import judge_once
from tests.faults.workers.world import SHORT_OR_LONG, Fsync, the_world
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
        killed = await recurring.kill_server(world, seconds)
        await world.verdict()
        print(f"  the server was killed {killed} times")


async def test_away_server_starts_nothing_twice() -> None:
    """A server that is away for longer than the visibility timeout: who lives goes on with what it executes."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2, concurrency=2 * GATED)
        runs = await world.runs_of("work", GATED, gate="g") + await world.runs_of("silent", GATED, gate="g")
        await until(lambda: world.begun(*runs) == len(runs), "all are executed", 20)
        await world.restart_server(2 * VISIBILITY)
        await world.claims_again(await world.now_ms() - 1000)
        assert world.begun(*runs) == len(runs)
        world.open_gate("g")
        history = await world.verdict()
        assert judge_once(history, runs) == []


@SHORT_OR_LONG
async def test_flushed_scripts(seconds: float) -> None:
    """SCRIPT FLUSH in mid-run, many times a second: everything is executed, once."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2)
        await world.begin_producer(pause=0.02)
        flushed = await recurring.flush_scripts(world, seconds)
        history = await world.verdict()
        print(f"  scripts were flushed {flushed} times")
        assert judge_once(history, history.accepted) == []


async def test_full_server_settles_and_heals() -> None:
    """Out of memory in mid-settle: what has nothing to write live ends, the rest waits and ends when there is room again."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2, concurrency=40)
        silent = await world.runs_of("silent", GATED, gate="g")
        runs = await world.runs_of("work", GATED, gate="g")
        await until(lambda: world.begun(*silent, *runs) == 2 * GATED, "all are executed", 20)

        async def settled() -> bool:
            return await world.succeeded() == GATED

        async with world.full_server():
            world.open_gate("g")
            await until(settled, "runs without live events have ended", 20)
            assert world.begun(*silent, *runs) == 2 * GATED
        history = await world.verdict()
        assert judge_once(history, [*silent, *runs]) == []


@SHORT_OR_LONG
async def test_server_is_full_now_and_then(seconds: float) -> None:
    """Under load the server runs out of memory again and again: nothing is lost, nothing is done twice."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2)
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.05, task="silent")
        filled = await recurring.fill_server(world, seconds)
        history = await world.verdict()
        print(f"  the server was full {filled} times")
        assert judge_once(history, history.accepted) == []
