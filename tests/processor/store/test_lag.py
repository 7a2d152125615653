"""Which tasks runs wait for, and for how long."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from processor.client.session import Session
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.store.executing import GROUP
from processor.store.lag import Queued, read_queued
from tests.support.servers import TestServer


@pytest.fixture
async def tail(every_server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    async with Tailrace(settings=Settings(redis_url=every_server.url, namespace=namespace, partitions=2)) as tail:
        yield tail


async def queued(session: Session) -> dict[str, int]:
    return {found.task: found.runs for found in (await read_queued(session))[1]}


async def test_none(tail: Tailrace) -> None:
    """Nothing waits where nothing was started, or all of it has ended or waits for its time."""
    session = await tail.session()
    assert await queued(session) == {}
    async with tail.run("done") as run:
        run.log("x")
    assert await (await tail.start("answer")).cancel()
    assert await queued(session) == {}


async def test_most_first(tail: Tailrace) -> None:
    """Each task has the number of its runs in all partitions, and how long the first of them has waited."""
    session = await tail.session()
    for n in range(8):
        await tail.start("answer" if n % 4 else "crawl")
    workers, found = await read_queued(session)
    assert [(one.task, one.runs) for one in found] == [("answer", 6), ("crawl", 2)]
    assert all(0 <= one.oldest_ms < 10_000 for one in found)
    assert workers.all == ()


async def test_what_a_worker_has_taken_does_not_wait(tail: Tailrace) -> None:
    """An entry that is delivered counts no more; the oldest is then the next one."""
    session = await tail.session()
    runs = [(await tail.start("answer")).id for _ in range(4)]
    for partition in session.keys.partitions:
        work = partition.work("answer")
        mine = [run for run in runs if session.keys.of(run) is partition]
        await execute(session.redis, "XGROUP", "CREATE", work, GROUP, "0", "MKSTREAM")
        for _ in mine:
            await execute(session.redis, "XREADGROUP", "GROUP", GROUP, "me", "COUNT", 1, "STREAMS", work, ">")
    assert await queued(session) == {}
    await tail.start("answer")
    (one,) = (await read_queued(session))[1]
    assert one == Queued("answer", 1, one.oldest_ms)
    assert one.oldest_ms < 10_000
