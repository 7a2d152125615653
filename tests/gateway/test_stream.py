"""The SSE stream as WIRE 4 has it, over the server's transport and over `send` alike."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.app import Gateway
from gateway.auth import Authorize, Grant, everyone
from gateway.hub import Hub
from gateway.protocol import Protocol
from processor.client.link import link_to
from processor.client.session import Session
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.store import topics as topics_module
from processor.store.connection import execute
from processor.store.workers import announce, worker_here
from tests.gateway.serving import under_uvicorn
from tests.gateway.sse_client import connect
from tests.processor.store.feedside import Feed
from tests.support.servers import Daemon, TestServer
from tests.support.until import until

KEY = "k" * 32
Open = Callable[..., Any]


class Site:
    """A gateway under uvicorn with one run in its namespace."""

    def __init__(self, address: str, session: Session, feed: Feed) -> None:
        self.address = address
        self.session = session
        self.feed = feed

    def open(self, query: str = "", *, run: str = "r1", **options: Any) -> Any:
        return connect(self.address, f"/runs/{run}/events{query}", **options)


@pytest.fixture(params=["transport", "send"])
def http(request: pytest.FixtureRequest) -> Any:
    """Our protocol, which offers its transport, and uvicorn's own, which does not."""
    return Protocol if request.param == "transport" else "httptools"


@asynccontextmanager
async def running(
    url: str, namespace: str, http: Any, *, authorize: Authorize = everyone, **settings: Any
) -> AsyncIterator[Site]:
    chosen = Settings(redis_url=url, namespace=namespace, jwt_key=KEY, **settings)
    async with Tailrace(settings=chosen) as tail:
        session = await tail.session()
        feed = Feed(session, "r1")
        async with under_uvicorn(Gateway(tail, authorize=authorize), http=http) as address:
            try:
                yield Site(address, session, feed)
            finally:
                for hub in _hubs():
                    hub.drain()
                    hub.draining = False
        await feed.clear()


def _hubs() -> list[Hub]:
    from gateway import hub

    return list(hub._hubs.get(asyncio.get_running_loop(), {}).values())


@pytest.fixture
async def site(server: TestServer, namespace: str, http: Any) -> AsyncIterator[Site]:
    async with running(server.url, namespace, http) as site:
        yield site


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_finished_run_is_played_and_ends_cleanly(site: Site) -> None:
    """Head, open, events, caught_up, end, and the last chunk; every byte as the contract has it."""
    feed = site.feed
    await feed.append("run.started", data=b"{}")
    await feed.append("message.delta", "message.delta", data='{"text":"\u2028 \u0085 \\u0000 ü"}'.encode())
    await feed.finish()
    async with site.open() as stream:
        await stream.ends()
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["x-accel-buffering"] == "no"
        assert "content-length" not in stream.headers
        assert stream.clean
        assert b"\r" not in stream.body
        assert stream.names == ["open", "-", "-", "-", "-", "caught_up", "end"]
        first = stream.frames[0]
        assert 1000 <= int(first.retry) <= 3000
        tail = str(feed.ids[-1])
        assert first.data == {"run": "r1", "status": "succeeded", "cursor": "0", "tail": tail, "attempt": 0}
        assert stream.named("caught_up") == {"cursor": tail}
        assert stream.named("end") == {"status": "succeeded", "cursor": tail}
        assert [frame for frame in stream.frames if frame.id and frame.name] == []
        expected = [
            b'id: %b\ndata: {"id":"%b","run":"r1",%b\n\n' % (str(id).encode(), str(id).encode(), payload)
            for id, payload in zip(feed.ids, feed.payloads, strict=True)
        ]
        assert b"".join(expected) in bytes(stream.body)


async def test_live_events_come_to_all(site: Site) -> None:
    """What is appended while they are connected reaches every subscriber, then the end."""
    feed = site.feed
    await feed.append("run.started")
    async with site.open() as one, site.open(f"?after={feed.ids[0]}") as two:
        await one.has("caught_up")
        await two.has("caught_up")
        await feed.append("message.delta")
        await feed.append("message.delta", "message.delta")
        await feed.finish()
        await one.ends()
        await two.ends()
        assert one.clean
        assert two.clean
        assert one.names == ["open", "-", "caught_up", "-", "-", "-", "-", "end"]
        assert one.ids == [str(id) for id in feed.ids]
        assert two.ids == one.ids[1:]
        assert two.names[:3] == ["open", "caught_up", "-"]
        assert two.named("open")["cursor"] == str(feed.ids[0])


