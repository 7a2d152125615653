"""What happens to the server happens to nobody's reactions."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest

from tests.faults import recurring
from tests.faults.reactions.oracle import judge_once
from tests.faults.reactions.world import SHORT_OR_LONG, Fsync, the_world
from tests.support.until import until

VISIBILITY = 1.0
RUNS = 8


@SHORT_OR_LONG
@pytest.mark.parametrize("fsync", get_args(Fsync))
async def test_killed_server(fsync: Fsync, seconds: float) -> None:
    """kill -9 of the server, which comes back with its AOF: what was accepted is applied once in every group."""
    async with the_world(fsync=fsync, visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(3)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.1, data={"pause_ms": 50})
        killed = await recurring.kill_server(world, seconds)
        await world.verdict()
        print(f"  the server was killed {killed} times")


async def test_away_server_gives_nothing_to_others() -> None:
    """A server that is away for longer than the visibility timeout: who lives goes on with the events that it handles."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2)
        facts = await world.told(1, runs=RUNS, data={"gate": "g"})
        await until(lambda: world.begun(facts) == RUNS * len(world.groups), "all are handled", 20)
        await world.restart_server(2 * VISIBILITY)
        since = await world.now_ms()

        async def time_passes() -> bool:
            await asyncio.sleep(0.05)
            return await world.now_ms() - since > 3000 * VISIBILITY

        await until(time_passes, "whoever claims had the time to", 20)
        world.open_gate("g")
        history = await world.verdict()
        for group in world.groups:
            assert judge_once(history, group, facts) == []


@SHORT_OR_LONG
async def test_flushed_scripts(seconds: float) -> None:
    """SCRIPT FLUSH in mid-run, many times a second: every event is handled once."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2)
        await world.begin_producer(pause=0.1)
        flushed = await recurring.flush_scripts(world, seconds)
        history = await world.verdict()
        print(f"  scripts were flushed {flushed} times")
        for group in world.groups:
            assert judge_once(history, group, history.accepted) == []


async def test_full_server_settles() -> None:
    """Out of memory in mid-handler: what was handled is settled all the same, its effects in its own partition included."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2)
        facts = await world.told(2, runs=RUNS, data={"gate": "g"})
        at_once = [fact for fact in facts if fact.n == 1]
        await until(lambda: world.begun(at_once) == RUNS * len(world.groups), "they are handled", 20)
        async with world.full_server():
            world.open_gate("g")
            for group in world.groups:
                await world.handles(group, len(facts))
        history = await world.verdict()
        for group in world.groups:
            assert judge_once(history, group, facts) == []


@SHORT_OR_LONG
async def test_server_is_full_now_and_then(seconds: float) -> None:
    """Under load the server runs out of memory again and again: nothing is lost, nothing is applied twice."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(2)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.1, data={"flaky": 0.1})
        filled = await recurring.fill_server(world, seconds)
        await world.verdict()
        print(f"  the server was full {filled} times")


async def test_flushed_server_is_bound_again() -> None:
    """FLUSHALL in the middle: the groups are bound again, which is told, and what is told from then on is applied once; what
    was under way is applied once at most."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        workers = await world.begin_workers(2)
        await world.told(2, runs=40, counts=False)  # something went from each partition into each other one
        await world.at_rest()
        await world.begin_producer(counts=False)
        gone = await world.told(1, runs=RUNS, counts=False, data={"gate": "g"})
        await until(lambda: world.begun(gone) == RUNS * len(world.groups), "all are handled", 20)
        async with world.client() as client:
            await client.flushall()
        await until(world.is_bound, "all groups are bound in every partition", 20)
        world.open_gate("g")
        await world.told(20)
        history = await world.verdict()
        assert not any(history.feeds[fact.run] for fact in gone)
        for group in world.groups:
            assert any(_told_again(worker.said, group) for worker in workers), f"nobody told that {group} was lost"


def _told_again(said: str, group: str) -> bool:
    """Whether a worker told that this group, or the whole namespace, was lost; whoever comes first binds it again."""
    return "namespace_made_anew" in said or any(
        '"group_was_lost"' in line and f'"group": "{group}"' in line for line in said.splitlines()
    )
