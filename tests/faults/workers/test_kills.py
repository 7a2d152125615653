"""Workers die at any point, join and leave, and the work is done once."""

from __future__ import annotations

from tests.faults import recurring
from tests.faults.workers.oracle import judge_once, lost_executions
from tests.faults.workers.world import SHORT_OR_LONG, the_world

MANY = 16


@SHORT_OR_LONG
async def test_killed_workers(seconds: float) -> None:
    """kill -9 of random workers in mid-batch, again and again: nothing is lost, no effect lands twice."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_workers(3)
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.05, input={"fails": 1})
        killed = await recurring.kill_workers(world, seconds, functions=100, times=3)
        history = await world.verdict()
        print(f"  {killed} workers killed, {lost_executions(history)} executions lost with them")
        assert lost_executions(history) > 0, "no worker was killed in mid-work: the test tested nothing"


@SHORT_OR_LONG
async def test_joining_and_leaving_workers(seconds: float) -> None:
    """Up to 16 workers come and go as they are told to: each run is executed once, none waits for a timeout."""
    async with the_world(visibility_seconds=120.0) as world:
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.1, input={"pause_ms": 200})  # a stop takes effect while it runs
        left = await recurring.join_and_leave(world, seconds, team=MANY, functions=60, times=MANY)
        history = await world.verdict()
        print(f"  {left} workers left")
        assert judge_once(history, history.accepted) == []
