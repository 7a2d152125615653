from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from processor import Tailrace
from processor.client.session import Session
from processor.core.errors import BadInput
from processor.core.schedule import Schedule
from processor.store.connection import execute
from processor.store.schedules import (
    Registered,
    advance,
    list_schedules,
    pause,
    read_schedule,
    register,
    resume,
)
from processor.testing.fake import Clock
from tests.support.servers import TestServer, running_fake

HOURLY = Schedule("0 * * * *")
DAILY = Schedule("0 3 * * *", timezone="Europe/Berlin", misfire="once")


@pytest.fixture
async def space(every_server: TestServer, namespace: str) -> AsyncIterator[Session]:
    async with Tailrace(every_server.url, namespace=namespace) as tail:
        yield await tail.session()


@pytest.fixture
async def later(namespace: str) -> AsyncIterator[tuple[Session, Clock]]:
    """A namespace whose time can be moved."""
    with running_fake() as server:
        assert server.clock is not None
        async with Tailrace(server.url, namespace=namespace) as tail:
            yield await tail.session(), server.clock


async def test_registered_and_read(space: Session) -> None:
    """A schedule begins with its next time; it is listed by name, with the server's time."""
    await register(space, "nightly", "clean", DAILY, first=True)
    await register(space, "hourly", "count", HOURLY, first=True)
    now, records = await list_schedules(space)
    assert [record.name for record in records] == ["hourly", "nightly"]
    assert records[1] == await read_schedule(space, "nightly")
    assert records[1] == Registered(
        name="nightly",
        task="clean",
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        misfire="once",
        next=DAILY.next_after(now),
        seen=records[1].seen,
    )
    assert records[1].schedule == DAILY
    assert [record.when for record in records] == ["0 * * * *", "0 3 * * * Europe/Berlin"]
    assert records[0].state(now) == "on"
    assert await read_schedule(space, "weekly") is None


async def test_pause_and_resume(space: Session) -> None:
    """A paused one stays so when workers register it again; resumed, it goes on with its next time, missing none."""
    record = await register(space, "hourly", "count", HOURLY, first=True)
    await advance(space, record, next=record.seen - 90 * 60_000, last=None)
    assert (await pause(space, "hourly")) == (await pause(space, "hourly"))
    again = await register(space, "hourly", "count", HOURLY, first=True)
    assert again.state(again.seen) == "paused"
    now, _ = await list_schedules(space)
    resumed = await resume(space, "hourly")
    assert resumed is not None
    assert (resumed.paused, resumed.next) == (False, HOURLY.next_after(now))
    assert await pause(space, "weekly") is None
    assert await resume(space, "weekly") is None


async def test_a_change_of_times_begins_anew(space: Session) -> None:
    """Other times begin with their next one; another misfire policy or task keeps the place, and what was started last."""
    record = await register(space, "hourly", "count", HOURLY, first=True)
    missed = record.seen - 90 * 60_000
    await advance(space, record, next=missed, last=missed - 1)
    record = await register(space, "hourly", "count", replace(HOURLY, misfire="all"), first=True)
    assert (record.next, record.last, record.misfire) == (missed, missed - 1, "all")
    record = await register(space, "hourly", "count", DAILY, first=True)
    assert (record.next, record.last) == (DAILY.next_after(record.seen), missed - 1)


async def test_nothing_made_meanwhile_is_overwritten(space: Session) -> None:
    """A pause that comes while others advance and register stays, and no step back is made."""
    record = await register(space, "s", "count", Schedule(every_seconds=1), first=True)
    assert record.next is not None

    async def go_on(steps: int) -> None:
        for _ in range(steps):
            seen = await read_schedule(space, "s")
            assert seen is not None
            assert seen.next is not None
            await advance(space, seen, next=seen.next + 1000, last=seen.next)

    await asyncio.gather(go_on(20), go_on(20), pause(space, "s"), register(space, "s", "x", HOURLY, first=False))
    after = await read_schedule(space, "s")
    assert after is not None
    assert after.last is not None
    assert after.paused
    assert record.next + 20_000 <= after.next == after.last + 1000 <= record.next + 40_000  # type: ignore[operator]


async def test_advanced_by_one(space: Session) -> None:
    """Who decided on an older record, or on other times, changes nothing."""
    record = await register(space, "s", "count", HOURLY, first=True)
    assert record.next is not None
    await advance(space, record, next=record.next + 1, last=record.next)
    await advance(space, record, next=record.next + 99, last=record.next)
    after = await read_schedule(space, "s")
    assert after is not None
    assert after.next == record.next + 1
    await register(space, "s", "count", DAILY, first=True)
    await advance(space, after, next=1, last=None)
    now = await read_schedule(space, "s")
    assert now is not None
    assert now.next != 1


async def test_seen(later: tuple[Session, Clock]) -> None:
    """Workers that have it keep it on; a day after the last one it is abandoned, and back with the first."""
    space, clock = later
    await register(space, "s", "count", HOURLY, first=True)
    for _ in range(3):
        clock.ahead += 80_000
        await register(space, "s", "count", HOURLY, first=False)
        now, (record,) = await list_schedules(space)
        assert record.state(now) == "on"
        assert now - record.seen < 1000
    clock.ahead += 90_000
    now, (record,) = await list_schedules(space)
    assert record.state(now) == "abandoned"
    record = await register(space, "s", "count", HOURLY, first=True)
    assert record.state(record.seen) == "on"
    assert record.next is not None
    assert record.next < record.seen, "what was missed is for the misfire policy to decide"


async def test_two_releases_at_once(later: tuple[Session, Clock]) -> None:
    """The definition of the worker that began last counts; an older one that still runs takes over when it is gone."""
    space, clock = later
    await register(space, "s", "count", HOURLY, first=True)
    await register(space, "s", "count", DAILY, first=True)
    for _ in range(4):
        clock.ahead += 60
        old = await register(space, "s", "count", HOURLY, first=False)
        assert old.schedule == DAILY
        await register(space, "s", "count", DAILY, first=False)
    clock.ahead += 200
    assert (await register(space, "s", "count", HOURLY, first=False)).schedule == DAILY
    clock.ahead += 101
    assert (await register(space, "s", "count", HOURLY, first=False)).schedule == HOURLY


async def test_records_of_others(space: Session) -> None:
    """What is no record is left alone; one that this machine cannot read is told as such and cannot be resumed."""
    await execute(space.redis, "HSET", space.keys.schedules, "odd", b"[1]", "new", b'{"task":"x","when":"noon"}')
    now, records = await list_schedules(space)
    assert [(record.name, record.state(now)) for record in records] == [("new", "abandoned")]
    mars = Registered(name="mars", task="x", cron="* * * * *", timezone="Mars/Base", seen=now, next=1)
    await execute(space.redis, "HSET", space.keys.schedules, "mars", mars.json())
    assert mars.state(now) == "unreadable"
    assert await pause(space, "mars") is not None
    with pytest.raises(BadInput, match="timezone"):
        await resume(space, "mars")


def test_an_ended_one() -> None:
    """A schedule without any time left says so."""
    record = Registered(name="x", task="x", cron="0 0 */31 * 1#5", seen=5)
    assert record.state(5) == "ended"
    assert Registered.parse("x", record.json()) == record
    assert Registered(name="x", task="x", every=90.0).when == "every 90 s"
