"""Connections of workers break in the midst of what is said over them."""

from __future__ import annotations

import asyncio
import time

import pytest

from processor.store.scripts import load_script
from tests.faults.workers.oracle import judge_once
from tests.faults.workers.world import LONG_SECONDS, the_world
from tests.support.proxy import Break, How, Plan, fault_proxy

SHORT_OR_LONG = pytest.mark.parametrize(
    "seconds",
    [5.0, pytest.param(LONG_SECONDS, marks=[pytest.mark.soak, pytest.mark.timeout(0)])],
    ids=["short", "long"],
)
RUNS = 60
HOWS: tuple[How, ...] = ("close", "reset", "silent")
AFTER = (0, 1, 30, 4, 200)


def cutting(asked: bytes, count: int) -> Plan:
    """Of the first so many connections each breaks where it asks for it, in ways that take turns."""

    def plan(number: int) -> Break | None:
        return Break(AFTER[number % len(AFTER)], HOWS[number % 2], asked) if number <= count else None

    return plan


@pytest.mark.parametrize("asked", ["read", "start", "settle"])
async def test_reply_cut_off(asked: str) -> None:
    """The reply to a read, start or settle is cut off: it was done, and is not done again, long before any claim."""
    word = b"XREADGROUP" if asked == "read" else load_script(asked).sha
    async with the_world(visibility_seconds=120.0) as world, fault_proxy(world.server.socket) as proxy:
        proxy.plan = cutting(word, 20)
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

        def plan(number: int) -> Break:
            how = world.rng.choices(HOWS, [6, 6, 1])[0]
            return Break(after=world.rng.choice([0, world.rng.randint(1, 100), world.rng.randint(1, 20_000)]), how=how)

        await world.begin_workers(3, url=proxy.url)
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.05, input={"fails": 1})
        proxy.plan = plan
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(world.rng.uniform(0, 0.6))
            proxy.break_all(world.rng.choices(HOWS, [6, 6, 1])[0])
        proxy.plan = None
        proxy.break_all("reset")
        await world.verdict()
        print(f"  {proxy.broke} of {proxy.opened} connections broke")
        assert proxy.broke >= 10
