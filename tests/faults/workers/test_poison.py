"""What kills its process ends as a dead letter and takes no neighbour along; what is no failure counts as none."""

from __future__ import annotations

from typing import Any

from tests.faults.workers.world import World, the_world
from tests.support.until import until

NEIGHBOURS = 40
LIMIT = 3  # of poison's tries


async def test_poison_ends_as_dead_letter() -> None:
    """A run that kills every worker which touches it is given up after its tries; all who ran beside it end well."""
    async with the_world(visibility_seconds=1.0) as world:
        before = await world.runs_of("work", NEIGHBOURS, pause_ms=30)
        (poison,) = await world.runs_of("poison", 1)
        await world.begin_workers(2, concurrency=NEIGHBOURS)
        after = await world.runs_of("work", NEIGHBOURS, pause_ms=30)
        deaths = 0

        async def ended() -> bool:
            nonlocal deaths
            deaths += await world.replace_dead()
            return await world.field(poison, "status") == "failed"

        await until(ended, "the poison is given up", 60)
        history = await world.verdict(ends={poison: "run.failed"})
        end = history.feeds[poison][-1]
        assert end.data["reason"] == "poison"
        assert (deaths, world.begun(poison)) == (LIMIT, LIMIT)
        assert await dead_letters(world, "poison") == [poison]
        assert await dead_letters(world, "work") == []
        assert all(history.feeds[run][-1].type == "run.finished" for run in before + after)


async def dead_letters(world: World, task: str) -> list[str]:
    async with world.client() as client:
        keys = await world.keys(client)
        found = [await client.xrange(partition.dead_task(task)) for partition in keys.partitions]
    return [fields[b"r"].decode() for entries in found for _, fields in entries]


async def test_deliveries_are_no_tries() -> None:
    """A run that was delivered fifty times, and whose worker reconnected ten times, has been tried once."""
    async with the_world(visibility_seconds=120.0) as world, world.client() as client:
        worker = await world.begin_worker(consumer="c")
        (run,) = await world.runs_of("patient", 1, gate="g")
        await until(lambda: world.begun(run) == 1, "it is executed", 20)
        keys = (await world.keys(client)).of(run)
        for _ in range(10):
            for _ in range(5):
                await client.xreadgroup("workers", "c", {keys.work("patient"): "0"})
            await client.client_kill_filter(_type="normal", skipme=True)
            await until(lambda: is_read(client), "the worker reads again", 20)
        (pending,) = await client.xpending_range(keys.work("patient"), "workers", "-", "+", 1)
        assert pending["times_delivered"] > 50
        assert (await world.field(run, "tries"), await world.field(run, "attempt")) == ("1", "1")
        world.open_gate("g")
        await world.verdict()
        assert world.begun(run) == 1
        assert worker.code is None


async def is_read(client: Any) -> bool:
    """Whether somebody waits in a read."""
    return int((await client.info("clients"))["blocked_clients"]) > 0


async def test_coming_back_later_is_no_failure() -> None:
    """A function with two tries may ask for another time as often as it likes."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_worker()
        runs = await world.runs_of("patient", 3, laters=5)
        history = await world.verdict()
        assert [history.feeds[run][-1].attempt for run in runs] == [6] * 3
        assert await dead_letters(world, "patient") == []


async def test_drained_work_was_not_tried() -> None:
    """What a worker gives back because it has to go is no try, however often that happens."""
    async with the_world(visibility_seconds=120.0, drain_seconds=0.1) as world:
        runs = await world.runs_of("patient", 4, gate="g")
        for times in range(1, 6):
            worker = await world.begin_worker()
            await until(lambda times=times: world.begun(*runs) == times * 4, f"they are executed, time {times}", 20)  # type: ignore[misc]
            await world.stop_worker(worker)
        await world.begin_worker()
        world.open_gate("g")
        history = await world.verdict()
        assert [history.feeds[run][-1].attempt for run in runs] == [6] * 4
        assert await dead_letters(world, "patient") == []
