"""The harness itself: processes are what they say, producers journal what was accepted, evidence is complete."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.faults.workers.oracle import judge
from tests.faults.workers.program import accepted_in
from tests.faults.workers.world import the_world
from tests.support.until import until


async def test_accepted_runs_are_journaled_and_missed() -> None:
    """Each start that a producer was told of is in its journal and on the server; the oracle misses its execution."""
    async with the_world() as world:
        runs = await world.runs_of("work", 20, marks=1)
        assert sorted(runs) == sorted(f"p1-{n}" for n in range(1, 21))
        history = await world.history()
        assert set(history.feeds) == set(runs)
        assert [len(feed) for feed in history.feeds.values()] == [1] * 20
        complaints = judge(history)
        assert sum("has not ended" in complaint for complaint in complaints) == 20
        assert any("work:work has" in complaint for complaint in complaints)


async def test_producers_outlive_the_server() -> None:
    """While the server is away nothing is accepted, afterwards all of it, each run once."""
    async with the_world() as world:
        order = await world.begin_producer(pause=0.01, burst=3)
        await until(lambda: len(accepted_in(order)) > 20, "the producer has begun", 20)
        await world.kill_server()
        await world.start_server()
        before = len(accepted_in(order))
        await until(lambda: len(accepted_in(order)) > before + 20, "the producer goes on", 20)
        await world.stop_producers()
        history = await world.history()
        assert set(history.accepted) <= set(history.feeds)
        assert len(set(history.accepted)) == len(history.accepted)


async def test_processes_end_as_they_are_told() -> None:
    """A killed process is gone and its code is the signal; a stopped producer ends by itself."""
    async with the_world() as world:
        await world.begin_producer("a")
        await world.begin_producer("b")
        (_, killed), (_, stopped) = world.producers
        await until(lambda: len(world.accepted) > 5, "they have begun", 20)
        assert killed.pid != stopped.pid != os.getpid()
        await world.blocking(killed.kill)
        assert killed.code == -signal.SIGKILL
        stopped.send(signal.SIGTERM)
        assert await asyncio.wait_for(stopped.ended(), 20) == 0
        assert world.bugs() == []
