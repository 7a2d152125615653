"""Sixteen members of an ordered group that join and leave each second, four of them processes, the others light ones in one
process; order is kept per run."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.reactions.oracle import History, judge_alone, judge_once
from tests.faults.reactions.world import LONG_SECONDS, the_world

PROCESSES = 4
LIGHT = 12

SECONDS = pytest.mark.parametrize(
    "seconds",
    [6.0, pytest.param(LONG_SECONDS, marks=[pytest.mark.soak, pytest.mark.timeout(0)])],
    ids=["short", "long"],
)


@SECONDS
async def test_members_join_and_leave(seconds: float) -> None:
    """As they are told to: each event is handled once and in order, and no two of a run at the same time."""
    async with the_world(visibility_seconds=120.0, partitions=16) as world:
        world.groups = ("ordered",)
        await world.begin_swarm(LIGHT)
        await world.begin_workers(PROCESSES)
        await world.begin_producer(pause=0.05)
        await world.begin_producer(pause=0.1, runs=16, data={"pause_ms": 50})
        end, left = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            turn = asyncio.create_task(asyncio.sleep(1.0))
            leaving = world.rng.sample([*world.workers.values()], world.rng.randint(1, PROCESSES))
            await asyncio.gather(*(world.stop_worker(worker) for worker in leaving))
            await world.begin_workers(PROCESSES - len(world.workers))
            left += len(leaving)
            await turn
        history = await world.verdict()
        print(f"  {left} processes left, {_by_processes(history)} handled by processes")
        assert _by_processes(history) > 0
        assert judge_once(history, "ordered", history.accepted) == []
        assert judge_alone(history, "ordered") == []


@SECONDS
async def test_members_join_and_die(seconds: float) -> None:
    """Processes are killed (-9) while the light ones join and leave: each event is applied once and in order."""
    async with the_world(visibility_seconds=1.0, partitions=16) as world:
        world.groups = ("ordered",)
        await world.begin_swarm(LIGHT)
        await world.begin_workers(PROCESSES)
        await world.begin_producer(pause=0.05)
        await world.begin_producer(pause=0.1, runs=16, data={"pause_ms": 50})
        end, killed = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            turn = asyncio.create_task(asyncio.sleep(1.0))
            for worker in world.rng.sample([*world.workers.values()], world.rng.randint(1, PROCESSES)):
                await world.kill_worker(worker)
                killed += 1
            await world.begin_workers(PROCESSES - len(world.workers))
            await turn
        history = await world.verdict()
        print(f"  {killed} processes killed, {_by_processes(history)} handled by processes")
        assert _by_processes(history) > 0


def _by_processes(history: History) -> int:
    return sum(line.what == "ends" and line.who != "swarm" for line in history.journal)
