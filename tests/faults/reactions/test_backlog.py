"""A full log: handlers that emit into it are never refused, and a group that does not come is cut off or named."""

from __future__ import annotations

import asyncio
import time

from tests.faults.reactions.world import World, the_world
from tests.support.until import until

LIMIT = 100  # entries a partition


async def _entries(world: World) -> list[int]:
    """Of the log, in each partition."""
    async with world.client() as client:
        return [await client.xlen(partition.log) for partition in (await world.keys(client)).partitions]


def _refused(world: World, group: str) -> bool:
    """Whether a producer was told that this group is behind."""
    return any(f'"group": "{group}", "event": "fact_refused"' in forked.said for _, forked in world.producers)


async def test_handlers_that_emit_into_a_full_log_do_not_lock_up() -> None:
    """The log is full and producers are refused; what handlers emit into the same log goes in, and all of it comes out."""
    async with the_world(visibility_seconds=2.0, log_limit=LIMIT, partitions=1) as world:
        world.groups = ("refusing", "batched")
        await world.begin_workers(2)
        await world.begin_producer(pause=0.0, runs=16, count=40, data={"gate": "g"})
        await until(lambda: _refused(world, "refusing"), "producers are refused", 20)
        assert max(await _entries(world)) >= LIMIT
        world.open_gate("g")
        _, producer = world.producers[0]
        assert await producer.ended(60) == 0, producer.said[-3000:]
        history = await world.verdict()
        assert len(history.accepted) == 16 * 40


async def _is_short(world: World) -> bool:
    return max(await _entries(world)) <= LIMIT + 64


async def test_forgotten_group_is_told_and_cut_off() -> None:
    """A group whose workers are gone does not stop production: the log stays within its limit, the cut is noted, and who
    comes back for it is told and handles what is left, once."""
    async with the_world(visibility_seconds=1.0, log_limit=LIMIT, partitions=2) as world:
        forgotten = await world.begin_worker(groups=["second"])
        await world.begin_worker(groups=["first"])
        await world.told(2)
        world.groups = ("first", "second")
        await world.handles("second", 16)
        await world.stop_worker(forgotten)
        facts = await world.told(4 * LIMIT // 8, data={})
        facts += await world.told(4 * LIMIT // 8)
        await world.handles("first", len(facts) + 16)
        assert not _refused(world, "second")
        await until(lambda: _is_short(world), "what was settled, and is never refused, is cut as well")
        back = await world.begin_worker(groups=["second"])
        history = await world.verdict(unhandled={"second": facts})
        cut = len(facts) + 16 - sum(len(effects) for effects in history.groups["second"].near.values())
        print(f"  {cut} facts were cut")
        assert cut > 0
        assert await _is_told(world, back.said), "the cut was told to nobody"


async def _is_told(world: World, said: str) -> bool:
    """In the log of the worker that came back."""
    return '"group_was_cut"' in said or '"group_cut"' in said


async def test_producers_are_refused_for_a_group_that_must_have_all() -> None:
    """A group bound with when_behind="refuse" whose workers are gone: producers are told its name, nothing is cut, and when it
    comes back it has every fact once."""
    async with the_world(visibility_seconds=1.0, log_limit=LIMIT, partitions=2) as world:
        world.groups = ("first", "refusing")
        gone = await world.begin_worker(groups=["refusing"])
        await world.begin_worker(groups=["first"])
        await world.told(2)
        await world.handles("refusing", 16)
        await world.stop_worker(gone)
        await world.begin_producer(pause=0.0)
        await until(lambda: _refused(world, "refusing"), "producers are refused", 20)
        assert not _refused(world, "first")
        since, count = time.monotonic(), len(world.accepted)
        await asyncio.sleep(1.0)  # the fault itself
        assert len(world.accepted) <= count + 2 * LIMIT, f"{time.monotonic() - since} s later"
        await world.begin_worker(groups=["refusing"])
        before = len(world.accepted)
        await until(lambda: len(world.accepted) > before + LIMIT, "producers go on", 20)
        await world.verdict()
