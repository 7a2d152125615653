from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from processor import Tailrace
from processor.client.session import Session
from processor.core.routing import Binding
from processor.store.executing import GROUP
from processor.store.groups import Declared, bind
from processor.store.workers import announce, list_workers, worker_here
from processor.testing.fake import Clock
from processor.worker import janitor as module
from processor.worker.janitor import Janitor
from tests.support.servers import running_fake
from tests.support.until import until


@pytest.fixture
async def later(namespace: str) -> AsyncIterator[tuple[Session, Clock]]:
    """A namespace whose time can be moved."""
    with running_fake() as server:
        assert server.clock is not None
        async with Tailrace(server.url, namespace=namespace) as tail:
            yield await tail.session(), server.clock


async def test_workers_of_yesterday(later: tuple[Session, Clock]) -> None:
    """A worker that was silent for a day leaves the registry, one of an hour ago stays."""
    session, clock = later
    await announce(session, worker_here("old", ["crawl"], places=1))
    clock.ahead += 86_000
    await announce(session, worker_here("young", ["crawl"], places=1))
    await Janitor(session).look_once()
    assert {worker.consumer for worker in (await list_workers(session)).all} == {"old", "young"}
    clock.ahead += 500
    with capture_logs() as logs:
        await Janitor(session).look_once()
    assert {worker.consumer for worker in (await list_workers(session)).all} == {"young"}
    assert [(log["event"], log["workers"]) for log in logs] == [("janitor_tidied", 1)]


async def test_consumers_of_tasks_that_nobody_has(later: tuple[Session, Clock]) -> None:
    """Silent consumers go from every work stream, known to a worker or not; who has something pending stays."""
    session, clock = later
    streams = [session.keys.partitions[n].work(task) for n, task in enumerate(("crawl", "gone"))]
    for stream in streams:
        await session.redis.xadd(stream, {"r": "x"})
        await session.redis.xgroup_create(stream, GROUP, 0)
        await session.redis.xreadgroup(GROUP, "busy", {stream: ">"})
        await session.redis.xgroup_createconsumer(stream, GROUP, "idle")
        await session.redis.xreadgroup(GROUP, "idle", {stream: ">"})
    await announce(session, worker_here("w", ["crawl"], places=1))
    janitor = Janitor(session)
    await janitor.look_once()  # nothing is taken away before somebody looked for a visibility timeout
    for seconds in (3590, 14, 14, 14):
        clock.ahead += seconds
        await janitor.look_once()
    for stream in streams:
        assert {consumer["name"] for consumer in await session.redis.xinfo_consumers(stream, GROUP)} == {b"busy"}


async def test_consumers_of_groups(later: tuple[Session, Clock]) -> None:
    """Silent consumers go from every partition of a group; who has something pending stays, and so do the living."""
    session, clock = later
    await bind(session, Declared("audit", "shared", [Binding("#")]))
    logs = [keys.log for keys in session.keys.partitions]
    for log in logs:
        await session.redis.xadd(log, {"r": "x", "i": "1-1", "e": "{}"})
        await session.redis.xreadgroup("audit", "busy", {log: ">"})
        await session.redis.xreadgroup("audit", "idle", {log: ">"})
    janitor = Janitor(session)
    await janitor.look_once()
    clock.ahead += 3590
    for log in logs:
        await session.redis.xreadgroup("audit", "lives", {log: ">"})
    clock.ahead += 20
    await janitor.look_once()
    for log in logs:
        assert {consumer["name"] for consumer in await session.redis.xinfo_consumers(log, "audit")} == {
            b"busy",
            b"lives",
        }


async def test_until_it_is_stopped(later: tuple[Session, Clock], monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again and again, and ends when it is told to."""
    session, _ = later
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    looks = [0]
    janitor = Janitor(session)
    look_once = janitor.look_once

    async def counted() -> None:
        looks[0] += 1
        await look_once()

    monkeypatch.setattr(janitor, "look_once", counted)
    stop = asyncio.Event()
    running = asyncio.create_task(janitor.run(stop))
    await until(lambda: looks[0] >= 3, "it has looked three times")
    stop.set()
    await running
