"""A server that forgets what it acknowledged a moment ago, as with everysec: whoever lives makes up for it."""

from __future__ import annotations

import pytest

from processor.store.scripts import load_script
from tests.faults import recurring
from tests.faults.reactions.world import SHORT_OR_LONG, the_world
from tests.support.proxy import fault_proxy
from tests.support.until import until

RUNS = 8


@SHORT_OR_LONG
async def test_lost_tails(seconds: float) -> None:
    """The server dies and has forgotten what it acknowledged a moment ago, again and again: facts that their producers know
    of are applied once in every group, and in order where there is one."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_workers(3)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.2, data={"flaky": 0.1})
        lost = await recurring.lose_tails(world, seconds)
        await world.verdict()
        print(f"  the server forgot {lost} bytes")
        assert lost > 0


@pytest.mark.parametrize("what", ["settlements", "deliveries"])
async def test_forgotten_step_is_done_again(what: str) -> None:
    """The server forgot that events were settled, or even that they were delivered: they are handled again, and count once."""
    async with the_world(visibility_seconds=1.0) as world:
        facts = await world.told(2, runs=RUNS) if what == "deliveries" else []
        await world.begin_worker("binds")
        if what == "deliveries":
            await world.stop_worker(world.workers["binds"])
            facts += await world.told(2, runs=RUNS)
            kept = world.aof_bytes()
            await world.begin_worker()
        else:
            facts += await world.told(2, runs=RUNS, data={"gate": "g"})
            at_once = [fact for fact in facts if fact.n == 1]
            await until(lambda: world.begun(at_once) == RUNS * len(world.groups), "they are handled", 20)
            kept = world.aof_bytes()
            world.open_gate("g")
        for group in world.groups:
            await world.handles(group, len(facts) if what == "settlements" else 2 * RUNS)
        await world.lose_tail(kept)
        history = await world.verdict(
            unhandled=dict.fromkeys(world.groups, facts[: 2 * RUNS]) if what == "deliveries" else None
        )
        assert len(history.accepted) == len(facts)


async def test_nothing_is_relayed_from_memory() -> None:
    """An effect was on its way to another partition when the server forgot it: it lands with the settlement that is kept."""
    async with the_world(visibility_seconds=120.0) as world, fault_proxy(world.server.socket) as proxy:
        await world.begin_worker(url=proxy.url)
        facts = await world.told(2, runs=RUNS, data={"gate": "g"})
        at_once = [fact for fact in facts if fact.n == 1]
        await until(lambda: world.begun(at_once) == RUNS * len(world.groups), "they are handled", 20)
        kept = world.aof_bytes()
        proxy.hold_at(load_script("relay").sha)
        world.open_gate("g")
        await until(lambda: proxy.holds, "an effect is on its way", 20)
        await world.lose_tail(kept)
        proxy.let_go()
        await world.verdict(deadline=15)
