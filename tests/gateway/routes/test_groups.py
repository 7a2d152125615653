"""GET /groups and /groups/{group}: one number for autoscalers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import HTTPConnection

from gateway.app import Gateway
from gateway.auth import Access
from processor.client.tailrace import Tailrace
from processor.store.workers import announce, worker_here
from tests.gateway.answers import problem_of
from tests.gateway.serving import Way, serving
from tests.processor.store.logside import LogSide
from tests.support.servers import TestServer


@pytest.fixture
async def side(server: TestServer, tail: Tailrace) -> AsyncIterator[LogSide]:
    side = LogSide(server, await tail.session())
    yield side
    side.close()


async def test_one_group(http: httpx.AsyncClient, side: LogSide) -> None:
    """What it was not given, what its members have, what is tried again; their sum, how old that is, and how many members live."""
    await side.bind("audit")
    await side.bind("other")
    await side.emit("a", 6)
    given = side.read("audit", "a", 3)
    side.fail("audit", "a", given[0], due=10**15)
    await announce(side.session, worker_here("m", [], groups=["audit"], places=9))
    response = await http.get("/groups/audit")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert 0 <= answer.pop("oldest_seconds") < 20
    assert answer == {"group": "audit", "backlog": 6, "lag": 3, "pending": 2, "delayed": 1, "members": 1}


async def test_all_groups(http: httpx.AsyncClient, side: LogSide) -> None:
    """By name; none is an empty list."""
    assert (await http.get("/groups")).json() == {"groups": []}
    await side.bind("b")
    await side.bind("a")
    found = (await http.get("/groups")).json()["groups"]
    assert [(group["group"], group["backlog"], group["oldest_seconds"]) for group in found] == [
        ("a", 0, 0),
        ("b", 0, 0),
    ]


async def test_no_such_group(http: httpx.AsyncClient) -> None:
    """404 in words; a name that can be none is 400, another method 405."""
    assert problem_of(await http.get("/groups/audit"), 404, "unknown-group")["value"] == "audit"
    problem_of(await http.get("/groups/a%20b"), 400, "bad-name")
    problem_of(await http.post("/groups/audit"), 405, "method")
    problem_of(await http.get("/groups/audit/x"), 404, "not-found")


async def test_who_may_ask(tail: Tailrace, side: LogSide, way: Way) -> None:
    """Those who may list: the application is asked as for a list of runs."""
    asked: list[Access] = []

    async def may(connection: HTTPConnection, access: Access) -> bool:
        asked.append(access)
        return connection.headers.get("x-user") == "root"

    await side.bind("audit")
    async with serving(Gateway(tail, authorize=may), way) as http:
        for path in ("/groups", "/groups/audit", "/groups/nobody"):
            problem_of(await http.get(path), 403, "denied")
        assert (await http.get("/groups/audit", headers={"X-User": "root"})).status_code == 200
    assert {access.scope for access in asked} == {"list"}
