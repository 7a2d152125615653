"""A server that stops taking writes while it is used: told in the library's own words, and healed without a loss."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

import processor.store.writer
from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.errors import (
    BufferFull,
    ServerError,
    ServerEvicting,
    ServerFull,
    ServerReadOnly,
    ServerUnreachable,
)
from processor.core.settings import Settings
from tests.support.servers import Daemon, Kind, binary_of
from tests.support.until import until

WORDS: dict[str, type[ServerError]] = {"full": ServerFull, "read-only": ServerReadOnly}


@pytest.fixture(params=["valkey", "redis7"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A server of the test's own, with an AOF; fakeredis is never full and no replica."""
    kind: Kind = request.param
    if binary_of(kind) is None:
        pytest.skip(f"{kind} is not installed")
    with tempfile.TemporaryDirectory(prefix="tailrace-refuses-") as folder:
        daemon = Daemon(kind, Path(folder), ["--appendonly", "yes"])
        daemon.start()
        yield daemon
        daemon.kill(signal.SIGTERM)


@asynccontextmanager
async def client_of(daemon: Daemon) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis.from_url(daemon.url, protocol=2)
    try:
        yield client
    finally:
        await client.aclose()


async def refuse(client: Any, how: str) -> None:
    if how == "full":
        await client.config_set("maxmemory", "100kb")
    else:
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")  # of nobody: it stays what it was, and read-only


async def heal(client: Any, how: str) -> None:
    if how == "full":
        await client.config_set("maxmemory", "0")
    else:
        await client.execute_command("REPLICAOF", "NO", "ONE")


async def lines_of(tail: Tailrace, run: str) -> list[str]:
    return [event.data["lines"][0] async for event in tail.run(run).follow(live=False) if event.type == "log"]


@pytest.mark.parametrize("how", WORDS)
async def test_refused_writes_wait_and_go_on(daemon: Daemon, how: str) -> None:
    """An awaited write says what the server refuses; when it is healed, all that was written is there once, in order."""
    async with client_of(daemon) as client, Tailrace(daemon.url) as tail:
        run = tail.run("r")
        await run.log("0")
        await refuse(client, how)
        with pytest.raises(WORDS[how]) as told:
            await run.log("1")
        assert daemon.url in told.value.message
        assert told.value.remedy
        for number in range(2, 50):
            run.log(str(number))
        with pytest.raises(WORDS[how]):
            await run.log("50")
        await heal(client, how)
        await until(lambda: _count(tail, 52), "all events are there", 10)
        await run.log("52")
    async with Tailrace(daemon.url) as tail:
        assert await lines_of(tail, "r") == [str(number) for number in range(51)] + ["52"]


async def _count(tail: Tailrace, count: int) -> bool:
    """Whether the run has so many events; what is written last counts too."""
    state = await tail.run("r").state()
    return int((state.tail or "0").partition("-")[0]) >= count - 1


@pytest.mark.parametrize("how", WORDS)
async def test_reading_needs_no_writes(daemon: Daemon, how: str) -> None:
    """A process that begins now may read what is there; one that asks early whether it may write is told."""
    async with client_of(daemon) as client:
        async with Tailrace(daemon.url) as tail:
            await tail.run("r").log("0")
        await refuse(client, how)
        reader = Tailrace(daemon.url)
        assert await lines_of(reader, "r") == ["0"]
        assert (await reader.run("r").state()).status == "running"
        with pytest.raises(WORDS[how]):
            await reader.run("r").log("1")
        await reader.close()
        with pytest.raises(WORDS[how]):
            async with Tailrace(daemon.url):
                pass
        await heal(client, how)


