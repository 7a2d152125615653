"""Workers that stood still: what they held goes on without them, and what they do afterwards changes nothing."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from processor.store.scripts import load_script
from tests.faults import recurring
from tests.faults.workers.oracle import judge_once, lost_executions
from tests.faults.workers.world import SHORT_OR_LONG, World, the_world
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.until import until

RUNS = 12
VISIBILITY = 1.0


@pytest.mark.parametrize("wakes", ["before the heir ends", "after it"])
@pytest.mark.parametrize("consumer", [None, "same"], ids=["another consumer", "same consumer"])
async def test_frozen_worker_changes_nothing_afterwards(consumer: str | None, wakes: str) -> None:
    """SIGSTOP beyond the visibility timeout, then SIGCONT: another has its work by then, and nothing of the zombie lands."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        zombie = await world.begin_worker("zombie", consumer=consumer)
        runs = await world.runs_of("work", RUNS // 2, gate="g") + await world.runs_of("silent", RUNS // 2, gate="g")
        await until(lambda: world.begun(*runs) == RUNS, "the first worker executes all of them", 20)
        zombie.send(signal.SIGSTOP)
        heir = await world.begin_worker("heir", consumer=consumer)
        await until(lambda: world.begun(*runs) == 2 * RUNS, "the second worker has taken all of them over", 20)
        if wakes == "before the heir ends":
            zombie.send(signal.SIGCONT)
            world.open_gate("g")
        else:
            world.open_gate("g")
            await until(lambda: _ended(world, RUNS), "the second worker has finished all of them", 20)
            zombie.send(signal.SIGCONT)
        await world.stop_worker(zombie)  # drained: whatever it had to say, it has said
        await world.stop_worker(heir)
        history = await world.verdict()
        assert [feed[-1].attempt for feed in history.feeds.values()] == [2] * RUNS


async def test_late_start_changes_nothing() -> None:
    """A start that arrives when another worker executes the run by now: it goes on there, undisturbed."""
    async with late_worker("start") as (world, proxy):
        runs = await world.runs_of("work", RUNS, gate="g")
        late = await world.begin_worker("late", url=proxy.url)
        await until(lambda: proxy.holds, "a start is on its way", 20)
        await world.begin_worker("heir")
        await until(lambda: world.begun(*runs) == RUNS, "the second worker executes all of them", 20)
        proxy.let_go()
        await world.stop_worker(late)  # drained: it has its answers
        world.open_gate("g")
        history = await world.verdict()
        assert judge_once(history, runs) == []
        assert {begun.who for begun in history.begun} == {"heir"}


async def test_late_settlement_changes_nothing() -> None:
    """A settlement that arrives when another worker has done the work again: effects are those of the second attempt."""
    async with late_worker("settle") as (world, proxy):
        runs = await world.runs_of("silent", RUNS)
        late = await world.begin_worker("late", url=proxy.url)
        await until(lambda: proxy.holds, "a settlement is on its way", 20)
        await world.begin_worker("heir")
        await until(lambda: _ended(world, RUNS), "the second worker has finished all of them", 20)
        proxy.let_go()
        await world.stop_worker(late)
        history = await world.verdict()
        assert max(history.feeds[run][-1].attempt or 0 for run in runs) == 2


@SHORT_OR_LONG
async def test_frozen_now_and_then(seconds: float) -> None:
    """Under load workers stand still for longer than the visibility timeout and go on: no effect lands twice."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(3)
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.05, input={"pause_ms": 100})
        frozen = await recurring.freeze_workers(world, seconds)
        history = await world.verdict()
        print(f"  workers were frozen {frozen} times, {lost_executions(history)} executions were lost")


@asynccontextmanager
async def late_worker(asked: str) -> AsyncIterator[tuple[World, FaultProxy]]:
    """A way to the server on which, from the first such call on, nothing arrives for a while."""
    async with the_world(visibility_seconds=VISIBILITY) as world, fault_proxy(world.server.socket) as proxy:
        proxy.hold_at(load_script(asked).sha)
        yield world, proxy


async def _ended(world: World, count: int) -> bool:
    return await world.succeeded() == count


async def test_blocked_loop_runs_once() -> None:
    """A function that holds its process for three visibility timeouts keeps its work, and so do its neighbours."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_worker()
        beside = await world.runs_of("work", 5, gate="g")
        blocking = await world.runs_of("blocking", 1, seconds=3.0)
        await until(lambda: world.begun(*beside, *blocking) == 6, "the first worker executes them", 20)
        await world.begin_worker()
        others = await world.runs_of("work", 20)
        await until(lambda: _ended(world, 21), "what may end has ended", 20)
        world.open_gate("g")
        history = await world.verdict()
        assert judge_once(history, [*beside, *blocking, *others]) == []
