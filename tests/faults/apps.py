"""Applications as users write them, to be served by any ASGI server: a mounted gateway, runs of start_here.

They take the server's address from TAILRACE_REDIS_URL and have no lifespan.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from tailrace import Gateway, Run, Tailrace, everyone

__all__ = ["with_fastapi", "with_starlette"]

tail = Tailrace()
gateway = Gateway(tail, authorize=everyone)


@tail.task
async def endless(run: Run) -> None:
    """Says something now and then, and never returns."""
    while True:
        run.write("still here. ")
        await asyncio.sleep(0.2)


with_fastapi = FastAPI()


@with_fastapi.post("/begin")
async def begin() -> dict[str, str]:
    run = await endless.start_here()
    return {"run": run.id}


with_fastapi.mount("/tail", gateway)


async def begin_plain(request: Request) -> Response:
    return JSONResponse(await begin())


with_starlette = Starlette(
    routes=[
        Route("/begin", begin_plain, methods=["POST"]),
        Mount("/tail", gateway),
    ]
)
