"""Records of reactions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from processor import Event, Run, Tailrace
from processor.logs import Handler
from processor.worker.worker import Worker
from tests.support.until import until


async def lines_of(tail: Tailrace, run: str) -> list[str]:
    events = [event async for event in tail.run(run).follow(live=False)]
    return [line for event in events if event.type == "log" for line in event.data["lines"]]


@pytest.fixture
async def working(tail: Tailrace) -> Any:
    """Begins a worker, once the test has declared its reactions."""
    workers: list[tuple[Worker, asyncio.Task[None]]] = []

    def begin() -> None:
        worker = Worker(tail)
        workers.append((worker, asyncio.create_task(worker.run())))

    yield begin
    for worker, task in workers:
        worker.stop()
        await task


async def test_they_are_the_events_runs(
    tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler], working: Callable[[], None]
) -> None:
    """A reaction's records go to the run of its event, at once: its failure takes nothing back. A batch of several runs has none."""
    handler = handled(tail, run="else")

    @tail.on("order.paid", group="single", retry=1)
    async def single(event: Event[Any], run: Run) -> None:
        logger.info("handled %s", event.data)
        raise ValueError("no")

    @tail.on("order.paid", group="plain")
    def plain(event: Event[Any]) -> None:
        logger.info("plain %s", event.data)

    @tail.on("stock.counted", group="many", batch=10)
    async def many(events: list[Event[Any]]) -> None:
        logger.info("%d at once", len(events))

    working()
    await tail.run("r").emit("order.paid", 7)
    await until(lambda: _has(tail, "r", {"handled 7", "plain 7"}), "both groups logged")
    # Of one partition, so that they may be of one batch.
    await tail.run("a~1").emit("stock.counted", 1)
    await tail.run("a~2").emit("stock.counted", 1)

    async def has_counted() -> bool:
        await asyncio.to_thread(handler.flush)
        return sum([len(await lines_of(tail, run)) for run in ("a~1", "a~2")]) == 2 or await exists(tail, "else")

    await until(has_counted, "the batch logged")


async def exists(tail: Tailrace, run: str) -> bool:
    session = await tail.session()
    return bool(await session.redis.exists(session.keys.of(run).run(run)))


async def _has(tail: Tailrace, run: str, lines: set[str]) -> bool:
    return lines <= set(await lines_of(tail, run))


async def test_a_reaction_to_logs_does_not_feed_itself(
    tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler], working: Callable[[], None]
) -> None:
    """What a reaction to `log` events logs goes nowhere: else each record would cause the next."""
    handled(tail, run="else")
    heard: list[list[str]] = []

    @tail.on("log", group="watch")
    async def watch(event: Event[Any]) -> None:
        heard.append(event.data["lines"])
        logger.info("heard %s", event.data["lines"])

    working()
    session = await tail.session()

    async def is_bound() -> bool:
        return bool(await session.redis.hexists(session.keys.of("r").meta, "b:log"))

    await until(is_bound, "the group is bound")
    await tail.run("r").log("one")
    await tail.run("r").log("two")
    await until(lambda: len(heard) >= 2, "both were heard")
    assert sorted(heard) == [["one"], ["two"]]
    assert await lines_of(tail, "r") == ["one", "two"]
    assert not await exists(tail, "else")
