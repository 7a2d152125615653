"""Handler: which run a record goes to, and that it is there."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from processor import GiveUp, Run, SyncRun, Tailrace
from processor.core.errors import BadInput, BadName, RunClosed, RunFailed
from processor.logs import Handler
from processor.worker.worker import Worker
from tests.support.servers import TestServer
from tests.support.until import until


async def events_of(tail: Tailrace, run: str) -> list[Any]:
    return [event async for event in tail.run(run).follow(live=False)]


async def lines_of(tail: Tailrace, run: str) -> list[str]:
    return [line for event in await events_of(tail, run) if event.type == "log" for line in event.data["lines"]]


async def exists(tail: Tailrace, run: str) -> bool:
    session = await tail.session()
    return bool(await session.redis.exists(session.keys.of(run).run(run)))


async def test_a_tasks_records_stand_among_what_it_writes(
    tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]
) -> None:
    """In program order, under its attempt, in a worker and in start_here; without naming any run."""
    handled()

    @tail.task(retry=1)
    async def answer(run: Run) -> None:
        logger.info("first", extra={"user": "ada"})
        run.write("text")
        await asyncio.sleep(0)
        logger.warning("second")

    worker = Worker(tail)
    working = asyncio.create_task(worker.run())
    queued, here = await answer.start(), await answer.start_here()
    for run in (queued, here):
        await run.result(10)
        events = [event for event in await events_of(tail, run.id) if not event.type.startswith("run.")]
        assert [event.type for event in events] == [
            "log",
            "message.started",
            "message.delta",
            "log",
            "message.finished",
        ]
        assert {event.attempt for event in events} == {1}
        assert events[0].data == {
            "level": "info",
            "lines": ["first"],
            "logger": logger.name,
            "fields": {"user": "ada"},
        }
    worker.stop()
    await working


async def test_what_a_failing_task_logged_stays(
    tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]
) -> None:
    """A line is visible at once, and the failure behind it takes nothing back."""
    handled()
    seen = asyncio.Event()

    @tail.task(retry=1)
    async def fails(run: Run) -> None:
        logger.info("about to")
        await seen.wait()
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("it failed")
        raise GiveUp("so")

    run = await fails.start_here()
    await until(lambda: _has(tail, run.id, "about to"), "the line is there before the end")
    seen.set()
    with pytest.raises(RunFailed):
        await run.result(5)
    lines = await lines_of(tail, run.id)
    assert lines[:3] == ["about to", "it failed", "Traceback (most recent call last):"]
    assert lines[-1] == "ValueError: no"


async def _has(tail: Tailrace, run: str, line: str) -> bool:
    return line in await lines_of(tail, run)


async def test_threads_of_a_task(tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]) -> None:
    """A plain function's records, and those of asyncio.to_thread, are the task's, up to the last one before its end."""
    handled()

    @tail.task(retry=1)
    def plain(run: SyncRun) -> None:
        for number in range(100):
            logger.info("%d", number)
            if number % 25 == 0:
                run.log(f"own {number}")

    @tail.task(retry=1)
    async def threaded(run: Run) -> None:
        await asyncio.to_thread(logger.info, "thread")

    run = await plain.start_here()
    await run.result(5)
    expected: list[str] = []
    for number in range(100):
        expected += [str(number)] + ([f"own {number}"] if number % 25 == 0 else [])
    assert await lines_of(tail, run.id) == expected
    other = await threaded.start_here()
    await other.result(5)
    assert await lines_of(tail, other.id) == ["thread"]


async def test_a_block(tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]) -> None:
    """In `async with tail.run()` records are that run's; the innermost counts, and a task that begins inside is further in."""
    handled()

    @tail.task(retry=1)
    async def inner(run: Run) -> None:
        logger.info("task")
        async with tail.run("in-task"):
            logger.info("in the task's block")

    async with tail.run("outer"):
        logger.info("one")
        async with tail.run("nested"):
            logger.info("two")
        run = await inner.start_here()
        await run.result(5)
        logger.info("three")
    logger.info("nowhere")
    assert await lines_of(tail, "outer") == ["one", "three"]
    assert await lines_of(tail, "nested") == ["two"]
    assert await lines_of(tail, run.id) == ["task"]
    assert await lines_of(tail, "in-task") == ["in the task's block"]


