"""A Tailrace on the session's server, and a logger of the test's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from processor import Tailrace
from processor.logs import Handler
from tests.support.servers import TestServer


@pytest.fixture
async def tail(server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    async with Tailrace(server.url, namespace=namespace) as tail:
        yield tail
    if tail.background._loop is not None:
        await asyncio.to_thread(tail.background.call, tail.close())
        tail.background.stop()


@pytest.fixture
def logger(namespace: str) -> logging.Logger:
    logger = logging.getLogger(f"shop.{namespace}")
    logger.setLevel("DEBUG")
    return logger


@pytest.fixture
def handled(logger: logging.Logger) -> Iterator[Callable[..., Handler]]:
    """Gives the logger a Handler with such arguments, until the end of the test."""
    handlers: list[Handler] = []

    def add(*args: Any, **kwargs: Any) -> Handler:
        handlers.append(Handler(*args, **kwargs))
        logger.addHandler(handlers[-1])
        return handlers[-1]

    yield add
    for handler in handlers:
        logger.removeHandler(handler)
