"""The server's clock jumps by an hour, ahead and back: the living keep their work, that of the dead waits a little longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.workers.oracle import judge_once
from tests.faults.workers.world import World, the_world
from tests.support.faketime import ClockedDaemon
from tests.support.until import until

HOUR = 3600
VISIBILITY = 1.0
RUNS = 12


@asynccontextmanager
async def clocked() -> AsyncIterator[tuple[World, ClockedDaemon]]:
    daemons: list[ClockedDaemon] = []

    def server(folder: Path) -> ClockedDaemon:
        daemons.append(ClockedDaemon(folder, ("--appendonly", "yes")))
        return daemons[0]

    async with the_world(server=server, visibility_seconds=VISIBILITY) as world:
        yield world, daemons[0]


async def test_jumping_clock_takes_nothing_from_the_living() -> None:
    """An hour ahead and back again, while functions run: none is begun a second time."""
    async with clocked() as (world, daemon):
        await world.begin_workers(2)
        runs = await world.runs_of("work", RUNS, gate="g")
        await until(lambda: world.begun(*runs) == RUNS, "all are executed", 20)
        for seconds in (HOUR, 0):
            daemon.move(seconds)
            await world.claims_again(await world.now_ms())
            assert world.begun(*runs) == RUNS
        world.open_gate("g")
        history = await world.verdict()
        assert judge_once(history, runs) == []


async def test_nothing_is_claimed_for_one_timeout_after_a_jump() -> None:
    """Work of a worker that dies as the clock jumps ahead is taken over, not sooner than a visibility timeout later."""
    async with clocked() as (world, daemon):
        dying = await world.begin_worker()
        runs = await world.runs_of("work", RUNS, gate="g")
        await until(lambda: world.begun(*runs) == RUNS, "all are executed", 20)
        await world.begin_worker()
        daemon.move(HOUR)
        jumped_ms = await world.now_ms()
        await world.kill_worker(dying)
        world.open_gate("g")
        history = await world.verdict()
        second = [event for feed in history.feeds.values() for event in feed if event.type == "run.started"][1::2]
        assert [event.attempt for event in second] == [2] * RUNS
        assert min(event.ms for event in second) >= jumped_ms + VISIBILITY * 1000


async def test_work_of_the_future_is_not_lost() -> None:
    """A worker that got its entries while the clock was an hour ahead and died: they are taken over after it went back."""
    async with clocked() as (world, daemon):
        daemon.move(HOUR)
        dying = await world.begin_worker()
        runs = await world.runs_of("work", RUNS, gate="g")
        await until(lambda: world.begun(*runs) == RUNS, "all are executed", 20)
        await world.begin_worker()
        await world.kill_worker(dying)
        daemon.move(0)
        world.open_gate("g")
        history = await world.verdict()
        assert [feed[-1].attempt for feed in history.feeds.values()] == [2] * RUNS
