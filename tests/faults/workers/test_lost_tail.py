"""A server that forgets what it acknowledged a moment ago, as with everysec: whoever lives makes up for it."""

from __future__ import annotations

from contextlib import suppress

import pytest

from processor.store.scripts import load_script
from tests.faults.workers.oracle import MARK
from tests.faults.workers.world import World, the_world
from tests.support.proxy import fault_proxy
from tests.support.until import until

MARKS = 3
APPENDS = b"tailrace-append"  # name of the connection
PATIENCE = 1.5  # seconds


@pytest.mark.xfail(strict=True, reason="settle does not yet ask whether the live events before it are still there")
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


async def _marks(world: World, run: str, count: int) -> bool:
    """Whether so many live events of the run are there."""
    feed = (await world.history()).feeds[run]
    return sum(event.type == MARK for event in feed) == count
