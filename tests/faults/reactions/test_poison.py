"""What kills its process ends as a dead letter and takes no neighbour along; what fails is tried again in its group alone."""

from __future__ import annotations

import json

from tests.faults.reactions.oracle import Fact, judge_once
from tests.faults.reactions.world import World, the_world
from tests.support.until import until

NEIGHBOURS = 6  # facts of each run
RUNS = 8
LIMIT = 3  # tries of `few`


async def _given_up(world: World, group: str, count: int) -> bool:
    async with world.client() as client:
        keys = await world.keys(client)
        found = [int(await client.xlen(partition.dead_group(group))) for partition in keys.partitions]
    return sum(found) >= count


async def test_poison_ends_as_dead_letter() -> None:
    """An event that kills every worker which handles it is given up after its tries; all that was handled beside it ends
    well, and the other group, whose handler it does not kill, has it once."""
    async with the_world(visibility_seconds=1.0) as world:
        world.groups = ("few", "second")
        await world.begin_workers(2)
        poison = {"data": {"pause_ms": 100}, "special": {1: {"kill": ["few"]}}}
        facts = await world.told(NEIGHBOURS, runs=RUNS, data={"pause_ms": 100})
        (killer,) = await world.told(1, runs=1, **poison)
        facts += await world.told(NEIGHBOURS, runs=RUNS, data={"pause_ms": 100})
        deaths = 0

        async def ended() -> bool:
            nonlocal deaths
            deaths += await world.replace_dead()
            return await _given_up(world, "few", 1)

        await until(ended, "the poison is given up", 60)
        history = await world.verdict(dead={"few": [killer]})
        assert deaths == LIMIT
        assert world.begun([killer], "few") == LIMIT
        assert [letter["reason"] for letter in await letters(world, "few")] == ["poison"]
        assert len(history.accepted) == len(facts) + 1


async def test_innocent_suspects_get_their_turn() -> None:
    """Events that were under way each time the poison killed their process are handled in the end, all of them: waiting for
    their turn beside it is no try."""
    async with the_world(visibility_seconds=1.0, partitions=1) as world:
        world.groups = ("few",)
        await world.stop_worker(await world.begin_worker())  # it binds the group
        (killer,) = await world.told(1, runs=1, data={"pause_ms": 300, "kill": ["few"]})
        beside = await world.told(1, runs=NEIGHBOURS * RUNS, data={"gate": "g"})
        deaths = 0
        await world.begin_worker()

        async def died() -> bool:
            nonlocal deaths
            deaths += await world.replace_dead()
            return deaths == LIMIT - 1

        await until(died, "it has killed two workers", 30)
        world.open_gate("g")

        async def ended() -> bool:
            await world.replace_dead()
            return await _given_up(world, "few", 1)

        await until(ended, "the poison is given up", 60)
        history = await world.verdict(dead={"few": [killer]})
        assert len(history.accepted) == len(beside) + 1


async def letters(world: World, group: str) -> list[dict[str, object]]:
    """What dead letters say of their failures."""
    async with world.client() as client:
        keys = await world.keys(client)
        found = [await client.xrange(partition.dead_group(group)) for partition in keys.partitions]
    return [json.loads(fields[b"f"]) for entries in found for _, fields in entries]


async def test_failures_are_given_up_by_their_group_alone() -> None:
    """A handler that fails each time is called as often as its tries say and leaves a dead letter; other groups and events go
    on as if nothing was."""
    async with the_world(visibility_seconds=120.0) as world:
        world.groups = ("few", "first", "batched")
        await world.begin_workers(2)
        facts = await world.told(4, runs=RUNS, special={2: {"fail": ["few"]}})
        dead = [fact for fact in facts if fact.n == 2]
        history = await world.verdict(dead={"few": dead})
        for fact in dead:
            assert world.begun([fact], "few") == LIMIT
        assert judge_once(history, "few", [fact for fact in facts if fact.n != 2]) == []
        for group in ("first", "batched"):
            assert judge_once(history, group, facts) == []
        assert {letter["reason"] for letter in await letters(world, "few")} == {"error"}
        assert {letter["attempts"] for letter in await letters(world, "few")} == {LIMIT}


async def test_only_the_failing_group_sees_the_retry() -> None:
    """Handlers of one group fail twice and then succeed, on two workers: the others are called once for each event."""
    async with the_world(visibility_seconds=120.0) as world:
        world.groups = ("few", "first", "second", "batched")
        await world.begin_workers(2)
        facts = await world.told(4, runs=RUNS, data={"fails": {"few": LIMIT - 1}})
        history = await world.verdict()
        for group in world.groups[1:]:
            assert judge_once(history, group, facts) == []
        assert world.begun(facts, "few") == LIMIT * len(facts)


async def test_random_failures() -> None:
    """Every third handler of every group fails, again and again, while workers are killed: each event counts once."""
    async with the_world(visibility_seconds=1.0) as world:
        await world.begin_workers(2)
        await world.begin_producer(pause=0.2, data={"flaky": 0.3, "pause_ms": 20})
        for _ in range(3):
            await world.goes_on(world.rng.randint(20, 150))
            await world.kill_worker(world.any_worker())
            await world.begin_worker()
        await world.verdict()
        assert world.begun([Fact("p1-0", 1)]) >= len(world.groups)