def test_a_blocking_block(
    server: TestServer, namespace: str, logger: logging.Logger, handled: Callable[..., Handler]
) -> None:
    """`with tail.sync.run()` alike."""
    tail = Tailrace(server.url, namespace=namespace)
    handled()
    with tail.sync.run("r") as run:
        logger.info("one")
        run.log("two")
    logger.info("nowhere")
    assert [e.data["lines"] for e in tail.sync.run("r").follow(live=False) if e.type == "log"] == [["one"], ["two"]]
    tail.sync.close()
    tail.portal.stop()


async def test_elsewhere(tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]) -> None:
    """Outside of tasks records go to the run that was named, in their order, below the level nowhere."""
    handler = handled(tail, run="web-1", level="INFO")
    logger.debug("no")
    for number in range(300):
        logger.info("%d", number)
    await asyncio.to_thread(handler.flush)
    assert await lines_of(tail, "web-1") == [str(number) for number in range(300)]
    assert (await tail.run("web-1").state()).status == "running"


async def test_own_records_do_not_feed_themselves(
    tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]
) -> None:
    """What tailrace and redis log, and whatever the background thread logs, goes to no run."""
    handler = handled(tail, run="r")
    for name in ("tailrace.append", "tailrace", "redis.connection", "processor.store.channels"):
        record = logging.getLogger(name).makeRecord(name, logging.INFO, "f", 1, "x", (), None)
        handler.handle(record)
    logger.info("begin")

    async def in_background() -> None:
        logger.info("background")

    await asyncio.to_thread(tail.background.call, in_background())
    logger.info("end")
    await asyncio.to_thread(handler.flush)
    assert await lines_of(tail, "r") == ["begin", "end"]


class Logs:
    """Shown, it logs itself."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __str__(self) -> str:
        self._logger.info("shown: %s", self)
        return "it"


async def test_a_record_that_logs(tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]) -> None:
    """What logs while it is formatted does so a few times and no more."""
    handler = handled(tail, run="r")
    logger.propagate = False  # other handlers would show it for ever
    logger.info("%s", Logs(logger))
    await asyncio.to_thread(handler.flush)
    lines = await lines_of(tail, "r")
    assert lines[-1] == "it"
    assert len(lines) < 10


@pytest.mark.holds_loop
async def test_under_a_blocked_loop(tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]) -> None:
    """Code that holds its loop logs into another run without waiting, and what it logged is there before it goes on."""
    handler = handled(tail, run="r")
    began = time.perf_counter()
    for number in range(200):
        logger.info("%d", number)
    assert time.perf_counter() - began < 1
    handler.flush()  # holds the loop as well: the background thread needs none of it
    found: list[int] = []

    def look() -> None:
        found.append(len([e for e in tail.sync.run("r").follow(live=False) if e.type == "log"]))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(5)
    assert found == [200]


async def test_refused_records_are_nobodys_failure(
    tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler], caplog: pytest.LogCaptureFixture
) -> None:
    """A run that takes no more costs the program nothing; its own failures stay its own."""
    handler = handled(tail, run="r")
    async with tail.run("r"):
        pass
    for _ in range(3):
        logger.info("late")
    await asyncio.to_thread(handler.flush)
    logger.info("later")
    await asyncio.to_thread(handler.flush)
    assert await lines_of(tail, "r") == []
    tail.run("r").log("unawaited")
    await until(lambda: tail._current().producer.writer("r").untold, "it was refused")
    logger.info("swallows nothing")
    with pytest.raises(RunClosed):
        tail.run("r").log("told here")


async def test_without_a_server_nothing_is_raised(logger: logging.Logger, handled: Callable[..., Handler]) -> None:
    """A server that is not there holds nothing up; flush() gives up in time."""
    tail = Tailrace("redis://127.0.0.1:1", namespace="n")
    handler = handled(tail, run="r", flush_seconds=0.1)
    for number in range(100):
        logger.info("%d", number)
    began = time.perf_counter()
    handler.flush()
    assert time.perf_counter() - began < 1
    await asyncio.to_thread(tail.background.call, tail.close())
    tail.background.stop()


async def test_nothing_configured(
    logger: logging.Logger, handled: Callable[..., Handler], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Without a server's address records go nowhere, quietly."""
    monkeypatch.delenv("TAILRACE_REDIS_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    handler = handled(run="r")
    logger.info("x")
    handler.flush()
    assert handler._send._tail is not None
    handler._send._tail.background.stop()


def test_arguments_are_checked() -> None:
    """What can be known at once is told where the handler is made."""
    with pytest.raises(BadName):
        Handler(run="a/b")
    with pytest.raises(BadInput, match="LOUD"):
        Handler(level="LOUD")
