"""Requests that do not arrive whole, and answers that cannot be finished, called as a server would call."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.app import standalone
from gateway.routes import exchange, read
from processor.client.tailrace import Tailrace
from processor.store.feeds import Feeds
from tests.support.servers import TestServer

JSON = [(b"content-type", b"application/json")]


def scope(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    raw = path.encode()
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": raw,
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
    }


async def call(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What was sent; behind the given messages nothing comes any more."""
    waiting = list(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_a_body_that_does_not_end_is_408(tail: Tailrace, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under servers that have no limit of their own; the connection is not used again."""
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.05)
    path = f"/api/{namespace}/runs/r1/events"
    half = {"type": "http.request", "body": b'{"type":', "more_body": True}
    head, body = await call(standalone(tail), scope("POST", path, JSON), half)
    assert head["status"] == 408
    assert dict(head["headers"])[b"connection"] == b"close"
    assert json.loads(body["body"])["type"] == "timeout"


async def test_nothing_is_said_to_a_client_that_left(tail: Tailrace, namespace: str) -> None:
    """Nor is its half body taken."""
    path = f"/api/{namespace}/runs/r1/events"
    half = {"type": "http.request", "body": b'{"type":"a"}', "more_body": True}
    assert await call(standalone(tail), scope("POST", path, JSON), half, {"type": "http.disconnect"}) == []
    session = await tail.session()
    assert not await session.redis.exists(session.keys.of("r1").run("r1"))


async def test_an_endless_body_is_refused_after_8_mib(tail: Tailrace, namespace: str) -> None:
    """Up to there it is read away, so that its sender sees the answer."""
    path = f"/api/{namespace}/runs/r1/events"
    mebi = {"type": "http.request", "body": b" " * 1024 * 1024, "more_body": True}
    head, _ = await call(standalone(tail), scope("POST", path, JSON), *[mebi] * 9)
    assert head["status"] == 413
    assert dict(head["headers"])[b"connection"] == b"close"
    end = {"type": "http.request", "body": b" ", "more_body": False}
    head, _ = await call(standalone(tail), scope("POST", path, JSON), *[mebi] * 2, end)
    assert head["status"] == 413
    assert b"connection" not in dict(head["headers"])


async def test_lines_that_are_gone_meanwhile_break_the_answer(
    tail: Tailrace, namespace: str, server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feed that was trimmed between two pages: the answer has no end, and the next request is told."""
    monkeypatch.setattr(read, "FIRST_PAGE", 2)
    app = standalone(tail)
    path = f"/api/{namespace}/runs/r1/events"
    body = json.dumps([{"type": "a"}] * 20).encode()
    await call(app, scope("POST", path, JSON), {"type": "http.request", "body": body})
    session = await tail.session()
    feed = session.keys.of("r1").feed("r1")
    pages: list[int] = []
    page = Feeds.page

    async def trimmed(self: Feeds, run: str, first: int, count: int, last: int | None = None) -> Any:
        if pages:
            client = server.client()
            client.xtrim(feed, minid="15", approximate=False)
            client.close()
        pages.append(first)
        return await page(self, run, first, count, last)

    monkeypatch.setattr(Feeds, "page", trimmed)
    ndjson = [(b"accept", b"application/x-ndjson")]
    sent = await call(app, scope("GET", path, ndjson))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]
    assert sent[-1]["body"].count(b"\n") == 3


async def test_other_kinds_of_scope(tail: Tailrace) -> None:
    """A lifespan is answered where a server offers one; WebSockets are closed."""
    app = standalone(tail)
    started, ended = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
    sent = await call(app, {"type": "lifespan"}, started, ended)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    sent = await call(app, {"type": "websocket", "path": "/"}, {"type": "websocket.connect"})
    assert [message["type"] for message in sent] == ["websocket.close"]
