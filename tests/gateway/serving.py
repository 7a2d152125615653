"""The gateway under test, reached in two ways: in this process without a server, and over a socket by uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import uvicorn

from gateway.protocol import Protocol
from tests.support.until import until

__all__ = ["WAYS", "Way", "serving", "under_uvicorn"]

Way = Literal["asgi", "uvicorn"]
WAYS: tuple[Way, ...] = ("asgi", "uvicorn")


@asynccontextmanager
async def under_uvicorn(app: Any, **options: Any) -> AsyncIterator[str]:
    """Serves on a free port of loopback with our protocol; yields the address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            lifespan="off",
            access_log=False,
            timeout_graceful_shutdown=2,
            **{"http": Protocol, **options},
        )
        server = uvicorn.Server(config)
        serve = asyncio.ensure_future(server.serve(sockets=[listening]))
        try:
            await until(lambda: server.started or serve.done(), "uvicorn serves")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await serve


@asynccontextmanager
async def serving(app: Any, way: Way, path: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app whose addresses begin with path."""
    if way == "asgi":
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://localhost{path}") as client:
            yield client
        return
    async with under_uvicorn(app) as address, httpx.AsyncClient(base_url=address + path, trust_env=False) as client:
        yield client
