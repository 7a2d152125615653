"""FeedResponse: a run's feed as the answer of any Starlette or FastAPI route, whatever stands around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.hub import Hub, _hubs
from gateway.protocol import Protocol
from gateway.response import FeedResponse
from processor.client.session import Session
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.store.connection import execute
from tests.gateway import apps
from tests.gateway.serving import under_uvicorn
from tests.gateway.sse_client import connect
from tests.processor.store.feedside import Feed
from tests.support.servers import TestServer
from tests.support.until import until


@pytest.fixture
async def session(server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    """The applications' own Tailrace, pointed to this test's namespace."""
    async with Tailrace(settings=Settings(redis_url=server.url, namespace=namespace)) as tail:
        monkeypatch.setattr(apps.tail, "session", tail.session)
        monkeypatch.setattr(apps.tail, "_settings", tail.settings)
        yield await tail.session()


@pytest.fixture
async def feed(session: Session) -> AsyncIterator[Feed]:
    feed = Feed(session, "r1")
    yield feed
    await feed.clear()


@pytest.fixture(params=["transport", "send"])
def http(request: pytest.FixtureRequest) -> Any:
    return Protocol if request.param == "transport" else "httptools"


@asynccontextmanager
async def served(app: Any, http: Any = Protocol) -> AsyncIterator[str]:
    async with under_uvicorn(app, http=http) as address:
        yield address


@pytest.mark.parametrize("app", [apps.fastapi, apps.starlette, apps.wrapped], ids=["fastapi", "starlette", "wrapped"])
async def test_any_route_streams_a_run(feed: Feed, http: Any, app: Any) -> None:
    """From FastAPI, from Starlette, and behind compressing and task-making middleware: at once, complete, in order."""
    await feed.append("run.started")
    async with (
        served(app, http) as address,
        connect(address, "/runs/r1/events", headers={"accept-encoding": "gzip"}) as stream,
    ):
        await stream.has("caught_up")
        for _ in range(20):
            await feed.append("message.delta", "message.delta")
        await stream.has_events(41)
        await feed.finish()
        await stream.ends()
        assert stream.names == ["open", "-", "caught_up", *["-"] * 41, "end"]
        assert stream.ids == [str(id) for id in feed.ids]
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.clean


async def test_headers_of_the_route_are_kept(feed: Feed) -> None:
    """A cookie that the route sets goes out with the stream, and with a page."""
    await feed.append("run.started")
    async with served(apps.starlette) as address:
        for accept in ("text/event-stream", "application/json"):
            async with connect(address, "/runs/r1/events", headers={"accept": accept}) as stream:
                assert stream.status == 200
                assert stream.headers["set-cookie"].startswith("seen=1")


async def test_forms_and_problems_are_those_of_the_gateway(feed: Feed) -> None:
    """By Accept a page or lines; what is wrong is told as a problem."""
    await feed.append("run.started")
    await feed.finish()
    async with served(apps.fastapi) as address:
        async with connect(address, "/runs/r1/events", headers={"accept": "*/*"}) as page:
            await page.ends()
            assert page.headers["content-type"] == "application/json"
            assert b'"events":[{"id"' in page.body
        async with connect(address, "/runs/r1/events", headers={"accept": "application/x-ndjson"}) as lines:
            await lines.ends()
            assert lines.body.count(b"\n") == 2
        for path, status, type in [
            ("/runs/nobody/events", 404, "unknown-run"),
            ("/runs/r1/events?after=now", 400, "bad-cursor"),
            ("/runs/r1/events?after=9-9", 400, "cursor-beyond-tail"),
        ]:
            async with connect(address, path) as refused:
                await refused.ends()
                assert refused.status == status
                assert f'"type":"{type}"'.encode() in refused.body
                assert refused.headers["content-type"] == "application/problem+json"
        async with connect(address, "/runs/r1/events", headers={"accept": "text/html"}) as refused:
            assert refused.status == 406


async def test_post_that_names_no_form_is_answered_by_the_feed(feed: Feed) -> None:
    """The answer to POST /chat is the stream itself, also for a client that accepts anything."""
    await feed.append("run.started")
    await feed.finish()
    async with (
        served(apps.fastapi) as address,
        connect(address, "/runs/r1", method="POST", headers={"accept": "*/*", "content-length": "0"}) as stream,
    ):
        await stream.ends()
        assert stream.names == ["open", "-", "-", "caught_up", "end"]


async def test_thread_streams_its_active_run(session: Session) -> None:
    """The run in progress of a thread; 204 where nothing is active."""
    feed = Feed(session, "t1~a")
    await feed.append("run.started")
    thread = session.keys.of("t1").thread("t1")
    async with served(apps.starlette) as address:
        async with connect(address, "/threads/t1/events") as nothing:
            assert nothing.status == 204
        await execute(session.redis, "HSET", thread, "active", "t1~a", "latest", "t1~a")
        async with connect(address, "/threads/t1/events") as stream:
            await stream.has("caught_up")
            assert stream.named("open")["run"] == "t1~a"
    await execute(session.redis, "DEL", thread)
    await feed.clear()


async def test_coalesced_frames_come_together(feed: Feed, http: Any) -> None:
    """The first frame at once, those of a window as one write, all of them and in order."""
    await feed.append("run.started")
    async with served(apps.starlette, http) as address, connect(address, "/coalesced/r1/events") as stream:
        await stream.has("caught_up")
        await feed.append("message.delta")
        await stream.has_events(2)
        for _ in range(5):
            await feed.append("message.delta")
        assert len(stream.events) == 2
        await stream.has_events(7)
        await feed.append("message.delta")
        await feed.finish()
        await stream.ends()
        assert stream.ids == [str(id) for id in feed.ids]


async def test_server_that_cannot_break_ends_cleanly_behind_the_hint(feed: Feed, http: Any) -> None:
    """BaseHTTPMiddleware completes every response; the last frame still says that it is no end."""
    await feed.append("run.started")
    async with served(apps.wrapped, http) as address, connect(address, "/runs/r1/events") as stream:
        await stream.has("caught_up")
        for hub in list(_hubs[asyncio.get_running_loop()].values()):
            hub.drain()
            hub.draining = False
        await stream.ends()
        assert stream.names[-1] == "reconnect"


async def test_disconnect_is_noticed_behind_middleware(feed: Feed, session: Session) -> None:
    """A client that leaves frees its place, also where receive is wrapped."""
    await feed.append("run.started")
    async with served(apps.wrapped) as address:
        async with connect(address, "/runs/r1/events") as stream:
            await stream.has("caught_up")
            assert "r1" in session.topics._topics
        await until(lambda: not session.topics._topics, "nobody follows the run")


async def test_plain_asgi_call(feed: Feed) -> None:
    """Nothing but scope, receive and send is needed; a finished run completes the response."""
    await feed.append("run.started")
    await feed.finish()
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(b"accept", b"text/event-stream")],
        "http_version": "1.1",
    }
    async with asyncio.timeout(5):
        await FeedResponse(apps.tail.run("r1"))(scope, receive, send)
    assert [message["type"] for message in sent[:2]] == ["http.response.start", "http.response.body"]
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    assert b"tailrace.end" in sent[-1]["body"]


async def test_cancelled_task_stays_cancelled(feed: Feed) -> None:
    """A server that cancels the application's task is obeyed, and the place is freed."""
    await feed.append("run.started")
    open_frame = asyncio.Event()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if b"caught_up" in message.get("body", b""):
            open_frame.set()

    scope = {"type": "http", "method": "GET", "query_string": b"", "headers": [(b"accept", b"text/event-stream")]}
    task = asyncio.create_task(FeedResponse(apps.tail.run("r1"))(scope, receive, send))
    await asyncio.wait_for(open_frame.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hubs: list[Hub] = list(_hubs[asyncio.get_running_loop()].values())
    assert not any(hub._subscribers for hub in hubs)
