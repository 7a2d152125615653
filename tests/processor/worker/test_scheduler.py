from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from processor import Tailrace
from processor.core.keys import Keyspace
from processor.core.schedule import Misfire, Schedule, due_name
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.store.schedules import Registered, list_schedules, pause, read_schedule, register
from processor.testing.fake import Clock
from processor.worker import scheduler as module
from processor.worker.scheduler import Scheduler, fire, keep_registered, register_all
from processor.worker.singletons import Singletons
from tests.support.servers import TestServer, running_fake
from tests.support.until import until

SECONDLY = Schedule(every_seconds=1, misfire="all")


class Timed:
    """A task with a schedule, as far as the scheduler sees it."""

    def __init__(self, name: str, cron: Schedule | None) -> None:
        self.name, self.cron = name, cron


@asynccontextmanager
async def tails(settings: Settings, count: int) -> AsyncIterator[list[Tailrace]]:
    """As many processes have them: each with its own producer."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Tailrace(settings=settings)) for _ in range(count)]


@pytest.fixture
def client(server: TestServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


async def due_since(tail: Tailrace, name: str, seconds: float, schedule: Schedule = SECONDLY) -> tuple[int, Registered]:
    """A schedule whose times were not dealt with for so long. Returns the server's time, and its record."""
    session = await tail.session()
    record = await register(session, name, name, schedule, first=True)
    record = replace(record, next=schedule.next_after(record.seen - round(seconds * 1000)))
    await execute(session.redis, "HSET", session.keys.schedules, name, record.json())
    now, _ = await list_schedules(session)
    return now, record


def queued(client: redis.Redis, keys: Keyspace, task: str) -> list[str]:
    """Runs in the task's work stream, as often as they stand there."""
    key = keys.of(task).work(task)
    entries: Any = client.xrange(key)
    return [fields[b"r"].decode() for _, fields in entries]


def feed_lengths(client: redis.Redis, keys: Keyspace, runs: list[str]) -> set[int]:
    return {int(client.xlen(keys.of(run).feed(run))) for run in runs}


async def test_three_schedulers(settings: Settings, client: redis.Redis) -> None:
    """Three at once, each sure of its lock, start one run for each due time, and none before its time."""
    async with tails(settings, 3) as three:
        session = await three[0].session()
        _, record = await due_since(three[0], "tick", 250)
        assert record.next is not None
        for _ in range(4):  # a hundred at once
            await asyncio.gather(*(Scheduler(tail).look_once() for tail in three))
        now, (after,) = await list_schedules(session)
        assert after.last is not None
        should = [f"tick~{due_name(due)}" for due in SECONDLY.due_times(record.next - 1, after.last)]
        found = queued(client, session.keys, "tick")
        assert Counter(found) == Counter(should)
        assert feed_lengths(client, session.keys, should) == {1}
        assert now - 3000 < after.last <= now
        assert after.next == after.last + 1000


