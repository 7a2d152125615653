"""The registry: workers tell that they live, by the server's clock, and others read it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator

import pytest

from processor.client.session import Session
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.core.worker import WorkerState
from processor.store.connection import execute
from processor.store.workers import announce, list_workers, tell_stopped, worker_here
from tests.support.servers import TestServer


@pytest.fixture
async def session(every_server: TestServer, namespace: str) -> AsyncIterator[Session]:
    async with Tailrace(settings=Settings(redis_url=every_server.url, namespace=namespace)) as tail:
        yield await tail.session()


async def test_a_worker_tells_that_it_lives(session: Session) -> None:
    """Host, process, tasks and places are there for all to read; the times are the server's."""
    worker = await announce(session, worker_here("web-1-aaaaaa", ["b", "a"], places=100))
    known = await list_workers(session)
    assert known.all == (worker,)
    assert (worker.host, worker.pid, worker.tasks) == (socket.gethostname(), os.getpid(), ("a", "b"))
    assert worker.since == worker.seen
    assert known.now - worker.seen in range(5000)
    assert known.alive == [worker]


async def test_again_and_stopped(session: Session) -> None:
    """Later announcements keep the beginning; one that stops is gone at once, and known to have meant it."""
    first = await announce(session, worker_here("web-1-aaaaaa", ["a"], places=100))
    again = await announce(session, first)
    assert (again.since, again.seen >= first.seen) == (first.since, True)
    await tell_stopped(session, again)
    (last,) = (await list_workers(session)).all
    assert last.stopped is not None
    assert (await list_workers(session)).alive == []


async def test_the_first_announcement_forgets(session: Session) -> None:
    """What went a day ago is forgotten when the next worker comes, what lives is not, and foreign text harms nobody."""
    old = WorkerState(consumer="old", host="web", pid=1, tasks=("a",), version="1", seen=1)
    await execute(session.redis, "HSET", session.keys.workers, "old", old.json(), "foreign", b"?")
    one = await announce(session, worker_here("one", ["a"], places=100))
    two = await announce(session, worker_here("two", ["a"], places=100))
    assert {worker.consumer for worker in (await list_workers(session)).all} == {one.consumer, two.consumer}
