"""A Tailrace with short terms on a real server, workers that end with the block, and what tests ask about their work."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sized
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from processor import Tailrace
from processor.core.cursor import FeedId
from processor.core.events import Event
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.worker.worker import Worker
from tests.support.servers import Daemon, TestServer

__all__ = ["dead_of", "events_of", "handled", "has", "is_settled", "working"]


@pytest.fixture
def settings(server: TestServer, namespace: str) -> Settings:
    """Those of a test that makes clients of its own: with the usual terms, unlike `tail`."""
    return Settings(redis_url=server.url, namespace=namespace)


@pytest.fixture
async def tail(server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    settings = Settings(redis_url=server.url, namespace=namespace, visibility_seconds=1.0, drain_seconds=5)
    async with Tailrace(settings=settings) as tail:
        yield tail


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A server of the test's own: what it was told is there again after it was killed."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder), ["--appendonly", "yes", "--appendfsync", "always"])
        daemon.start()
        yield daemon
        daemon.kill()


@asynccontextmanager
async def working(tail: Tailrace, **options: Any) -> AsyncIterator[Worker]:
    """A worker while the block runs; it drains at the end, and whatever it raised is raised."""
    worker = Worker(tail, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running


async def events_of(tail: Tailrace, run: str) -> list[Event[Any]]:
    return [event async for event in tail.run(run).follow(live=False)]


async def is_settled(tail: Tailrace, group: str) -> bool:
    """Whether the group has been given everything, and nothing is pending or waits."""
    session = await tail.session()
    for keys in session.keys.partitions:
        if not await execute(session.redis, "EXISTS", keys.log):
            return False
        groups = await execute(session.redis, "XINFO", "GROUPS", keys.log)
        said = [one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=True)) for one in groups]
        for one in said:
            named = {k.decode() if isinstance(k, bytes) else k: v for k, v in one.items()}
            if named["name"] != group.encode():
                continue
            last = await execute(session.redis, "XREVRANGE", keys.log, "+", "-", "COUNT", 1)
            if named["pending"] or (last and last[0][0] != named["last-delivered-id"]):
                return False
        if await execute(session.redis, "HGET", keys.meta, f"w:{group}"):
            return False
    return True


async def handled(tail: Tailrace, run: str) -> list[int]:
    return [event.data["n"] async for event in tail.run(run).follow(live=False) if event.type == "handled"]


async def dead_of(tail: Tailrace, group: str) -> list[tuple[str, int, str]]:
    """Run, number and reason of each letter, oldest first."""
    session = await tail.session()
    redis: Any = session.redis
    found = []
    for keys in session.keys.partitions:
        for entry, said in await redis.xrange(keys.dead_group(group)):
            event = Event(said[b"r"].decode(), FeedId.parse(said[b"i"].decode()), said[b"e"])
            found.append((entry, (event.run, event.data["n"], json.loads(said[b"f"])["reason"])))
    return [letter for _, letter in sorted(found)]


async def has(found: Callable[[], Awaitable[Sized]], count: int) -> bool:
    return len(await found()) == count
