"""A server that lost its last second: living producers send it again, dead ones leave a shorter feed, and readers are told."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from tests.faults.oracle import Accepted, judge_accepted, judge_record, judge_truth
from tests.faults.producers import Order, accepted_in
from tests.faults.subscribers import LibrarySubscriber, SseSubscriber, Subscriber
from tests.faults.world import NAMESPACE, World, the_world
from tests.support.until import until

OWNER_SECONDS = 5.0
MORE = 25  # events of each producer that the server loses


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with the_world(owner_seconds=str(OWNER_SECONDS), heartbeat_seconds="1") as world:
        yield world


@pytest.fixture
async def tail(world: World) -> AsyncIterator[Tailrace]:
    async with Tailrace(settings=Settings(redis_url=world.url, owner_seconds=OWNER_SECONDS)) as tail:
        yield tail


class Readers:
    """A few subscribers of each run."""

    def __init__(self, world: World, tail: Tailrace, seed: str) -> None:
        self.world, self.tail, self.seed = world, tail, seed
        self.all: list[Subscriber] = []
        self.tasks: list[asyncio.Task[None]] = []

    def join(self, run: str, count: int = 3) -> None:
        for number in range(count):
            rng = random.Random(f"{self.seed}/{run}/{number}")
            one: Subscriber
            if number == 0:
                one = LibrarySubscriber(f"{run}-{number}", run, rng, self.tail)
            else:
                one = SseSubscriber(f"{run}-{number}", run, rng, self.world.ports, namespace=NAMESPACE)
            one.calm = number < 2
            self.all.append(one)
            self.tasks.append(asyncio.create_task(one.follow()))

    async def judged(self, runs: list[str]) -> list[str]:
        """Waits until all have the tail of their run, then compares."""
        for one in self.all:
            one.calm = True
        truths = {run: await self.world.truth(run) for run in runs}
        late = []
        try:
            await until(lambda: all(s.record.cursor == truths[s.record.run].tail for s in self.all), "all have all", 20)
        except AssertionError as error:
            late.append(str(error))
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        complaints = [complaint for truth in truths.values() for complaint in judge_truth(truth)]
        for one in self.all:
            complaints += judge_record(truths[one.record.run], one.record) + one.complaints
        return complaints + late

    @property
    def restarts(self) -> int:
        return sum(one.record.restarts for one in self.all)


async def more_from(order: Order, count: int = MORE) -> None:
    before = len(accepted_in(order))
    await until(lambda: len(accepted_in(order)) >= before + count, f"{order.name} was told of {count} more events", 15)


def unnamed(order: Order) -> list[Accepted]:
    """What it was told, less the IDs: an event that is sent again gets another time."""
    return [replace(told, id=None) for told in accepted_in(order)]


@pytest.mark.parametrize("times", [1, 2, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(0)])])
async def test_living_producers_lose_nothing(world: World, tail: Tailrace, times: int) -> None:
    """What was accepted and then lost by the server is in the feed once, in its order, by whatever way it came."""
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    kinds = ["numbered", "anonymous", "source", "task", "block"]
    orders = [
        world.produce(world.order(kind, kind, kind, seed, owner_seconds=OWNER_SECONDS, pause=0.03)) for kind in kinds
    ]
    await asyncio.gather(*(more_from(order) for order in orders))
    readers = Readers(world, tail, seed)
    for kind in kinds:
        readers.join(kind)
    for _ in range(times):
        await asyncio.gather(*(more_from(order, 10) for order in orders))
        kept = world.aof_bytes()
        await asyncio.gather(*(more_from(order) for order in orders))
        await world.lose_tail(kept)
        await asyncio.gather(*(more_from(order) for order in orders))
    complaints = await world.finish_producers(20)
    complaints += await readers.judged(kinds)
    for order in orders:
        complaints += judge_accepted(await world.truth(order.run), unnamed(order), loose={"anonymous"})
    print(f"restarts told: {readers.restarts}")
    assert complaints + world.bugs() == []
    assert readers.restarts > 0


@pytest.mark.parametrize("kind", ["numbered", "source", "task"])
async def test_dead_producer_leaves_a_shorter_feed(world: World, tail: Tailrace, kind: str) -> None:
    """What nobody has any more is missing at the end and nowhere else, and who had read it is told that it is gone."""
    order = world.produce(world.order(kind, kind, kind, "seed", owner_seconds=OWNER_SECONDS, pause=0.03))
    await more_from(order)
    readers = Readers(world, tail, "seed")
    readers.join(kind)
    await until(lambda: all(s.record.events for s in readers.all), "all read", 10)
    kept = world.aof_bytes()
    await more_from(order, 3 * MORE)
    _, program = world.producers[kind]
    program.kill()
    full = await world.truth(kind)
    await until(lambda: all(s.record.cursor == full.tail for s in readers.all), "all have read what will be lost", 10)
    await world.lose_tail(kept)
    if kind == "task":
        await until(lambda: _failed(world, kind), "the dead owner's run has failed", OWNER_SECONDS * 2 + 5)
    assert await readers.judged([kind]) == []
    short = await world.truth(kind)
    own = [pair for pair in short.events if b'"reason":"owner_lost"' not in pair[1]]
    assert own == list(full.events[: len(own)])
    assert len(own) < len(full.events)
    assert all(one.record.restarts for one in readers.all)
    assert world.bugs() == []


async def _failed(world: World, run: str) -> bool:
    return await world.status(run) == "failed"
