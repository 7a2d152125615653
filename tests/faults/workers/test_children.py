"""Parents whose workers die find the children that they had."""

from __future__ import annotations

import time

from tests.faults.workers.world import the_world

CHILDREN = 6  # of each family


async def test_families_of_killed_workers() -> None:
    """kill -9 of parents and children in mid-work: each parent gets its results, of children that were started once."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_workers(3)
        await world.begin_producer(task="family", pause=0.2, burst=4)
        end, killed = time.monotonic() + 6, 0
        while time.monotonic() < end:
            await world.goes_on(world.rng.randint(1, 60))
            await world.kill_worker(world.rng.choice([*world.workers.values()]))
            await world.begin_worker()
            killed += 1
        history = await world.verdict(deadline=60)
        attempts = [sum(event.type == "run.started" for event in history.feeds[run]) for run in history.accepted]
        print(f"  {killed} workers killed, {sum(attempts)} attempts of {len(attempts)} parents")
        assert max(attempts) > 1, "no parent lost its worker: the test tested nothing"
        for parent in history.accepted:
            children = [run for run in history.feeds if run.startswith(f"{parent}~")]
            assert len(children) == CHILDREN, f"FAULTS_SEED={world.seed}: {parent} has {children}"
            last = history.feeds[parent][-1]
            assert (last.type, last.data) == ("run.finished", {"result": {"marks": 0, "of_children": 9}})
