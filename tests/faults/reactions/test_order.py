"""What fails in an ordered group holds its run, not its partition."""

from __future__ import annotations

from tests.faults.reactions.oracle import judge_alone, judge_once
from tests.faults.reactions.test_poison import letters
from tests.faults.reactions.world import the_world
from tests.support.until import until

RUNS = 8
LIMIT = 3  # tries


async def test_failed_event_holds_its_run_alone() -> None:
    """An event of one run fails for a while: what follows it in its run waits, all other runs of the partition go on."""
    async with the_world(visibility_seconds=120.0, partitions=1) as world:
        world.groups = ("ordered",)
        await world.begin_workers(2)
        failing = await world.told(4, runs=1, special={1: {"fails": {"ordered": 12}}})
        others = await world.told(10, runs=RUNS)
        history = await world.verdict()
        assert world.begun(failing, "ordered") == 12 + len(failing)
        assert judge_once(history, "ordered", others) == []
        assert judge_alone(history, "ordered") == []
        ends = [line.fact for line in history.journal if line.what == "ends"]
        assert ends.index(failing[0]) > ends.index(others[-1]), "the others waited for the run that failed"


async def test_dead_letter_lets_its_run_go_on() -> None:
    """An event that is given up leaves a letter, and what follows it in its run is handled, in order."""
    async with the_world(visibility_seconds=120.0) as world:
        world.groups = ("few-ordered", "first")
        await world.begin_workers(2)
        facts = await world.told(5, runs=RUNS, special={2: {"fail": ["few-ordered"]}})
        dead = [fact for fact in facts if fact.n == 2]
        history = await world.verdict(dead={"few-ordered": dead})
        assert world.begun(dead, "few-ordered") == LIMIT * RUNS
        assert judge_once(history, "few-ordered", [fact for fact in facts if fact.n != 2]) == []
        assert judge_alone(history, "few-ordered") == []


async def test_dead_letter_stops_its_run() -> None:
    """With on_dead="stop" nothing of that run is handled behind it: each event becomes a letter that says so; other runs go
    on, and it holds when another worker takes over."""
    async with the_world(visibility_seconds=1.0) as world:
        world.groups = ("strict", "first")
        worker = await world.begin_worker()
        stopped = await world.told(4, runs=2, special={2: {"fail": ["strict"]}})
        others = await world.told(4, runs=RUNS)
        await world.handles("strict", len(others) + 2)
        await world.kill_worker(worker)
        await world.begin_worker()
        dead = [fact for fact in stopped if fact.n >= 2]
        more = await world.told(2, runs=RUNS)
        history = await world.verdict(dead={"strict": dead})
        reasons = sorted(str(letter["reason"]) for letter in await letters(world, "strict"))
        assert reasons == ["error"] * 2 + ["stopped"] * 4
        assert judge_once(history, "strict", more) == []
        assert world.begun([fact for fact in dead if fact.n > 2], "strict") == 0


async def test_poison_in_an_ordered_group() -> None:
    """An event that kills each process that handles it is given up; its run and all others go on behind it, in order."""
    async with the_world(visibility_seconds=1.0) as world:
        world.groups = ("few-ordered",)
        await world.begin_workers(2)
        facts = await world.told(6, runs=RUNS, data={"pause_ms": 20})
        poisoned = await world.told(4, runs=1, special={2: {"kill": ["few-ordered"]}})
        facts += await world.told(6, runs=RUNS, data={"pause_ms": 20})
        killer = poisoned[1]
        deaths = 0

        async def rests() -> bool:
            nonlocal deaths
            deaths += await world.replace_dead()
            return len(await letters(world, "few-ordered")) > 0

        await until(rests, "the poison is given up", 60)
        await world.verdict(dead={"few-ordered": [killer]})
        assert deaths == world.begun([killer])
        assert LIMIT <= deaths <= LIMIT + 1  # nobody knows whether it had begun in the first process that died with it