async def test_the_first_frame_says_why_a_run_waits(site: Site) -> None:
    """A queued run's subscribers are told in tailrace.open that no worker has its task; where one lives, what is before it."""
    session = site.session
    await site.feed.append("run.queued", status="queued")
    await execute(session.redis, "HSET", site.feed.hash, "task", "answer")
    async with site.open() as stream:
        await stream.has("caught_up")
        assert stream.named("open")["waiting_for"] == 'a worker: none that has task "answer" is alive'
    await announce(session, worker_here("web-1-aaaaaa", ["answer"], places=1))
    async with site.open() as stream:
        await stream.has("caught_up")
        assert stream.named("open")["waiting_for"].startswith("a free place: it is next")


async def test_last_event_id_wins_over_after(site: Site) -> None:
    """The header is the cursor, `after` is then not even parsed."""
    feed = site.feed
    await feed.append("run.started", "a.b", "a.c")
    async with site.open("?after=nonsense", headers={"last-event-id": str(feed.ids[1])}) as stream:
        await stream.has("caught_up")
        assert stream.ids == [str(feed.ids[2])]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("expired", [True, False])
async def test_end_of_a_terminal_run_is_204(site: Site, header: bool, expired: bool) -> None:
    """A cursor at the tail of a run that has ended stops an EventSource, also when the events have expired."""
    feed = site.feed
    await feed.append("run.started")
    await feed.finish()
    tail = str(feed.ids[-1])
    if expired:
        await feed.expire()
    query, headers = ("", {"last-event-id": tail}) if header else (f"?after={tail}", {})
    async with site.open(query, headers=headers) as stream:
        assert stream.status == 204
        assert "transfer-encoding" not in stream.headers


async def test_cursor_beyond_the_tail(site: Site) -> None:
    """In `after` it is refused; in the header of a returning client it is a rewritten history."""
    feed = site.feed
    await feed.append("run.started", "a.b")
    beyond = "9-1700000000001"
    async with site.open(f"?after={beyond}") as refused:
        await refused.ends()
        assert refused.status == 400
        assert b'"type":"cursor-beyond-tail"' in refused.body
        assert f'"tail":"{feed.ids[-1]}"'.encode() in refused.body
    async with site.open(headers={"last-event-id": beyond}) as stream:
        await stream.has("caught_up")
        assert stream.names == ["open", "gap", "-", "-", "caught_up"]
        gap = stream.named("gap")
        assert (gap["from"], gap["to"], gap["reason"]) == (1, 9, "rewritten")
        assert gap["snapshot"]["run"] == "r1"


async def test_gaps_stand_where_the_events_would(site: Site) -> None:
    """Trimmed: told, then on behind it. A rewrite while connected: told, then the feed from its start."""
    feed = site.feed
    before = metric("tailrace_gaps_told_total", reason="trimmed")
    for _ in range(5):
        await feed.append("message.delta")
    await feed.trim(2)
    async with site.open(f"?after={feed.ids[0]}") as stream:
        await stream.has("caught_up")
        assert stream.names == ["open", "gap", "-", "-", "caught_up"]
        gap = stream.named("gap")
        assert (gap["from"], gap["to"], gap["reason"]) == (2, 3, "trimmed")
        assert metric("tailrace_gaps_told_total", reason="trimmed") == before + 1
    await feed.clear()
    again = Feed(site.session, "r1")
    again.ms = feed.ms
    await again.append("message.delta", "message.delta")
    async with site.open() as stream:
        await stream.has("caught_up")
        await again.lose_tail(1)
        await again.append("message.delta")
        await again.finish()
        await stream.ends()
        assert stream.names == ["open", "-", "-", "caught_up", "gap", "-", "-", "-", "end"]
        assert stream.ids[2:] == [str(id) for id in again.ids]


