"""Small answers leave at once."""

from __future__ import annotations

import asyncio
import socket

import httpx

from gateway.app import standalone
from gateway.protocol import Protocol
from processor.client.tailrace import Tailrace
from tests.gateway.serving import under_uvicorn

noted: list[int] = []


class Noting(Protocol):
    """Notes whether small writes wait for the acknowledgement of those before (Nagle: 40 ms an answer)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        noted.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


async def test_small_writes_do_not_wait(tail: Tailrace) -> None:
    """TCP_NODELAY is set also where the listening socket was not made by asyncio, as uvicorn's of --workers and --reload."""
    noted.clear()
    async with (
        under_uvicorn(standalone(tail), http=Noting) as address,
        httpx.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
    assert noted
    assert all(noted)
