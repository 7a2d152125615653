"""Workers die at any point, join and leave, and each group reacts once."""

from __future__ import annotations

from tests.faults import recurring
from tests.faults.reactions.oracle import judge_once
from tests.faults.reactions.world import SHORT_OR_LONG, the_world

MANY = 8


@SHORT_OR_LONG
async def test_killed_workers(seconds: float) -> None:
    """kill -9 of random workers in mid-batch, again and again: what was accepted is applied once in every group."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_workers(3)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.1, data={"pause_ms": 100})  # some are under way whenever one dies
        killed = await recurring.kill_workers(world, seconds, functions=200, times=3)
        history = await world.verdict()
        again = len(history.journal) - 2 * len(history.accepted) * len(world.groups)
        print(f"  {killed} workers killed, {again} lines too many in the journal")
        lost = [group for group in world.groups if judge_once(history, group, history.accepted)]
        assert lost, "no handler was killed in mid-work: the test tested nothing"


@SHORT_OR_LONG
async def test_joining_and_leaving_workers(seconds: float) -> None:
    """Workers come and go as they are told to: each handler is called once, and nothing waits for a timeout."""
    async with the_world(visibility_seconds=120.0) as world:
        await world.begin_workers(2)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.2, data={"pause_ms": 100})
        left = await recurring.join_and_leave(world, seconds, team=4, functions=100, times=MANY)
        history = await world.verdict()
        print(f"  {left} workers left")
        for group in world.groups:
            assert judge_once(history, group, history.accepted) == []


async def test_beginning_workers_call_once() -> None:
    """The first events that reach a worker which has just begun: each handler is called once."""
    async with the_world(visibility_seconds=120.0) as world:
        for n in range(1, 7):
            await world.begin_worker()
            await world.told(2)
            for group in world.groups:
                await world.handles(group, 16 * n)
            await world.stop_worker(world.any_worker())
        await world.begin_worker()
        history = await world.verdict()
        for group in world.groups:
            assert judge_once(history, group, history.accepted) == []
