"""Deliveries on their way to a worker that goes are not lost: the ghost test.

redis-py's XREADGROUP, cancelled at random, loses 4 in 100: the server has delivered what the client never sees.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.worker.worker import Worker
from tailrace import Run
from tests.faults.workers.oracle import judge_once
from tests.faults.workers.world import the_world
from tests.support.proxy import fault_proxy
from tests.support.servers import TestServer
from tests.support.until import until


async def test_stopped_workers_leave_no_ghosts() -> None:
    """Workers that are stopped at any moment, with a visibility timeout beyond the test: each run is executed once."""
    async with the_world(visibility_seconds=600.0) as world:
        await world.begin_worker()
        await world.begin_producer(pause=0.003, burst=2)
        for _ in range(8):
            worker = await world.begin_worker()
            await world.goes_on(world.rng.randint(1, 8))
            await world.stop_worker(worker)
        history = await world.verdict()
        assert judge_once(history, history.accepted) == []


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_ended_loops_leave_no_ghosts(server: TestServer, how: str) -> None:
    """The same within one process, whose loop is asked to end or is cancelled: whatever was delivered is given back."""
    seen: list[str] = []
    tail = Tailrace(settings=Settings(redis_url=server.url, visibility_seconds=600.0, drain_seconds=2.0))

    @tail.task
    async def noted(run: Run) -> None:
        seen.append(run.id)

    async with tail:
        started: set[str] = set()
        for number in range(14):
            worker = Worker(tail, concurrency=5)
            running = asyncio.create_task(worker.run())
            starts = [noted.start() for _ in range(3)]
            started.update(run.id for run in await asyncio.gather(*starts))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            worker.stop() if how == "stop" else running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        last = Worker(tail)
        running = asyncio.create_task(last.run())
        await until(lambda: set(seen) == started, "all of them were executed", 20)
        last.stop()
        await running
    assert len(seen) == len(started)


async def test_last_worker_leaves_no_effects_behind() -> None:
    """What a worker settles as it drains reaches runs of other partitions before it goes: nobody else may come for hours."""
    async with (
        the_world(visibility_seconds=120.0, partitions=2) as world,
        world.client() as client,
        fault_proxy(world.server.socket) as proxy,
    ):
        worker = await world.begin_worker(concurrency=40, url=proxy.url)
        runs = await world.runs_of("silent", 40, gate="g")
        await until(lambda: world.begun(*runs) == 40, "all are executed", 20)
        proxy.delay = 0.15
        world.open_gate("g")
        await world.stop_worker(worker)
        assert await world.succeeded() == 40
        assert await world.effects(client) == 40
