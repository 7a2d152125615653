"""Errors of tailrace in an application's own routes."""

from __future__ import annotations

import json

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from gateway import FeedResponse, problem
from processor.client.tailrace import Tailrace
from processor.core.errors import BadName, NotConfigured, RunFailed, RunNotFound, TailraceError, ThreadBusy
from tests.gateway.answers import problem_of

REQUEST = Request({"type": "http", "method": "GET", "path": "/runs/x", "headers": []})


@pytest.mark.parametrize(
    ("error", "status", "type"),
    [
        (RunNotFound("there is no run x.", run="x"), 404, "unknown-run"),
        (BadName("no"), 400, "bad-name"),
        (ThreadBusy("still in progress.", run="x"), 409, "busy"),
        (NotConfigured(), 503, "server-unreachable"),
    ],
)
async def test_errors_of_routes_are_problems(error: TailraceError, status: int, type: str) -> None:
    """As the gateway itself answers them."""
    response = await problem(REQUEST, error)
    assert (response.status_code, response.media_type) == (status, "application/problem+json")
    told = json.loads(bytes(response.body))
    assert (told["status"], told["type"]) == (status, type)
    assert ("retry-after" in response.headers) == (status == 503)
    assert "TAILRACE_REDIS_URL" not in bytes(response.body).decode()


@pytest.mark.parametrize("error", [ValueError("x"), RunFailed("x", run="r")], ids=["any", "run-failed"])
async def test_what_is_not_the_requests_fault_is_raised_on(error: Exception) -> None:
    """A bug of the application, and a failed run whose result it awaited, stay what they are."""
    with pytest.raises(type(error)):
        await problem(REQUEST, error)


async def test_an_applications_route_answers_a_bad_id() -> None:
    """Added to FastAPI as its documentation says, it answers what was 500 without it."""
    tail = Tailrace()
    app = FastAPI()
    app.add_exception_handler(TailraceError, problem)

    @app.get("/runs/{run}/events")
    async def events(run: str) -> Response:
        return FeedResponse(tail.run(run))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
        problem_of(await http.get("/runs/no%20such/events"), 400, "bad-name")
