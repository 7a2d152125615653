"""Parents whose workers die find the children that they had."""

from __future__ import annotations

import time

from tests.faults import recurring
from tests.faults.crew import short_or_long
from tests.faults.workers.world import the_world
from tests.support.until import until

CHILDREN = 6  # of each family


@short_or_long(6.0)
async def test_families_of_killed_workers(seconds: float) -> None:
    """kill -9 of parents and children in mid-work: each parent gets its results, of children that were started once."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_workers(3)
        await world.begin_producer(task="family", pause=0.2, burst=4)
        killed = await recurring.kill_workers(world, seconds, functions=60)
        history = await world.verdict(deadline=60)
        attempts = [sum(event.type == "run.started" for event in history.feeds[run]) for run in history.accepted]
        print(f"  {killed} workers killed, {sum(attempts)} attempts of {len(attempts)} parents")
        assert max(attempts) > 1, "no parent lost its worker: the test tested nothing"
        for parent in history.accepted:
            children = [run for run in history.feeds if run.startswith(f"{parent}~")]
            assert len(children) == CHILDREN, f"FAULTS_SEED={world.seed}: {parent} has {children}"
            last = history.feeds[parent][-1]
            assert (last.type, last.data) == ("run.finished", {"result": {"marks": 0, "of_children": 9}})


async def test_a_parent_under_suspicion_does_not_wait_for_itself() -> None:
    """A parent whose workers died twice runs alone, but not while it waits: the only worker executes its children meanwhile."""
    async with the_world(visibility_seconds=3.0) as world:
        await world.begin_worker()
        (parent,) = await world.runs_of("family", 1, pause_ms=50)
        for times in (1, 2):
            await until(lambda times=times: world.begun(parent) == times, f"it is executed, time {times}", 30)  # type: ignore[misc]
            await world.kill_worker(next(iter(world.workers.values())))
            await world.begin_worker()
        await until(lambda: world.begun(parent) == 3, "it is executed alone", 30)
        begin = time.monotonic()
        await until(lambda: world.succeeded(), "it and its children have ended", 20)
        await world.verdict()
        history = await world.history()
        started = [event for event in history.feeds[parent] if event.type in ("run.started", "run.finished")]
        assert [event.type for event in started] == ["run.started"] * 3 + ["run.finished"]
        assert started[-1].ms - started[-2].ms < 2500, f"{time.monotonic() - begin:.1f} s"


async def test_a_child_that_kills_its_process_ends_alone() -> None:
    """A child that kills every worker which touches it is given up, and its parent, which was there each time, is told so."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_worker()
        (parent,) = await world.runs_of("guardian", 1)

        async def ended() -> bool:
            await world.replace_dead()
            return await world.field(parent, "status") in ("succeeded", "failed")

        await until(ended, "the parent has ended", 60)
        history = await world.history()
        end = history.feeds[parent][-1]
        assert (end.type, end.data) == ("run.finished", {"result": {"marks": 0, "reason": "poison"}})
