"""Connections of workers break in the midst of what is said over them."""

from __future__ import annotations

import pytest

from tests.faults.cuts import cut_connections, cutting
from tests.faults.workers.oracle import judge_once
from tests.faults.workers.world import SHORT_OR_LONG, the_world
from tests.support.proxy import Break, fault_proxy
from tests.support.until import until

RUNS = 60


@pytest.mark.parametrize("asked", ["read", "start", "settle"])
async def test_reply_cut_off(asked: str) -> None:
    """The reply to a read, start or settle is cut off: it was done, and is not done again, long before any claim."""
    async with the_world(visibility_seconds=120.0) as world, fault_proxy(world.server.socket) as proxy:
        proxy.plan = cutting(asked, 20)
        await world.begin_worker(url=proxy.url)
        runs = await world.runs_of("work", RUNS)
        history = await world.verdict()
        assert judge_once(history, runs) == []
        print(f"  {proxy.broke} of {proxy.opened} connections broke")
        assert proxy.broke >= 2, "hardly anything was cut: the test tested nothing"


@SHORT_OR_LONG
async def test_cut_connections(seconds: float) -> None:
    """Every connection of every worker breaks sooner or later, in mid-reply: nothing is lost, no effect lands twice."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        await world.begin_workers(3, url=proxy.url)
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.05, input={"fails": 1})
        await cut_connections(world, proxy, seconds)
        await world.verdict(deadline=90)
        print(f"  {proxy.broke} of {proxy.opened} connections broke")


@pytest.mark.parametrize("seconds", [0.0, pytest.param(30.0, marks=pytest.mark.soak)], ids=["short", "long"])
async def test_half_open_connections(seconds: float) -> None:
    """A worker whose network fell silent in mid-work loses it to another; hearing again, it changes nothing."""
    async with the_world(visibility_seconds=1.0) as world, fault_proxy(world.server.socket) as proxy:
        cut_off = await world.begin_worker(url=proxy.url)
        runs = await world.runs_of("work", RUNS // 3, gate="g")
        await until(lambda: world.begun(*runs) == len(runs), "the first worker executes all of them", 20)
        proxy.plan = lambda number: Break(0, "silent")  # it may connect again, and hears nothing there either
        proxy.break_all("silent")
        await world.begin_worker()
        await until(lambda: world.begun(*runs) == 2 * len(runs), "the second worker has taken all of them over", 20)
        world.open_gate("g")
        proxy.plan = None
        if seconds:  # time enough for the first worker to notice
            await until(lambda: "appends_go_on" in cut_off.said, "the first worker hears again", seconds)
            await world.stop_worker(cut_off, 60)
        history = await world.verdict()
        assert [feed[-1].attempt for feed in history.feeds.values()] == [2] * len(runs)
