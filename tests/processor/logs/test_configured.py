"""Handlers and processors that a module, or a configuration, puts in place."""

from __future__ import annotations

import asyncio
import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from processor import Tailrace
from processor.logs import Handler, StructlogProcessor
from processor.logs.outlet import outlet
from processor.observe.logs import configure


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**before)


async def lines_of(tail: Tailrace, run: str) -> list[str]:
    events = [event async for event in tail.run(run).follow(live=False)]
    return [line for event in events if event.type == "log" for line in event.data["lines"]]


async def test_a_worker_keeps_what_the_module_added(tail: Tailrace) -> None:
    """`tailrace worker` sets up its logs behind the import of the module: what that added goes on, and the rest is replaced."""
    configure("json")
    first = logging.getLogger().handlers[0]
    logging.getLogger().addHandler(Handler(tail, run="handler"))
    structlog.configure(processors=[StructlogProcessor(tail, run="processor"), structlog.dev.ConsoleRenderer()])
    configure("json")
    handlers = logging.getLogger().handlers
    assert first not in handlers
    assert [type(handler).__name__ for handler in handlers] == ["StreamHandler", "Handler"]
    structlog.get_logger("shop").info("event")
    logging.getLogger("shop").info("record")
    await asyncio.to_thread(outlet().flush, 5)
    assert await lines_of(tail, "handler") == ["event", "record"]
    assert await lines_of(tail, "processor") == ["event"]


async def test_dict_config(tail: Tailrace, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration as a dict names the class; without a tail it is that of the environment."""
    monkeypatch.setenv("TAILRACE_REDIS_URL", str(tail.settings.redis_url))
    monkeypatch.setenv("TAILRACE_NAMESPACE", namespace)
    config: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"runs": {"class": "processor.logs.Handler", "run": "web-1", "level": "INFO"}},
        "loggers": {f"shop.{namespace}": {"handlers": ["runs"], "level": "DEBUG"}},
    }
    logging.config.dictConfig(config)
    logger = logging.getLogger(f"shop.{namespace}")
    logger.debug("no")
    logger.info("yes")
    handler = logger.handlers[0]
    assert isinstance(handler, Handler)
    await asyncio.to_thread(handler.flush)
    assert await lines_of(tail, "web-1") == ["yes"]
    logger.removeHandler(handler)
    own = handler._send._tail
    assert own is not None
    await asyncio.to_thread(own.background.call, own.close())
    own.background.stop()
