"""A killed owner's run ends within the promised time; a server that was away ends nobody's run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from processor.client.tailrace import Tailrace
from processor.core.events import Event
from processor.core.settings import Settings
from tests.faults.oracle import judge_accepted
from tests.faults.producers import Order, accepted_in
from tests.faults.world import World, the_world
from tests.support.until import until

OWNER_SECONDS = 1.5
PASS_SECONDS = OWNER_SECONDS / 6 * 1.2  # of a gateway, at most
SLACK_SECONDS = 1.0  # for processes that wait for a core


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with the_world(owner_seconds=str(OWNER_SECONDS), drain_seconds="0") as world:
        yield world


@pytest.fixture
async def tail(world: World) -> AsyncIterator[Tailrace]:
    """For looking: it owns nothing, so it makes no passes."""
    async with Tailrace(settings=Settings(redis_url=world.url, owner_seconds=OWNER_SECONDS)) as tail:
        yield tail


async def owned(world: World, kind: str) -> Order:
    """An owner that is in the midst of its answer."""
    order = world.produce(world.order(kind, kind, kind, "seed", owner_seconds=OWNER_SECONDS))
    await until(lambda: len(accepted_in(order)) > 20, f"the {kind} has written", 15)
    return order


async def more_from(order: Order) -> None:
    """Returns when it has been told that more of its events are taken."""
    before = len(accepted_in(order))
    await until(lambda: len(accepted_in(order)) > before + 20, f"{order.name} goes on", 10)


async def last_of(tail: Tailrace, run: str) -> Event[dict[str, object]]:
    events = [event async for event in tail.run(run).follow()]
    return events[-1]


@pytest.mark.parametrize("kind", ["task", "block"])
async def test_killed_owner_is_told(world: World, tail: Tailrace, kind: str) -> None:
    """By a gateway's pass the run ends as run.failed {owner_lost} within a term and a pass, with all that was accepted."""
    order = await owned(world, kind)
    _, program = world.producers[kind]
    program.kill()
    told_before = await world.truth(order.run)
    last = await asyncio.wait_for(last_of(tail, order.run), 10)
    assert (last.type, last.data["reason"]) == ("run.failed", "owner_lost")
    silent = (int(last.id.partition("-")[2]) - int(told_before.tail.partition("-")[2])) / 1000
    assert silent < OWNER_SECONDS + PASS_SECONDS + SLACK_SECONDS
    truth = await world.truth(order.run)
    assert judge_accepted(truth, accepted_in(order)) == []
    assert (await tail.run(order.run).state()).status == "failed"


async def test_frozen_owner_changes_nothing_afterwards(world: World, tail: Tailrace) -> None:
    """An owner that stood still for longer than its term finds its run ended, and adds nothing behind the end."""
    order = await owned(world, "task")
    _, program = world.producers["task"]
    program.send(signal.SIGSTOP)
    last = await asyncio.wait_for(last_of(tail, order.run), 10)
    assert last.data["reason"] == "owner_lost"
    tail_id = (await world.truth(order.run)).tail
    program.send(signal.SIGCONT)
    await program.says("run_ended_elsewhere", 10)
    assert (await world.truth(order.run)).tail == tail_id == last.id


async def test_away_server_ends_no_healthy_run(world: World) -> None:
    """A server that is away for longer than a term comes back, and owners that live go on with their runs."""
    orders = [await owned(world, kind) for kind in ("task", "block")]
    for _ in range(2):
        await world.kill_server()
        await asyncio.sleep(OWNER_SECONDS * 1.5)
        await world.start_server()
        for order in orders:
            await more_from(order)
    assert await world.finish_producers(10) == []
    for order in orders:
        truth = await world.truth(order.run)
        assert b'"type":"run.finished"' in truth.events[-1][1]
        assert judge_accepted(truth, accepted_in(order)) == []
    assert world.bugs() == []
