"""Where groups stand: figures of our own counters, right just after everything that makes XINFO's lag wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from processor import Tailrace
from processor.core.settings import Settings
from processor.core.worker import WorkerState
from processor.store.standings import read_groups
from processor.store.workers import announce, tell_stopped, worker_here
from tests.processor.store.logside import LogSide, letter
from tests.support.servers import TestServer


@pytest.fixture
async def side(every_server: TestServer, namespace: str) -> AsyncIterator[LogSide]:
    settings = Settings(redis_url=every_server.url, namespace=namespace, partitions=4, log_limit=100)
    async with Tailrace(settings=settings) as tail:
        side = LogSide(every_server, await tail.session())
        yield side
        side.close()


async def test_no_groups(side: LogSide) -> None:
    """Where nobody reacts there is nothing, whoever is asked for."""
    assert (await read_groups(side.session)).all == []
    assert (await read_groups(side.session, ["audit"])).all == []


async def test_what_a_group_has_to_do(side: LogSide) -> None:
    """Entries not given, given and not settled, and put off, in each partition and in all."""
    await side.bind("audit", "usage")
    await side.emit("a", 10)
    await side.emit("b", 2)
    assert side.keys.number("a") != side.keys.number("b")
    given = side.read("audit", "a", 6)
    side.ack("audit", "a", given[:2])
    side.fail("audit", "a", given[2], due=99)
    assert await side.figures("audit", "a") == (4, 3, 1)
    assert await side.figures("audit", "b") == (2, 0, 0)
    standing = await side.standing("audit")
    assert (standing.lag, standing.pending, standing.delayed, standing.backlog) == (6, 3, 1, 10)
    assert (await side.position("audit", "a")).delivered == given[-1]
    assert [found.group.name for found in (await read_groups(side.session)).all] == ["audit"]


async def test_what_it_is(side: LogSide) -> None:
    """Mode, bindings with when they were told, start, and what becomes of it when it is behind."""
    await side.bind("audit", "tool.*", "run.failed", mode="ordered", start="now", when_behind="refuse")
    group = (await side.standing("audit")).group
    now = (await read_groups(side.session)).workers.now
    assert (group.mode, group.start, group.when_behind) == ("ordered", "now", "refuse")
    assert list(group.bindings) == ["run.failed", "tool.*"]
    assert all(0 <= now - told < 10_000 for told in [*group.bindings.values(), group.created, group.told])


async def test_after_a_trim(side: LogSide) -> None:
    """What every group has handled goes from the log, and from no figure."""
    await side.bind("fast")
    await side.bind("slow")
    await side.emit("a", 10)
    side.ack("fast", "a", side.read("fast", "a", 8))
    given = side.read("slow", "a", 5)
    side.ack("slow", "a", given[:3])
    assert await side.session.scripts.trim(side.part("a")) == 3
    assert await side.figures("fast", "a") == (2, 0, 0)
    assert await side.figures("slow", "a") == (5, 2, 0)


async def test_after_a_cut(side: LogSide) -> None:
    """Where a group was behind and the log was cut, only what is left counts, and that it was cut is told."""
    await side.bind("slow")
    await side.emit("a", 3)
    side.ack("slow", "a", side.read("slow", "a", 1))
    assert (await side.standing("slow")).cut == []
    await side.emit("a", 97)
    for _ in range(2):  # at the limit of 100 entries append trims, then cuts
        await side.emit("a")
    left = side.entries("a")
    assert len(left) <= 91
    assert await side.figures("slow", "a") == (len(left), 0, 0)
    standing = await side.standing("slow")
    assert standing.cut == [side.keys.number("a")]
    side.read("slow", "a", 4)
    assert await side.figures("slow", "a") == (len(left) - 4, 4, 0)


async def test_a_group_that_begins_now(side: LogSide) -> None:
    """It has nothing to do yet, whatever is in the log; the first event then counts."""
    await side.bind("first")
    await side.emit("a", 5)
    await side.bind("late", start="now")
    await side.bind("whole")
    assert await side.figures("late", "a") == (0, 0, 0)
    assert await side.figures("whole", "a") == (5, 0, 0)
    await side.emit("a")
    assert await side.figures("late", "a") == (1, 0, 0)


async def test_after_entries_were_deleted_by_hand(side: LogSide) -> None:
    """What somebody takes out with XDEL may be counted until the group has passed it; never more than the log has."""
    await side.bind("audit")
    await side.emit("a", 6)
    side.ack("audit", "a", side.read("audit", "a", 1))
    side.client.xdel(side.part("a").log, side.entries("a")[3])
    assert await side.figures("audit", "a") == (5, 0, 0)
    side.client.xdel(side.part("a").log, *side.entries("a")[:3])
    assert await side.figures("audit", "a") == (2, 0, 0)
    side.read("audit", "a", 10)
    assert await side.figures("audit", "a") == (0, 2, 0)


async def test_ages(side: LogSide) -> None:
    """The oldest is the first event that waits, is in a member's hands, or was put off, whichever came first."""
    await side.bind("audit")
    keys = side.part("a")
    now = (await read_groups(side.session)).workers.now
    for number, seconds in enumerate((70, 60, 50), 1):
        side.client.xadd(keys.log, {"r": "a", "i": f"{number}-1", "e": "{}"}, id=f"{now - seconds * 1000}-{number}")
        side.client.hset(keys.meta, "logged", number)

    async def oldest() -> int:
        return (await side.standing("audit")).oldest_ms // 10_000

    assert await oldest() == 7  # it waits
    first, second = side.read("audit", "a", 2)
    assert await oldest() == 7  # it is in a member's hands
    side.ack("audit", "a", [second])
    side.fail("audit", "a", first, due=9)
    side.client.zadd(keys.delayed, {"some-run": 1, f"other\n{now - 90_000}-1": 2})
    assert await side.figures("audit", "a") == (1, 0, 1)
    assert await oldest() == 7  # it was put off
    side.client.zrem(keys.delayed, f"audit\n{first}")
    assert await oldest() == 5


