"""A Tailrace with short terms on a real server, and workers that end with the block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from processor import Tailrace
from processor.core.settings import Settings
from processor.worker.worker import Worker
from tests.support.servers import TestServer

__all__ = ["working"]


@pytest.fixture
async def tail(server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    settings = Settings(redis_url=server.url, namespace=namespace, visibility_seconds=1.0, drain_seconds=5)
    async with Tailrace(settings=settings) as tail:
        yield tail


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
