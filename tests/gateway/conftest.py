"""A standalone gateway on a real server, in a namespace of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.app import standalone
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from tests.gateway.serving import WAYS, Way, serving
from tests.support.servers import TestServer

KEY = "k" * 32


@pytest.fixture
async def tail(server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    """Also what a client that speaks Redis sees."""
    async with Tailrace(settings=Settings(redis_url=server.url, namespace=namespace, jwt_key=KEY)) as tail:
        yield tail


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Without a server and by uvicorn."""
    way: Way = request.param
    return way


@pytest.fixture
async def http(tail: Tailrace, namespace: str, way: Way) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose addresses begin at the namespace: /runs/…"""
    async with serving(standalone(tail), way, f"/api/{namespace}") as client:
        yield client