@pytest.mark.parametrize("how", WORDS)
async def test_runs_live_through_a_refusal(daemon: Daemon, how: str) -> None:
    """A run executed here goes on with its work, and ends as it would have, once the server takes its events."""
    settings = Settings(redis_url=daemon.url, owner_seconds=1.0)
    async with client_of(daemon) as client, Tailrace(settings=settings) as tail:
        may_end = asyncio.Event()

        @tail.task
        async def answer(run: Run) -> str:
            for number in range(100):
                run.log(str(number))
                await asyncio.sleep(0.005)
            await may_end.wait()
            return "done"

        run = await answer.options(id="r").start_here()
        await until(lambda: _count(tail, 20), "it has written", 5)
        await refuse(client, how)
        if how == "full":  # renewals are allowed then, so the run stays owned for as long as it takes
            await asyncio.sleep(1.5)
        may_end.set()
        await heal(client, how)
        assert await run.result(10) == "done"
        assert await lines_of(tail, "r") == [str(number) for number in range(100)]


async def test_unreachable_is_said_at_its_limit(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Awaiting raises ServerUnreachable at the limit and not before; the event stays and is sent when the server is back."""
    monkeypatch.setattr(processor.store.writer, "UNREACHABLE_SECONDS", 0.4)
    loop = asyncio.get_running_loop()
    async with Tailrace(daemon.url) as tail:
        run = tail.run("r")
        await run.log("0")
        daemon.kill()
        begin = loop.time()
        with pytest.raises(ServerUnreachable) as told:
            await run.log("1")
        assert 0.4 <= loop.time() - begin < 2
        assert daemon.url in told.value.message
        await asyncio.get_running_loop().run_in_executor(None, daemon.start)
        await run.log("2")
        assert await lines_of(tail, "r") == ["0", "1", "2"]


async def test_short_outage_is_not_told(daemon: Daemon) -> None:
    """A server that is back before the limit costs the writer a wait and nothing else; a follower goes on likewise."""
    async with Tailrace(daemon.url) as tail:
        run = tail.run("r")
        await run.log("0")
        seen: list[str] = []

        async def follow() -> None:
            async for event in run.follow():
                seen.append(event.data["lines"][0])  # noqa: PERF401 - while it runs

        following = asyncio.create_task(follow())
        await until(lambda: seen, "the follower has begun")
        daemon.kill()
        writing = asyncio.ensure_future(run.log("1"))
        await asyncio.get_running_loop().run_in_executor(None, daemon.start)
        assert (await writing).startswith("2-")
        await until(lambda: seen == ["0", "1"], "the follower has it", 10)
        following.cancel()


async def test_memory_is_bounded_while_the_server_is_away(daemon: Daemon) -> None:
    """What is written to a full buffer and not awaited raises BufferFull; what was taken in before comes through."""
    settings = Settings(redis_url=daemon.url, buffer_mib=1)
    async with Tailrace(settings=settings) as tail:
        run = tail.run("r")
        await run.log("first")
        daemon.kill()
        written = 0
        with pytest.raises(BufferFull):
            for written in range(10_000):
                run.log(f"{written} {'x' * 1000}")
        assert 700 < written < 1200
        await asyncio.get_running_loop().run_in_executor(None, daemon.start)
        await run.log("last")
        numbers = [line.partition(" ")[0] for line in await lines_of(tail, "r")]
        assert numbers == ["first", *map(str, range(len(numbers) - 2)), "last"]
        assert len(numbers) - 2 in (written - 1, written)


async def test_evicting_server_is_refused(daemon: Daemon) -> None:
    """A server that may evict runs nobody has read is not opened, unless a setting allows it."""
    async with client_of(daemon) as client:
        await client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ServerEvicting):
        async with Tailrace(daemon.url):
            pass
    async with Tailrace(settings=Settings(redis_url=daemon.url, allow_eviction=True)) as tail:
        await tail.run("r").log("taken")


async def test_waits_for_a_server_that_comes_later(daemon: Daemon) -> None:
    """Events written before there is a server go out when it is there; who asks meanwhile is told what is wrong."""
    daemon.kill()
    tail = Tailrace(daemon.url)
    run = tail.run("r")
    run.log("early")
    with pytest.raises(ServerUnreachable) as told:
        await tail.session()
    assert daemon.url in told.value.message
    await asyncio.get_running_loop().run_in_executor(None, daemon.start)
    await run.log("late")
    assert await lines_of(tail, "r") == ["early", "late"]
    await tail.close()
