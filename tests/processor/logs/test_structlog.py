"""StructlogProcessor."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import structlog

from processor import Run, Tailrace
from processor.logs import Handler, StructlogProcessor
from processor.logs.outlet import outlet


def bound(*processors: Any) -> Any:
    """A logger that returns what the last processor was given."""
    kept: list[Any] = []

    def keep(logger: Any, method: str, event: Any) -> Any:
        kept.append(dict(event))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(
        None, processors=[*processors, keep], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    return logger, kept


async def logs_of(tail: Tailrace, run: str) -> list[Any]:
    return [event.data async for event in tail.run(run).follow(live=False) if event.type == "log"]


async def test_in_a_task(tail: Tailrace) -> None:
    """Events of a task are its run's, with their fields and tracebacks; the processors behind get them as they came."""
    log, kept = bound(structlog.processors.add_log_level, StructlogProcessor())

    @tail.task(retry=1)
    async def answer(run: Run) -> None:
        log.bind(order=7).info("paid", cents=5)
        try:
            raise ValueError("no")
        except ValueError:
            log.exception("failed")

    run = await answer.start_here()
    await run.result(5)
    first, second = await logs_of(tail, run.id)
    assert first == {"level": "info", "lines": ["paid"], "fields": {"order": 7, "cents": 5}}
    assert second["level"] == "error"
    assert (second["lines"][0], second["lines"][-1]) == ("failed", "ValueError: no")
    assert kept == [
        {"event": "paid", "level": "info", "order": 7, "cents": 5},
        {"event": "failed", "level": "error", "exc_info": True},
    ]


async def test_elsewhere(tail: Tailrace) -> None:
    """Outside of tasks they go to the run that was named, from the level on."""
    log, kept = bound(StructlogProcessor(tail, run="web-1", level="INFO"))
    log.debug("no")
    log.info("yes")
    log.bind(logger="tailrace.append").info("own")
    await asyncio.to_thread(outlet().flush, 2)
    assert [data["lines"] for data in await logs_of(tail, "web-1")] == [["yes"]]
    assert len(kept) == 3


async def test_through_logging(tail: Tailrace, logger: logging.Logger) -> None:
    """structlog that hands its events to logging, unrendered or as extra, needs Handler alone."""
    handler = Handler(tail, run="r")
    logger.addHandler(handler)
    for last in (structlog.stdlib.ProcessorFormatter.wrap_for_formatter, structlog.stdlib.render_to_log_kwargs):
        log = structlog.wrap_logger(
            logger, processors=[structlog.stdlib.filter_by_level, last], wrapper_class=structlog.stdlib.BoundLogger
        )
        log.info("paid", cents=5)
    await asyncio.to_thread(handler.flush)
    logger.removeHandler(handler)
    expected = {"level": "info", "lines": ["paid"], "logger": logger.name, "fields": {"cents": 5}}
    assert await logs_of(tail, "r") == [expected, expected]
