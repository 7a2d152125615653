"""docs/producing.md: its requests are taken, its program is typed, and does what the page says."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from gateway.app import standalone
from processor import Entry, Tailrace
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.worker.inlets import Taking
from tests.gateway.answers import lines_of
from tests.gateway.serving import serving
from tests.support.pages import as_module, check_types, program_of
from tests.support.program import ROOT
from tests.support.servers import TestServer
from tests.support.until import until

PAGE = (ROOT / "docs/producing.md").read_text()
PROGRAM = program_of("docs/producing.md")


def test_the_program_is_typed(tmp_path: Path) -> None:
    """It passes mypy --strict."""
    check_types(tmp_path, "shop.py", PROGRAM)


async def send(http: httpx.AsyncClient, command: str) -> httpx.Response:
    """A curl command of the page, as curl sends it."""
    words = shlex.split(command)
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    path = words[2].partition("/api/default")[2]
    return await http.post(path, content=words[words.index("-d") + 1], headers=headers)


async def test_its_requests_are_taken(server: TestServer) -> None:
    """All modes end in one feed."""
    async with (
        Tailrace(settings=Settings(redis_url=server.url)) as tail,
        serving(standalone(tail), "asgi", "/api/default") as http,
    ):
        for command in re.findall(r"^\$ (curl .*)$", PAGE, re.MULTILINE):
            response = await send(http, command)
            assert response.status_code == 200, response.text
        events = await lines_of(http, "order-7")
    assert [event["type"] for event in events] == ["order.paid", "order.packed", "order.sent", "order.rated"]
    assert events[0]["labels"] == {"ce-id": "A-1", "ce-source": "/shop/eu"}
    assert events[3]["labels"]["ce-subject"] == "order 7"
    assert [event["data"] for event in events] == [{"cents": 500}, None, None, {"stars": 5}]


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return as_module(monkeypatch, "shop_of_producing_page", PROGRAM)


def test_its_function_is_a_function(shop: ModuleType) -> None:
    """It can be tested as the page says."""
    (call,) = re.findall(r"`order\((Entry\.of\(.*?\))\)`", PAGE)
    into = shop.order(eval(call, {"Entry": Entry}))
    assert (into.run, into.data, into.labels) == ("order-7", {"cents": 500}, {"shop": "eu"})


async def test_its_inlets_take_entries(server: TestServer, namespace: str, shop: ModuleType) -> None:
    """With the page's function and without one; what has no field that it needs is set aside."""
    tail: Tailrace = shop.tail
    tail._given = Settings(redis_url=server.url, namespace=namespace)
    async with tail:
        session = await tail.session()

        async def add(stream: str, **fields: str) -> None:
            await execute(session.redis, "XADD", stream, "*", *(part for field in fields.items() for part in field))

        await add("payments", run="p-1", type="card.charged", data='{"cents": 500}', more="x")
        await add("orders", kind="ping")
        await add("orders", kind="order", order="7", cents="500", shop="eu")
        await add("orders", kind="order", order="7")
        await add("orders", kind="order", order="7", cents="5", shop="eu", note="gift")
        stop = asyncio.Event()
        working = [asyncio.create_task(Taking(inlet, session).run(stop)) for inlet in tail.inlets.values()]

        async def payloads(run: str) -> list[dict[str, Any]]:
            entries = await execute(session.redis, "XRANGE", session.keys.of(run).feed(run), "-", "+")
            return [json.loads(b"{" + fields[b"e"]) for _, fields in entries]

        async def arrived() -> bool:
            return (len(await payloads("p-1")), len(await payloads("order-7"))) == (1, 3)

        await until(arrived, "everything arrived", 10)
        stop.set()
        await asyncio.gather(*working)
        assert await payloads("p-1") == [{"type": "card.charged", "data": {"cents": 500}}]
        assert [(event["type"], event["data"]) for event in await payloads("order-7")] == [
            ("order.paid", {"cents": 500}),
            ("order.paid", {"cents": 5}),
            ("order.noted", "gift"),
        ]
        letters = await execute(session.redis, "XRANGE", session.keys.partitions[0].dead_group("orders"), "-", "+")
        errors = [json.loads(fields[b"f"])["error"] for _, fields in letters]
        assert errors == ["there is no field cents; it has kind, order"]
        await execute(session.redis, "DEL", "orders", "payments")
