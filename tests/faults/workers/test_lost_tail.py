"""A server that forgets what it acknowledged a moment ago, as with everysec: whoever lives makes up for it."""

from __future__ import annotations

from contextlib import suppress

from processor.store.scripts import load_script
from tests.faults import recurring
from tests.faults.workers.oracle import MARK
from tests.faults.workers.world import SHORT_OR_LONG, World, the_world
from tests.support.proxy import fault_proxy
from tests.support.until import until

MARKS = 3
APPENDS = b"tailrace-append"  # name of the connection
PATIENCE = 1.5  # seconds
EFFECTS = 12


async def test_no_end_before_what_was_lost_is_there_again() -> None:
    """A live event was lost, its function is over, and its end arrives first: the run does not end without the event."""
    settle = load_script("settle").sha
    async with the_world(visibility_seconds=120.0) as world, fault_proxy(world.server.socket) as proxy:
        await world.begin_worker(url=proxy.url)
        (run,) = await world.runs_of("work", 1, marks=MARKS, gate="g")
        await until(lambda: _marks(world, run, MARKS - 1), "all but the last event are there", 20)
        kept = world.aof_bytes()
        proxy.hold_at(settle)
        world.open_gate("g")
        await until(lambda: proxy.holds, "the end is on its way", 20)
        assert await _marks(world, run, MARKS)
        proxy.refused = APPENDS
        await world.lose_tail(kept)
        assert await _marks(world, run, MARKS - 1)
        proxy.let_go()
        with suppress(AssertionError):  # the end comes first if it can
            await until(lambda: world.succeeded(), "the run has ended", PATIENCE)
        proxy.refused = None
        await world.verdict()
        assert await _marks(world, run, MARKS)


async def _marks(world: World, run: str, count: int) -> bool:
    """Whether so many live events of the run are there."""
    feed = (await world.history()).feeds[run]
    return sum(event.type == MARK for event in feed) == count


@SHORT_OR_LONG
async def test_lost_tails(seconds: float) -> None:
    """The server dies and has forgotten what it acknowledged a moment ago, again and again: nothing that producers and
    workers alive know of is lost, and no effect lands twice."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_workers(3)
        await world.begin_producer(pause=0.02)
        await world.begin_producer(pause=0.05, input={"fails": 1})
        lost = await recurring.lose_tails(world, seconds)
        await world.verdict()
        print(f"  the server forgot {lost} bytes")
        assert lost > 0


async def test_nothing_is_relayed_from_memory() -> None:
    """An effect was on its way to another partition when the server forgot it: it lands with the attempt that is kept."""
    relay = load_script("relay").sha
    async with the_world(visibility_seconds=120.0) as world, fault_proxy(world.server.socket) as proxy:
        await world.begin_worker(url=proxy.url)
        runs = await world.runs_of("silent", EFFECTS, gate="g")
        await until(lambda: world.begun(*runs) == EFFECTS, "all are executed", 20)
        kept = world.aof_bytes()
        proxy.hold_at(relay)
        world.open_gate("g")
        await until(lambda: proxy.holds, "an effect is on its way", 20)
        await world.lose_tail(kept)
        proxy.let_go()
        await world.verdict(deadline=10)
