"""Applications as users write them, for servers that are started as programs. The Redis server comes from TAILRACE_REDIS_URL."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from gateway.app import Gateway
from gateway.auth import everyone
from gateway.response import FeedResponse
from processor.client.tailrace import Tailrace

tail = Tailrace()

fastapi = FastAPI()


@fastapi.get("/runs/{run}/events")
async def events(run: str) -> Response:
    return FeedResponse(tail.run(run))


@fastapi.post("/runs/{run}")
async def answer(run: str) -> Response:
    return FeedResponse(tail.run(run))


fastapi.mount("/tail", Gateway(tail, authorize=everyone))


async def _route(request: Request) -> Response:
    response = FeedResponse(tail.run(request.path_params["run"]))
    response.set_cookie("seen", "1")
    return response


async def _coalesced(request: Request) -> Response:
    return FeedResponse(tail.run(request.path_params["run"]), coalesce_ms=200)


async def _thread(request: Request) -> Response:
    return FeedResponse(tail.thread(request.path_params["thread"]))


_routes = [
    Route("/runs/{run}/events", _route),
    Route("/coalesced/{run}/events", _coalesced),
    Route("/threads/{thread}/events", _thread),
    Mount("/tail", Gateway(tail, authorize=everyone)),
]

starlette = Starlette(routes=_routes)


async def _pass(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


wrapped = Starlette(
    routes=_routes, middleware=[Middleware(GZipMiddleware), Middleware(BaseHTTPMiddleware, dispatch=_pass)]
)
