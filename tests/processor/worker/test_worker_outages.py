"""A worker whose server stands still, or is away for longer than a visibility timeout, in each phase of an execution."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.core.settings import Settings
from processor.store.line import Line
from processor.store.relaying import Relaying
from processor.store.scripts import Script
from processor.store.writer import Writer
from processor.worker import draining
from processor.worker import worker as worker_module
from processor.worker.execution import Execution
from tests.processor.worker.conftest import working
from tests.support.servers import Daemon
from tests.support.until import until

VISIBILITY = 1.0  # seconds


@pytest.fixture
async def tail(daemon: Daemon, namespace: str) -> AsyncIterator[Tailrace]:
    settings = Settings(redis_url=daemon.url, namespace=namespace, visibility_seconds=VISIBILITY, drain_seconds=5)
    async with Tailrace(settings=settings) as tail:
        yield tail


class Outage:
    """Of a server, begun by whoever comes to a certain point first; it ends later than a visibility timeout."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.begun = False
        self.over = asyncio.Event()

    def begin(self) -> None:
        if not self.begun:
            self.begun = True
            self._daemon.kill()
            asyncio.get_running_loop().call_later(VISIBILITY * 1.5, self._end)

    def _end(self) -> None:
        self._daemon.start()
        self.over.set()


@pytest.mark.holds_loop  # to start a server again
@pytest.mark.parametrize("phase", ["read", "start", "live", "flush", "settle", "relay"])
async def test_server_away(tail: Tailrace, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """What runs is run once, and what it does to others happens once."""
    outage = Outage(daemon)
    attempts: list[int] = []
    line_script, line_call, flush = Line.script, Line.call, Writer.flush

    async def script(line: Line, script: Script, *command: bytes | str | int) -> Any:
        if script.name == phase:
            outage.begin()
        return await line_script(line, script, *command)

    async def call(line: Line, *command: bytes | str | int, seconds: float = 5) -> Any:
        if phase == "read" and command[0] == "XREADGROUP" and attempts:
            outage.begin()
        return await line_call(line, *command, seconds=seconds)

    async def flushing(writer: Writer, *, patiently: bool = False) -> None:
        if phase == "flush" and writer.chain.writer.startswith("x:"):
            outage.begin()
        await flush(writer, patiently=patiently)

    monkeypatch.setattr(Line, "script", script)
    monkeypatch.setattr(Line, "call", call)
    monkeypatch.setattr(Writer, "flush", flushing)

    @tail.task
    async def other(run: Run[Any], n: int) -> int:
        return n

    @tail.task(timeout_seconds=20)
    async def work(run: Run[Any]) -> str:
        attempts.append(run.attempt)
        run.log("before")
        for n in range(3):
            await other.options(id=f"other-{n}").start(n)
        if phase == "live":
            outage.begin()
            await run.log("during")
        return "done"

    if phase == "relay":
        relay_one = Relaying._one

        async def relay(relaying: Relaying, partition: int) -> None:
            outage.begin()
            await relay_one(relaying, partition)

        monkeypatch.setattr(Relaying, "_one", relay)

    async with working(tail):
        run = await work.start()
        assert await run.result(25) == "done"
        if phase == "read":
            await until(lambda: outage.begun, "it reads again")
        async with asyncio.timeout(10):
            await outage.over.wait()
        for n in range(3):
            await until(lambda n=n: _succeeded(tail.run(f"other-{n}")), f"other-{n} succeeded", 10)  # type: ignore[misc]
            feed = [event.type async for event in tail.run(f"other-{n}").follow(live=False)]
            assert feed == ["run.queued", "run.started", "run.finished"]
    assert attempts == [1]
    logged = [event.data["lines"] async for event in run.follow(live=False) if event.type == "log"]
    assert logged == [["before"], ["during"]] if phase == "live" else [["before"]]


async def _succeeded(run: Run[Any]) -> bool:
    session = await run._tail.session()
    status = await session.redis.hget(session.keys.of(run.id).run(run.id), "status")
    return bool(status == b"succeeded")


async def test_time_is_up_behind_the_work(tail: Tailrace, daemon: Daemon) -> None:
    """A function that is done in time has not timed out, however long its server takes to take what it wrote."""
    assert daemon.process is not None
    process = daemon.process

    @tail.task(retry=1, timeout_seconds=0.3)
    async def work(run: Run[Any]) -> str:
        process.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(1.5, process.send_signal, signal.SIGCONT)
        run.log("written")
        return "done"

    async with working(tail):
        run = await work.start()
        assert await run.result(10) == "done"


async def test_cancelled_behind_the_work(tail: Tailrace, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that is heard while the last output goes out takes nothing of it away."""
    assert daemon.process is not None
    process = daemon.process
    executions: list[Execution] = []
    finish = Execution._finish

    async def finishing(execution: Execution, result: object) -> Any:
        process.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.5, process.send_signal, signal.SIGCONT)
        asyncio.get_running_loop().call_later(0.1, execution.cancel)
        executions.append(execution)
        return await finish(execution, result)

    monkeypatch.setattr(Execution, "_finish", finishing)

    @tail.task
    async def work(run: Run[Any]) -> str:
        run.write("all of it")
        return "done"

    async with working(tail):
        run = await work.start()
        assert await run.result(10) == "done"
    assert executions
    assert await tail.run(run.id).text() == "all of it"


@pytest.mark.parametrize("cleans_up", [False, True])
async def test_drain_while_the_server_stands_still(
    tail: Tailrace, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, cleans_up: bool
) -> None:
    """A worker whose server does not answer drains in bounded time, and whoever comes next does the work."""
    monkeypatch.setattr(draining, "CLEAN_UP_SECONDS", 0.2)
    monkeypatch.setattr(draining, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(worker_module, "LAST_STEP_SECONDS", 0.5)
    assert daemon.process is not None
    begun = asyncio.Event()

    @tail.task
    async def work(run: Run[Any]) -> int:
        if run.attempt == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                if cleans_up:
                    await run.log("cleaned up")
        return run.attempt

    tail._settings = tail.settings.changed("test", drain_seconds=0.1)
    await tail.close()
    async with asyncio.timeout(30):
        async with working(tail):
            run = await work.start()
            await begun.wait()
            daemon.process.send_signal(signal.SIGSTOP)
        daemon.process.send_signal(signal.SIGCONT)
        async with working(tail):
            assert await run.result() == 2


async def test_a_hurried_release_is_settled(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function whose cleaning up takes too long at a drain is cancelled again, and still gives its run to others at once."""
    monkeypatch.setattr(draining, "CLEAN_UP_SECONDS", 0.1)
    begun = asyncio.Event()

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> int:
        if run.attempt == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.Event().wait()
        return run.attempt

    tail._settings = tail.settings.changed("test", drain_seconds=0.05)
    await tail.close()
    async with working(tail):
        run = await work.start()
        await begun.wait()
    assert (await run.state()).status == "queued"
