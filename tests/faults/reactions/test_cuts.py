"""Connections of workers break in the midst of what is said over them."""

from __future__ import annotations

import pytest

from tests.faults.cuts import cut_connections, cutting
from tests.faults.reactions.oracle import judge_once
from tests.faults.reactions.world import SHORT_OR_LONG, the_world
from tests.support.proxy import Break, fault_proxy

FACTS = 10  # of each run


@pytest.mark.parametrize(
    "asked", ["pull", "emit", *(pytest.param(n, marks=pytest.mark.soak) for n in ("read", "react"))]
)
async def test_reply_cut_off(asked: str) -> None:
    """The reply to a read or a settlement is cut off: it was done, and is not done again, long before any claim."""
    async with the_world(visibility_seconds=120.0) as world, fault_proxy(world.server.socket) as proxy:
        proxy.plan = cutting(asked, 80)
        await world.begin_worker(url=proxy.url)
        facts = await world.told(FACTS)
        history = await world.verdict()
        for group in world.groups:
            assert judge_once(history, group, facts) == []
        print(f"  {proxy.broke} of {proxy.opened} connections broke")
        assert proxy.broke >= 2, "hardly anything was cut: the test tested nothing"


@SHORT_OR_LONG
async def test_cut_connections(seconds: float) -> None:
    """Every connection of every worker breaks sooner or later, in mid-reply: what was accepted is applied once."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        await world.begin_workers(3, url=proxy.url)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.2, data={"flaky": 0.1})
        await cut_connections(world, proxy, seconds)
        await world.verdict(deadline=90)
        print(f"  {proxy.broke} of {proxy.opened} connections broke")


async def test_half_open_connections() -> None:
    """A worker whose network fell silent in mid-work loses its events to another; hearing again, it changes nothing."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        await world.begin_worker("silent", url=proxy.url)
        facts = await world.told(1, data={"gate": "g"})
        await world.all_begin(facts, "silent")
        proxy.plan = lambda number: Break(0, "silent")  # it may connect again, and hears nothing there either
        proxy.break_all("silent")
        await world.begin_worker("heir")
        await world.all_begin(facts, "heir")
        world.open_gate("g")
        proxy.plan = None
        await world.verdict()
