"""Gateways under test, one a process: `python -m bench.serving <kind> <URL of the server> [--trust-messages]`; prints its port.

transport   the app of `tailrace gateway` under uvicorn with our protocol
send        the same under uvicorn as it comes: frames go by ASGI's send
mounted     Gateway(tail, authorize=...) mounted in a Starlette app, with our protocol
route       FeedResponse from a Starlette route, with our protocol
recipe      what tutorials do: sse-starlette's EventSourceResponse, a PubSub of redis-py for each client
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import uvicorn
import uvloop
from redis.asyncio import BlockingConnectionPool, Redis
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from gateway.app import Gateway, standalone
from gateway.auth import everyone
from gateway.collector import calm_collector
from gateway.protocol import Protocol
from gateway.response import FeedResponse
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.observe.logs import configure
from processor.store import topics

__all__ = ["KINDS", "path_of"]

KINDS: Final = ("transport", "send", "mounted", "route", "recipe")


def path_of(kind: str, run: str) -> str:
    return {"transport": "/api/default", "send": "/api/default", "mounted": "/tail"}.get(
        kind, ""
    ) + f"/runs/{run}/events"


def app_of(kind: str, tail: Tailrace) -> Any:
    if kind == "recipe":
        return Starlette(routes=[Route("/runs/{run}/events", _recipe(tail))])
    if kind == "route":

        async def feed(request: Request) -> Response:
            return FeedResponse(tail.run(request.path_params["run"]))

        return Starlette(routes=[Route("/runs/{run}/events", feed)])
    if kind == "mounted":
        return Starlette(routes=[Mount("/tail", app=Gateway(tail, authorize=everyone))])
    return standalone(tail)


def _recipe(tail: Tailrace) -> Any:
    """Its pool is as large as it has to be: a PubSub holds a connection."""
    redis: Redis = Redis.from_pool(
        BlockingConnectionPool.from_url(tail.settings.redis_url or "", max_connections=4096, protocol=2)
    )

    async def events(request: Request) -> Response:
        session = await tail.session()
        run = request.path_params["run"]
        channel = session.keys.of(run).channel(run)

        async def messages() -> AsyncIterator[ServerSentEvent]:
            async with redis.pubsub() as pubsub:
                await pubsub.ssubscribe(channel)
                yield ServerSentEvent(event="tailrace.caught_up", data="{}", sep="\n")
                while True:
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
                    if message is not None:
                        id, *payloads = message["data"].decode().split("\n")
                        for payload in payloads:
                            yield ServerSentEvent(id=id, data="{" + payload, sep="\n")

        return EventSourceResponse(messages(), ping=15)

    return events


async def _serve(kind: str, url: str) -> None:
    tail = Tailrace(settings=Settings(redis_url=url))
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(4096)
        config = uvicorn.Config(
            app_of(kind, tail),
            http="httptools" if kind in ("send", "recipe") else Protocol,
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        await tail.session()
        calm_collector()  # as `tailrace gateway` does
        print(listening.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    configure("json", level="WARNING")
    if "--trust-messages" in sys.argv:
        # What is published without an append stands in no hash: comparing tails would find it rewritten.
        topics.COMPARE_SECONDS = 1e9  # type: ignore[misc]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1], sys.argv[2]))
