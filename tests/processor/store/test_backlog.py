from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from processor import Tailrace
from processor.client.queueing import Options, start_queued
from processor.core.schedule import Schedule
from processor.store import backlog as module
from processor.store.backlog import Backlog, known_tasks, read_backlogs, tasks_with_work
from processor.store.executing import GROUP
from processor.store.schedules import register
from processor.store.workers import announce, worker_here
from tests.support.servers import TestServer


@pytest.fixture
async def tail(every_server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    async with Tailrace(every_server.url, namespace=namespace) as tail:
        yield tail


@pytest.fixture
def client(every_server: TestServer) -> Iterator[redis.Redis]:
    with every_server.client() as client:
        yield client


async def take(client: redis.Redis, tail: Tailrace, task: str, count: int) -> int:
    """A worker reads so many entries. Returns how many it got."""
    session = await tail.session()
    taken = 0
    for keys in session.keys.partitions:
        name = keys.work(task)
        client.xgroup_create(name, GROUP, 0, mkstream=True)
        if count > taken:
            found: Any = client.xreadgroup(GROUP, "w", {name: ">"}, count=count - taken)
            taken += sum(len(entries) for _, entries in found)
    return taken


async def test_what_each_task_has(tail: Tailrace, client: redis.Redis) -> None:
    """Waiting, pending and delayed runs of each task over all partitions; a task without any has zeros."""
    session = await tail.session()
    for _ in range(20):
        await start_queued(tail, "crawl", b"{}", Options())
    for _ in range(3):
        await start_queued(tail, "crawl", b"{}", Options(delay_seconds=900))
    await start_queued(tail, "answer", b"{}", Options())
    assert await take(client, tail, "crawl", 7) == 7
    crawl, answer, none = await read_backlogs(session, ["crawl", "answer", "none"])
    assert (crawl.waiting, crawl.pending, crawl.delayed) == (13, 7, 3)
    assert (answer.waiting, answer.pending, answer.delayed) == (1, 0, 0)
    assert 0 <= answer.oldest_ms <= crawl.oldest_ms + 1000 < 10_000
    assert none == Backlog("none")
    assert await take(client, tail, "crawl.done", 0) == 0
    assert (await read_backlogs(session, ["crawl.done"]))[0] == Backlog("crawl.done")


async def test_age_of_the_first_that_waits(tail: Tailrace, client: redis.Redis) -> None:
    """The age is that of the first entry which no worker has, whatever workers hold before it."""
    session = await tail.session()
    keys = session.keys.partitions[0]
    seconds, _ = client.time()
    for ago in (500, 300, 100):
        client.xadd(keys.work("crawl"), {"r": "x"}, id=f"{(int(seconds) - ago) * 1000}-0")
    client.xgroup_create(keys.work("crawl"), GROUP, 0)
    client.xreadgroup(GROUP, "w", {keys.work("crawl"): ">"}, count=1)
    (crawl,) = await read_backlogs(session, ["crawl"])
    assert (crawl.waiting, crawl.pending) == (2, 1)
    assert 300_000 <= crawl.oldest_ms < 310_000
    client.delete(keys.work("crawl"))


async def test_many_delayed_are_estimated(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a partition has more delayed runs than are looked at, the shares of the first ones count for all."""
    monkeypatch.setattr(module, "SAMPLE", 10)
    session = await tail.session()
    for number in range(40):
        options = Options(thread="t" if number == 0 else None, id=f"{number}", delay_seconds=100 + number)
        await start_queued(tail, "even" if number % 2 else "odd", b"{}", options)
    total = sum(backlog.delayed for backlog in await read_backlogs(session, ["even", "odd"]))
    assert total == 40


async def test_which_tasks_there_are(tail: Tailrace) -> None:
    """Known are those of workers and schedules; others are found by their work."""
    session = await tail.session()
    await announce(session, worker_here("w", ["crawl", "answer"], places=1))
    await register(session, "nightly", "clean", Schedule("@daily"), first=True)
    await start_queued(tail, "orphan:x", b"{}", Options())
    assert await known_tasks(session) == {"answer", "clean", "crawl"}
    assert await tasks_with_work(session) == {"orphan:x"}
    async with Tailrace(session.server.address.url, namespace=session.keys.namespace + "-2") as other:
        assert await tasks_with_work(await other.session()) == set()
