"""GET /live: the first page, then what changes, until the reader leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from starlette.requests import HTTPConnection

from gateway.app import Gateway, standalone
from gateway.auth import Access, Grant
from gateway.hub import Hub
from gateway.routes.live import changes
from processor.client.tailrace import Tailrace
from processor.store.runs import RunState
from tests.gateway.answers import post
from tests.gateway.serving import under_uvicorn


def test_new_and_changed_runs_are_told_in_the_pages_order() -> None:
    """Runs that left the page are not mentioned; equal ones neither."""
    a, b, c = (RunState(run=name, status="running") for name in "abc")
    ended = replace(b, status="succeeded")
    assert changes([a, b], [ended, c, a]) == [ended, c]
    assert changes([a, b], [a, b]) == []
    assert changes([a, b], [a]) == []


async def frames(response: httpx.Response) -> AsyncIterator[list[dict[str, Any]]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))["runs"]


async def test_the_list_is_kept_current(tail: Tailrace, namespace: str) -> None:
    """One unnamed frame a change, LF only, no pings; the process's drain ends it."""
    async with (
        under_uvicorn(standalone(tail)) as address,
        httpx.AsyncClient(base_url=f"{address}/api/{namespace}", trust_env=False) as http,
    ):
        await post(http, "r1", "a")
        async with http.stream("GET", "/live") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            told = frames(response)
            first = await anext(told)
            assert [run["run"] for run in first] == ["r1"]
            assert first[0] == (await http.get("/runs/r1")).json()
            await post(http, "r2", "run.started")
            await post(http, "r1", "run.finished")
            seen: dict[str, str] = {}
            while seen != {"r1": "succeeded", "r2": "running"}:
                seen |= {run["run"]: run["status"] for run in await anext(told)}
            Hub.of_loop(tail.settings.heartbeat_seconds).draining = True
            try:
                assert [runs async for runs in told] == []
            finally:
                Hub.of_loop(tail.settings.heartbeat_seconds).draining = False


async def test_it_ends_with_the_permission(tail: Tailrace) -> None:
    """As the stream of a run does."""

    async def may(connection: HTTPConnection, access: Access) -> Grant:
        return Grant(until=datetime.now(UTC) + timedelta(seconds=0.3))

    async with (
        under_uvicorn(Gateway(tail, authorize=may)) as address,
        httpx.AsyncClient(base_url=address, trust_env=False) as http,
        asyncio.timeout(5),
        http.stream("GET", "/live") as response,
    ):
        assert [runs async for runs in frames(response)] == [[]]