async def test_tombstone_gives_gap_and_end(site: Site) -> None:
    """Open, gap `expired` from 1 to the tail, caught_up, end."""
    feed = site.feed
    await feed.append("run.started", "a.b")
    await feed.finish()
    await feed.expire()
    async with site.open() as stream:
        await stream.ends()
        assert stream.names == ["open", "gap", "caught_up", "end"]
        gap = stream.named("gap")
        assert (gap["from"], gap["to"], gap["reason"]) == (1, 3, "expired")
        assert gap["snapshot"]["status"] == "succeeded"
        assert stream.clean


async def test_corrupt_run_is_told(site: Site) -> None:
    """A feed without its hash is told as such, and played."""
    feed = site.feed
    await feed.append("run.started", "a.b")
    await execute(site.session.redis, "DEL", feed.hash)
    async with site.open() as stream:
        await stream.has("caught_up")
        assert stream.names == ["open", "gap", "-", "-", "caught_up"]
        assert stream.named("gap") == {"from": 1, "to": 0, "reason": "corrupt", "snapshot": None}


async def test_head_answers_at_once(site: Site) -> None:
    """HEAD has the head of GET and nothing else, for a run that goes on as for one that ended."""
    await site.feed.append("run.started")
    async with site.open(method="HEAD") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert "content-length" not in stream.headers


async def test_unknown_run_is_404_or_waited_for(site: Site) -> None:
    """404 `unknown-run`; with ?wait= the stream begins when the run does."""
    async with site.open(run="nobody") as stream:
        await stream.ends()
        assert stream.status == 404
        assert b'"type":"unknown-run"' in stream.body

    async def begin() -> None:
        await site.feed.append("run.started")

    begun = asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(begin()))
    async with site.open("?wait=5") as stream:
        await stream.has("caught_up")
        assert stream.ids == [str(site.feed.ids[0])]
    begun.cancel()


async def test_http_1_0_has_no_chunks(server: TestServer, namespace: str) -> None:
    """A client of HTTP/1.0 gets bare frames, and the connection's end is the stream's."""
    async with running(server.url, namespace, Protocol) as site:
        await site.feed.append("run.started")
        async with site.open(version="1.0") as stream:
            await stream.has("caught_up")
            assert "transfer-encoding" not in stream.headers
            assert stream.headers["connection"] == "close"
            await site.feed.finish()
            await stream.ends()
            assert stream.names == ["open", "-", "caught_up", "-", "end"]


async def test_heartbeats_stand_between_frames(server: TestServer, namespace: str, http: Any) -> None:
    """After a period without bytes two bytes come, between frames; bytes put it off."""
    async with running(server.url, namespace, http, heartbeat_seconds=0.1) as site:
        await site.feed.append("run.started")
        async with site.open() as stream:
            await stream.has("caught_up")
            await until(lambda: stream.body.endswith(b"\n\n:\n:\n"), "two heartbeats came")
            await site.feed.finish()
            await stream.ends()
            assert stream.names == ["open", "-", "caught_up", "-", "end"]


async def test_permission_ends_in_time(server: TestServer, namespace: str, http: Any) -> None:
    """A grant that ends: the last frame is tailrace.denied, and the connection breaks without the last chunk."""

    async def authorize(connection: Any, access: Any) -> Grant:
        return Grant(until=datetime.now(UTC) + timedelta(seconds=0.3))

    async with running(server.url, namespace, http, authorize=authorize) as site:
        await site.feed.append("run.started")
        async with site.open() as stream:
            await stream.ends()
            assert stream.names == ["open", "-", "caught_up", "denied"]
            assert stream.named("denied")["type"] == "denied"
            assert not stream.clean


async def test_link_ends_in_time(server: TestServer, namespace: str, http: Any) -> None:
    """At `exp` an open stream is told where to go on with a new link, as a new request would be."""
    async with running(server.url, namespace, http) as site:
        await site.feed.append("run.started")
        link = link_to(site.session.settings, "r1", 1)
        async with site.open("?" + link.partition("?")[2]) as stream:
            await stream.ends()
            problem = stream.named("denied")
            assert (problem["type"], problem["status"]) == ("token-expired", 401)
            assert f"?after={site.feed.ids[0]}" in problem["remedy"]
            assert not stream.clean


