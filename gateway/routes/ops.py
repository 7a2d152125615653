"""What operators ask: does the process live, can it serve, what has it counted."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from gateway.auth import Access
from gateway.routes.exchange import SERVER_SECONDS, Exchange
from processor.observe import metrics
from processor.store.checks import check_server
from processor.store.connection import execute

__all__ = ["get_health", "get_metrics", "get_ready"]


async def get_health(exchange: Exchange) -> None:
    """The process answers; nothing is said about its server."""
    await exchange.answer_json(200, {"status": "ok", "version": version("tailrace")})


async def get_ready(exchange: Exchange) -> None:
    """The server answers and takes writes; otherwise 503 in the words of the fault."""
    session = await exchange.session()
    async with asyncio.timeout(SERVER_SECONDS):
        if session.server.shebang:
            await check_server(session.redis, session.settings)
        else:
            await execute(session.redis, "PING")  # fakeredis has no more to say
    await exchange.answer_json(200, {"status": "ready"})


async def get_metrics(exchange: Exchange) -> None:
    """Prometheus's text format. A mounted gateway asks its application first: it knows who its operators are."""
    if not exchange.gateway.standalone:
        await exchange.permit(Access("metrics"))
    await exchange.answer(200, metrics.exposition(), metrics.CONTENT_TYPE)