async def test_no_event_waits(side: LogSide) -> None:
    """Without a backlog there is no age."""
    await side.bind("audit")
    await side.emit("a")
    side.ack("audit", "a", side.read("audit", "a", 1))
    assert (await side.standing("audit")).oldest_ms == 0
    assert (await side.position("audit", "a")).oldest is None


async def test_who_has_it(side: LogSide) -> None:
    """Live workers that told that they have the group, and of those gone the one that was there last."""
    await side.bind("audit")
    assert not (await side.standing("audit")).unattended
    await side.emit("a")
    standing = await side.standing("audit")
    assert (standing.members, standing.last_member, standing.unattended) == ([], None, True)
    worker = await announce(side.session, worker_here("m", [], groups=["audit"], places=9))
    await announce(side.session, worker_here("n", [], groups=["stock"], places=9))
    standing = await side.standing("audit")
    assert (standing.members, standing.unattended) == ([worker], False)
    gone: WorkerState = await tell_stopped(side.session, worker)
    standing = await side.standing("audit")
    assert (standing.members, standing.last_member, standing.unattended) == ([], gone, True)


async def test_dead_letters_and_leases(side: LogSide) -> None:
    """Letters of the group, and who reads a partition for an ordered one."""
    await side.bind("audit", mode="ordered")
    letter(side, "audit", "a", died=1000)
    letter(side, "audit", "a", died=2000)
    letter(side, "other", "a", died=2000)
    side.lease("audit", "a", until="1795506276265")
    position = await side.position("audit", "a")
    assert (position.dead, position.owner, position.until) == (2, "m", 1_795_506_276_265)
    assert (await side.standing("audit")).dead == 2


async def test_a_lost_record(side: LogSide) -> None:
    """A group that reads a log is told also where the namespace's record of it is lost: it keeps the log from being cut."""
    await side.bind("audit")
    await side.emit("a", 2)
    side.client.delete(side.keys.groups, side.keys.group("audit"))
    [standing] = (await read_groups(side.session)).all
    assert (standing.group.name, standing.group.mode, standing.lag) == ("audit", "", 2)
    await side.bind("audit")


async def test_a_record_whose_partitions_are_not_bound(side: LogSide) -> None:
    """Told before its partitions are bound, a group has nothing to do."""
    side.client.hset(side.keys.groups, "audit", "shared")
    standing = await side.standing("audit")
    assert standing.backlog == 0
    assert [position.bound for position in standing.positions] == [False] * 4