async def test_drain_ends_streams_at_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A process that is about to end sends its subscribers away with a hint when to return; nothing is logged as an error."""
    await site.feed.append("run.started")
    async with site.open() as one, site.open() as two:
        await one.has("caught_up")
        await two.has("caught_up")
        for hub in _hubs():
            hub.drain()
        for stream in (one, two):
            await stream.ends(1)
            last = stream.frames[-1]
            assert last.name == "tailrace.reconnect"
            assert last.data == {"after_ms": int(last.retry)}
            assert not stream.clean
    assert "without completing" not in caplog.text


async def test_slow_subscriber_loses_nothing(
    server: TestServer, namespace: str, http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever does not read leaves the live path with a bounded buffer, and has every event once when it reads again."""
    before = metric("tailrace_slow_fallbacks_total")
    async with running(server.url, namespace, http, subscriber_kib=16) as site:
        feed = site.feed
        await feed.append("run.started")
        async with site.open(read=False, receive_buffer=4096) as slow, site.open() as quick:
            await quick.has("caught_up")
            topic = site.session.topics._topics["r1"]
            await until(lambda: len(topic.attached) == 2, "both are attached")
            data = b'"%b"' % (b"x" * 60_000)
            while metric("tailrace_slow_fallbacks_total") == before:
                await feed.append("message.delta", "message.delta", data=data)
                assert len(feed.ids) < 2000
            await feed.append("message.delta", data=data)
            await feed.finish()
            await quick.ends()
            slow.task = asyncio.create_task(slow.read_body())
            await slow.ends(20)
            assert slow.ids == quick.ids == [str(id) for id in feed.ids]
            assert slow.clean


async def test_leaving_frees_everything(site: Site) -> None:
    """A client that goes takes its subscription with it; a second one of the run keeps the channel."""
    feed = site.feed
    before = metric("tailrace_subscribers")
    await feed.append("run.started")
    async with site.open() as one:
        await one.has("caught_up")
        async with site.open() as two:
            await two.has("caught_up")
            assert metric("tailrace_subscribers") == before + 2
        await until(lambda: metric("tailrace_subscribers") == before + 1, "one has left")
        assert "r1" in site.session.topics._topics
    await until(lambda: metric("tailrace_subscribers") == before, "both have left")
    await until(lambda: not site.session.topics._topics, "nobody follows the run")
    message = await feed.append("a.b", publish=False)
    assert await execute(site.session.redis, "SPUBLISH", feed.channel, message) == 0


async def test_lost_messages_are_filled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber sees no hole: what PubSub lost is read from the feed, the last message too."""
    monkeypatch.setattr(topics_module, "COMPARE_SECONDS", 0.05)
    feed = site.feed
    await feed.append("run.started")
    async with site.open() as stream:
        await stream.has("caught_up")
        await feed.append("message.delta", publish=False)
        await feed.append("message.delta")
        await stream.has_events(3)
        await feed.append("run.finished", status="failed", publish=False)
        await stream.ends()
        assert stream.ids == [str(id) for id in feed.ids]
        assert stream.named("end")["status"] == "succeeded"  # by the event's type, not by a hash that says otherwise


async def test_server_may_be_away(namespace: str, http: Any) -> None:
    """While the server is down open streams wait; new ones get 503; afterwards everything goes on."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder), ["--appendonly", "yes", "--appendfsync", "always"])
        await asyncio.to_thread(daemon.start)
        try:
            async with running(daemon.url, namespace, http) as site:
                feed = site.feed
                await feed.append("run.started")
                async with site.open() as stream:
                    await stream.has("caught_up")
                    await asyncio.to_thread(daemon.kill)
                    async with site.open() as refused:
                        await refused.ends(10)
                        assert refused.status == 503
                        assert b'"type":"server-unreachable"' in refused.body
                        assert int(refused.headers["retry-after"]) >= 1
                    await asyncio.to_thread(daemon.start)
                    await feed.append("message.delta")
                    await feed.finish()
                    await stream.ends(10)
                    assert stream.ids == [str(id) for id in feed.ids]
        finally:
            await asyncio.to_thread(daemon.kill)
