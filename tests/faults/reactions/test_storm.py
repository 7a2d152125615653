"""Sixteen members of an ordered group that join and leave each second, four of them processes, the others light ones in one
process; order is kept per run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.faults.crew import short_or_long
from tests.faults.forked import Forked
from tests.faults.reactions.oracle import History, judge_alone, judge_once
from tests.faults.reactions.world import World, the_world
from tests.faults.recurring import again

PROCESSES = 4
LIGHT = 12

SECONDS = short_or_long(6.0)


@asynccontextmanager
async def a_storm(visibility_seconds: float) -> AsyncIterator[World]:
    """All members are there, and producers at work."""
    async with the_world(visibility_seconds=visibility_seconds, partitions=16) as world:
        world.groups = ("ordered",)
        await world.begin_swarm(LIGHT)
        await world.begin_workers(PROCESSES)
        await world.begin_producer(pause=0.05)
        await world.begin_producer(pause=0.1, runs=16, data={"pause_ms": 50})
        yield world


async def replace_some(world: World, seconds: float, end: Callable[[Forked], Awaitable[None]]) -> int:
    """Ends some of the processes each second, and begins others. How many were ended."""
    ended = 0
    for _ in again(seconds):
        turn = asyncio.create_task(asyncio.sleep(1.0))
        leaving = world.rng.sample([*world.workers.values()], world.rng.randint(1, PROCESSES))
        await asyncio.gather(*(end(worker) for worker in leaving))
        await world.begin_workers(PROCESSES - len(world.workers))
        ended += len(leaving)
        await turn
    return ended


@SECONDS
async def test_members_join_and_leave(seconds: float) -> None:
    """As they are told to: each event is handled once and in order, and no two of a run at the same time."""
    async with a_storm(visibility_seconds=120.0) as world:
        left = await replace_some(world, seconds, world.stop_worker)
        history = await world.verdict()
        print(f"  {left} processes left, {_by_processes(history)} handled by processes")
        assert _by_processes(history) > 0
        assert judge_once(history, "ordered", history.accepted) == []
        assert judge_alone(history, "ordered") == []


@SECONDS
async def test_members_join_and_die(seconds: float) -> None:
    """Processes are killed (-9) while the light ones join and leave: each event is applied once and in order."""
    async with a_storm(visibility_seconds=1.0) as world:
        killed = await replace_some(world, seconds, world.kill_worker)
        history = await world.verdict()
        print(f"  {killed} processes killed, {_by_processes(history)} handled by processes")
        assert _by_processes(history) > 0


def _by_processes(history: History) -> int:
    return sum(line.what == "ends" and line.who != "swarm" for line in history.journal)
