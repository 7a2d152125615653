"""A Tailrace on the session's server, in a namespace of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from processor import Tailrace
from processor.core.settings import Settings
from tests.support.servers import TestServer


@pytest.fixture
async def tail(server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    async with Tailrace(server.url, namespace=namespace) as tail:
        yield tail


@pytest.fixture
async def brisk(server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    """With short terms: an owner's is 0.6 s."""
    settings = Settings(redis_url=server.url, namespace=namespace, owner_seconds=0.6, grace_seconds=0.3)
    async with Tailrace(settings=settings) as tail:
        yield tail
