"""tailrace in a FastAPI application: start a run, show it, and the page that follows it in two lines of script.

    uvicorn examples.fastapi_app:app          then open http://127.0.0.1:8000

The server is the one of TAILRACE_REDIS_URL, or of `tailrace up` in this folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import FileResponse
from starlette.requests import HTTPConnection
from starlette.responses import Response

from tailrace import Access, FeedResponse, Gateway

from .review import review, tail

app = FastAPI(lifespan=tail.lifespan)


def login(x_user: Annotated[str, Header()] = "guest") -> str:
    """Your own login stands here."""
    return x_user


async def owned(run: str, user: Annotated[str, Depends(login)]) -> str:
    """The run's ID, if it is the user's."""
    if (await tail.run(run).state()).labels.get("user") != user:
        raise HTTPException(403, "not your run")
    return run


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


@app.post("/reviews", status_code=201)
async def start(user: Annotated[str, Depends(login)], folder: str = ".") -> dict[str, str]:
    """Begin a run in this process and return its ID; `start` instead of `start_here` queues it for a worker."""
    run = await review.options(labels={"user": user}).start_here(folder)
    return {"run": run.id}


@app.get("/runs/{run}/events")
async def events(run: Annotated[str, Depends(owned)]) -> Response:
    """The run's feed, live. A browser that comes back continues where it stopped."""
    return FeedResponse(tail.run(run))


@app.post("/chat")
async def chat(user: Annotated[str, Depends(login)], folder: str = ".") -> Response:
    """Begin a run and answer with its feed. Closing the tab does not stop the run."""
    return FeedResponse(await review.options(labels={"user": user}).start_here(folder))


@app.post("/runs/{run}/cancel")
async def cancel(run: Annotated[str, Depends(owned)]) -> dict[str, bool]:
    """asked is false when the run had ended already."""
    return {"asked": await tail.run(run).cancel("the user pressed stop")}


async def may(connection: HTTPConnection, access: Access) -> bool:
    """Who may see what under /tail: everyone their own runs."""
    return access.labels.get("user") == connection.headers.get("x-user", "guest")


# Or all routes at once, behind the same login: list, state, pages, cancel, inputs, tailrace.js.
app.mount("/tail", Gateway(tail, authorize=may))
