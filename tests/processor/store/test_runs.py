"""What reading a run's state adds to its hash: what a queued one waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest
from redis.asyncio import Redis

from processor.client.run import Run
from processor.client.session import Session
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.store.executing import GROUP
from processor.store.runs import list_runs, read_state
from processor.store.workers import announce, tell_stopped, worker_here
from processor.worker.worker import Worker
from tests.support.servers import TestServer
from tests.support.until import until


@pytest.fixture
async def tail(every_server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    async with Tailrace(settings=Settings(redis_url=every_server.url, namespace=namespace, partitions=1)) as tail:
        yield tail


async def waits(session: Session, run: str) -> str | None:
    state = await read_state(session, run)
    assert state is not None
    return state.waiting_for


async def take(session: Session, task: str, count: int) -> None:
    """As a worker does: the entries are pending."""
    work = session.keys.partitions[0].work(task)
    await execute(session.redis, "XGROUP", "CREATE", work, GROUP, "0")
    await execute(session.redis, "XREADGROUP", "GROUP", GROUP, "me", "COUNT", count, "STREAMS", work, ">")


async def test_without_and_with_a_worker(tail: Tailrace) -> None:
    """A queued run says that no worker has its task, then how many wait before it, then who was the last."""
    session = await tail.session()
    runs = [(await tail.start("answer")).id for _ in range(3)]
    assert await waits(session, runs[0]) == 'a worker: none that has task "answer" is alive'
    await announce(session, worker_here("other", ["crawl"], places=5))
    assert await waits(session, runs[0]) == 'a worker: none that has task "answer" is alive'
    worker = await announce(session, worker_here("mine", ["answer"], places=5))
    words = await waits(session, runs[2])
    assert words == 'a free place: up to 2 wait before it (1 worker with task "answer" is alive)'
    await take(session, "answer", 2)
    assert await waits(session, runs[2]) == 'a free place: it is next (1 worker with task "answer" is alive)'
    await tell_stopped(session, worker)
    words = await waits(session, runs[2])
    assert words is not None
    assert words.startswith(f'a worker: none that has task "answer" is alive (last: {worker.name}, stopped 20')


async def test_a_rate(tail: Tailrace) -> None:
    """A run that a worker took and put off, since its task's rate is used up, says that, and not that its time has not come."""

    @tail.task(rate="1/day")
    async def answer(run: Run) -> None: ...

    worker = Worker(tail)
    runs = [(await answer.start()).id for _ in range(2)]
    session = await tail.session()

    async def is_refused() -> bool:
        return any(["its rate or limit, asked again at 20" in (await waits(session, run) or "") for run in runs])

    working = asyncio.create_task(worker.run())
    await until(is_refused, "one of them waits for the rate", 10)
    worker.stop()
    await working


async def test_a_listing_costs_one_look(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queued runs a page has, the workers are read once, and each task's stream once; other runs cost nothing."""
    session = await tail.session()
    async with tail.run("done") as run:
        run.log("x")
    with counted(monkeypatch) as commands:
        await list_runs(session)
    assert commands.count("HGETALL") == 1  # the run
    for n in range(5):
        await tail.start("answer" if n % 2 else "crawl")
    with counted(monkeypatch) as commands:
        page, _ = await list_runs(session)
    assert [state.run for state in page if state.waiting_for is None] == ["done"]
    assert len(page) == 6
    assert commands.count("HGETALL") == 6 + 1
    assert commands.count("XLEN") == commands.count("XINFO") == 2
    assert commands.count("TIME") == 1


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of all commands that are sent by redis-py's pool."""
    seen: list[str] = []
    pipeline = Redis.pipeline

    def watched(*args: object, **options: object) -> object:
        pipe = pipeline(*args, **options)  # type: ignore[arg-type]
        execute_command: Callable[..., object] = pipe.execute_command

        def note(*command: object) -> object:
            seen.append(str(command[0]))
            return execute_command(*command)

        pipe.execute_command = note  # type: ignore[method-assign, assignment]
        return pipe

    with monkeypatch.context() as patch:
        patch.setattr(Redis, "pipeline", watched)
        yield seen