async def test_killed_between_start_and_advance(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that dies before it could write how far it came leaves no second run behind."""
    async with tails(settings, 2) as (one, other):
        session = await one.session()
        await due_since(one, "tick", 20)

        async def dies(*_: object, **__: object) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patched:
            patched.setattr(module, "advance", dies)
            with pytest.raises(RuntimeError, match="killed"):
                await Scheduler(one).look_once()
        before = queued(client, session.keys, "tick")
        assert len(before) >= 20
        await Scheduler(other).look_once()
        after = queued(client, session.keys, "tick")
        assert len(after) == len(set(after)) <= len(before) + 2


@pytest.mark.parametrize(("misfire", "count"), [("skip", 1), ("once", 1), ("all", 6)])
async def test_misfires(settings: Settings, client: redis.Redis, misfire: Misfire, count: int) -> None:
    """Of six minutes that were missed skip starts the one within the grace, once the newest, all each, oldest first."""
    async with tails(settings, 1) as (tail,):
        session = await tail.session()
        minutely = Schedule(every_seconds=60, misfire=misfire)
        now, _ = await due_since(tail, "tick", 360, minutely)
        await Scheduler(tail, grace_ms=59_999).look_once()
        times = minutely.due_times(now - 360_000, now)
        assert queued(client, session.keys, "tick") == [f"tick~{due_name(due)}" for due in times[-count:]]
        record = await read_schedule(session, "tick")
        assert record is not None
        assert (record.last, record.next) == (times[-1], times[-1] + 60_000)


async def test_missed_beyond_the_grace(settings: Settings, client: redis.Redis) -> None:
    """What skip leaves out is dealt with: nothing starts, and the next time is noted."""
    async with tails(settings, 1) as (tail,):
        session = await tail.session()
        hourly = Schedule(every_seconds=3600)
        now, _ = await due_since(tail, "tick", 3600, hourly)
        await Scheduler(tail, grace_ms=-1).look_once()
        record = await read_schedule(session, "tick")
        assert record is not None
        assert record.next is not None
        assert (queued(client, session.keys, "tick"), record.last) == ([], None)
        assert now < record.next <= now + 3_600_000


async def test_run_as_it_is_queued(settings: Settings) -> None:
    """A scheduled run has the task, an empty input, and its schedule as a label; an extra one has an ID of its own."""
    async with tails(settings, 1) as (tail,):
        _, record = await due_since(tail, "tick", 1.5)
        await Scheduler(tail).look_once()
        extra = await fire(tail, record)
        found = [state async for state in tail.runs(task="tick", labels={"schedule": "tick"})]
        assert len(found) >= 2
        assert extra.id in {state.run for state in found}
        assert extra.id.startswith("tick~fired-")
        assert [event.data async for event in extra.follow(live=False)] == [{"task": "tick", "input": {}}]


async def test_ids_in_use(settings: Settings, client: redis.Redis) -> None:
    """A due time whose ID somebody uses for another task is told, and does not hold up those behind it."""
    async with tails(settings, 1) as (tail,):
        session = await tail.session()
        _, record = await due_since(tail, "tick", 3.5)
        assert record.next is not None
        await fire(tail, replace(record, task="other"), due_name(record.next))
        with capture_logs() as logs:
            await Scheduler(tail).look_once()
        assert [log["due"] for log in logs if log["event"] == "schedule_not_started"] == [due_name(record.next)]
        assert len(queued(client, session.keys, "tick")) >= 2


async def test_backlog_full(server: TestServer, namespace: str, client: redis.Redis) -> None:
    """Where a task's backlog is full its times wait, in order, and none is left out."""
    settings = Settings(redis_url=server.url, namespace=namespace, work_limit=3)
    async with tails(settings, 1) as (tail,):
        session = await tail.session()
        _, record = await due_since(tail, "tick", 5.5)
        assert record.next is not None
        with capture_logs() as logs:
            await Scheduler(tail).look_once()
        assert "schedule_waits" in {log["event"] for log in logs}
        first = queued(client, session.keys, "tick")
        assert len(first) == 3
        client.delete(session.keys.of("tick").work("tick"))
        await Scheduler(tail).look_once()
        both = first + queued(client, session.keys, "tick")
        assert both[:5] == [f"tick~{due_name(record.next + n * 1000)}" for n in range(5)]


async def test_who_is_not_fired(settings: Settings, client: redis.Redis) -> None:
    """Paused, abandoned and unreadable schedules start nothing; an unreadable one is told once."""
    async with tails(settings, 1) as (tail,):
        session = await tail.session()
        for name in ("paused", "abandoned", "unreadable"):
            now, record = await due_since(tail, name, 30)
            if name == "abandoned":
                record = replace(record, seen=now - 86_400_001)
            if name == "unreadable":
                record = replace(record, every=None, cron="* * * * *", timezone="Mars/Base")
            await execute(session.redis, "HSET", session.keys.schedules, name, record.json())
        await pause(session, "paused")
        scheduler = Scheduler(tail)
        with capture_logs() as logs:
            for _ in range(2):
                assert await scheduler.look_once() == pytest.approx(1, abs=0.01)
        assert [log["schedule"] for log in logs if log["event"] == "schedule_unreadable"] == ["unreadable"]
        assert not client.keys(session.keys.partitions[0].prefix.replace(":0}", ":*}") + "run:*")


async def test_virtual_time() -> None:
    """By a clock that is moved, a job runs at its times and not between them; the next one is known."""
    with running_fake() as server:
        clock = server.clock
        assert isinstance(clock, Clock)
        async with Tailrace(server.url) as tail:
            session = await tail.session()
            await register_all(session, [Timed("daily", Schedule("30 4 * * *", misfire="once")), Timed("never", None)])
            scheduler = Scheduler(tail)
            for _ in range(48):
                await scheduler.look_once()
                clock.ahead += 1800
            await scheduler.look_once()
            (state,) = [state async for state in tail.runs(task="daily")]
            assert state.run.startswith("daily~")
            assert state.run.endswith("T043000Z")


async def test_kept_registered(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker registers its tasks' schedules when it begins, and again and again."""
    monkeypatch.setattr(module, "SEEN_MS", 20)
    seen: list[bool] = []

    async def noted(*args: object, first: bool = True) -> None:
        seen.append(first)

    async with tails(settings, 1) as (tail,):
        session = await tail.session()
        stop = asyncio.Event()
        monkeypatch.setattr(module, "register_all", noted)
        keeping = asyncio.create_task(keep_registered(session, [Timed("tick", SECONDLY)], stop))
        await until(lambda: len(seen) >= 3, "it was registered three times")
        stop.set()
        await keeping
        assert seen[:3] == [True, False, False]
        await keep_registered(session, [Timed("tick", None)], asyncio.Event())


async def test_elected_schedulers(settings: Settings, client: redis.Redis) -> None:
    """Three processes that stand for the duty, the holder of which dies: every second has one run, none is left out."""
    async with tails(settings, 3) as three:
        session = await three[0].session()
        await register_all(session, [Timed("tick", SECONDLY)])
        stops = [asyncio.Event() for _ in three]
        members = [Singletons(await tail.session(), {"scheduler": Scheduler(tail).run}, ttl_ms=600) for tail in three]
        running = [asyncio.create_task(member.run(stop)) for member, stop in zip(members, stops, strict=True)]
        await until(lambda: len(queued(client, session.keys, "tick")) >= 2, "two seconds were fired", 10)
        (holder,) = [n for n, member in enumerate(members) if member.held]
        running[holder].cancel()
        await until(lambda: len(queued(client, session.keys, "tick")) >= 5, "three more were fired", 10)
        for stop in stops:
            stop.set()
        await asyncio.gather(*running, return_exceptions=True)
        found = queued(client, session.keys, "tick")
        record = await read_schedule(session, "tick")
        assert record is not None
        assert record.last is not None
        times = SECONDLY.due_times(record.last - len(found) * 1000, record.last)
        assert found == [f"tick~{due_name(due)}" for due in times]


async def test_a_time_before_the_registration_is_not_started() -> None:
    """A report of each full hour that is deployed half a minute behind one begins with the next."""
    with running_fake() as server:
        assert server.clock is not None
        async with Tailrace(server.url) as tail:
            session = await tail.session()
            now, _ = await list_schedules(session)
            server.clock.ahead += (3_630_000 - now % 3_600_000) / 1000
            hourly = Schedule("0 * * * *")
            record = await register(session, "report", "report", hourly, first=True)
            assert record.next is not None
            assert record.next > record.seen
            await Scheduler(tail).look_once()
            assert not [state async for state in tail.runs(task="report")]
            server.clock.ahead += 3_600
            await Scheduler(tail).look_once()  # half a minute late, within the grace of a schedule that existed
            (state,) = [state async for state in tail.runs(task="report")]
            assert state.run == f"report~{due_name(record.next)}"
