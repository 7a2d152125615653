"""Workers that stood still: what they held goes on without them, and what they do afterwards changes nothing."""

from __future__ import annotations

import signal

import pytest

from processor.store.scripts import load_script
from tests.faults import recurring
from tests.faults.reactions.oracle import judge_once
from tests.faults.reactions.world import SHORT_OR_LONG, the_world
from tests.support.proxy import fault_proxy
from tests.support.until import until

VISIBILITY = 1.0
RUNS = 8


@pytest.mark.parametrize("wakes", ["before the heir ends", pytest.param("after it", marks=pytest.mark.soak)])
@pytest.mark.parametrize("consumer", [None, "same"], ids=["another consumer", "same consumer"])
async def test_frozen_worker_changes_nothing_afterwards(consumer: str | None, wakes: str) -> None:
    """SIGSTOP beyond the visibility timeout, then SIGCONT: another has its events by then, and nothing of the zombie lands."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        zombie = await world.begin_worker("zombie", consumer=consumer)
        facts = await world.told(1, runs=RUNS, data={"gate": "g"})
        await world.all_begin(facts, "zombie")
        zombie.send(signal.SIGSTOP)
        heir = await world.begin_worker("heir", consumer=consumer)
        await world.all_begin(facts, "heir")
        if wakes == "before the heir ends":
            zombie.send(signal.SIGCONT)
            world.open_gate("g")
        else:
            world.open_gate("g")
            for group in world.groups:
                await world.handles(group, RUNS)
            zombie.send(signal.SIGCONT)
        await world.stop_worker(zombie)  # drained: whatever it had to say, it has said
        await world.stop_worker(heir)
        await world.begin_worker()  # for what either gave back
        await world.verdict()


async def test_late_settlement_changes_nothing() -> None:
    """A settlement that arrives when another worker has handled the event again: its effects are void."""
    async with the_world(visibility_seconds=VISIBILITY) as world, fault_proxy(world.server.socket) as proxy:
        proxy.hold_at(load_script("react").sha)
        late = await world.begin_worker("late", url=proxy.url)
        facts = await world.told(2, runs=RUNS)
        await until(lambda: proxy.holds, "a settlement is on its way", 20)
        await world.begin_worker("heir")
        for group in world.groups:
            await world.handles(group, len(facts))
        proxy.let_go()
        await world.stop_worker(late)
        history = await world.verdict()
        assert any(judge_once(history, group, facts) for group in world.groups), "nothing was handled again"


@SHORT_OR_LONG
async def test_frozen_now_and_then(seconds: float) -> None:
    """Under load workers stand still for longer than the visibility timeout and go on: no effect lands twice."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_workers(3)
        await world.begin_producer(pause=0.1)
        await world.begin_producer(pause=0.2, data={"pause_ms": 100})
        frozen = await recurring.freeze_workers(world, seconds)
        await world.verdict()
        print(f"  workers were frozen {frozen} times")


async def test_blocked_loop_keeps_its_events() -> None:
    """A handler that holds its process for three visibility timeouts keeps its event, and so do its neighbours."""
    async with the_world(visibility_seconds=VISIBILITY) as world:
        await world.begin_worker()
        beside = await world.told(1, runs=5, data={"gate": "g"})
        await until(lambda: world.begun(beside) == 5 * len(world.groups), "the neighbours are handled", 20)
        blocking = await world.told(1, runs=1, data={"block": [world.groups[0]]})
        await until(lambda: world.begun(blocking, world.groups[0]) == 1, "the loop is blocked", 20)
        await world.begin_worker()
        others = await world.told(3)
        for group in world.groups[1:]:
            await world.handles(group, len(others) + len(blocking) - 1)
        world.open_gate("g")
        history = await world.verdict()
        assert judge_once(history, world.groups[0], [*beside, *blocking]) == []
        for group in (
            one for one in world.groups if one != "ordered"
        ):  # there who joins may take over what waits too long
            assert judge_once(history, group, beside) == []
