"""The SSE stream of a run, and FeedResponse, which any Starlette or FastAPI route may return."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from redis.exceptions import RedisError
from starlette.responses import Response

from gateway.auth import Access, denied, everyone, expired
from gateway.core import sse
from gateway.core.negotiate import Form
from gateway.core.problems import Headers, Problem, from_error
from gateway.drain import watch_signals
from gateway.hub import Hub
from gateway.routes.exchange import SERVER_SECONDS, Exchange, Scope, unknown_run
from gateway.routes.read import Cursor, cursor_of, form_of, get_lines, get_page, wait_for
from gateway.subscriber import OFFER, Receive, Send, SendSubscriber, Subscriber, TransportSubscriber
from processor.client.run import Run
from processor.core.cursor import ZERO, FeedId
from processor.core.errors import ServerUnreachable, TailraceError
from processor.core.splice import Standing
from processor.observe import metrics
from processor.store.connection import server_error
from processor.store.feeds import Feeds
from processor.store.follow import Followed
from processor.store.runs import RunState
from processor.store.topic import Topic

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace
    from processor.client.thread import Thread

__all__ = ["FeedResponse", "hold", "open_stream", "stream"]

RETRY_MS: Final = (1000, 3000)
_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


async def stream(
    scope: Scope,
    receive: Receive,
    send: Send,
    session: Followed,
    run: str,
    cursor: Cursor,
    *,
    until: datetime | None = None,
    headers: Headers = (),
    coalesce_ms: int = 0,
) -> None:
    """The whole answer: open, what is behind the cursor, live, end. until: when the reader's permission ends.

    Returns without completing the response where it did not end behind tailrace.end. Raises Problem or TailraceError
    while nothing is sent yet.
    """
    subscriber = await open_stream(
        scope, send, session, run, cursor, until=until, headers=headers, coalesce_ms=coalesce_ms
    )
    if subscriber is not None:
        await hold(subscriber, receive)


async def open_stream(
    scope: Scope,
    send: Send,
    session: Followed,
    run: str,
    cursor: Cursor,
    *,
    until: datetime | None = None,
    headers: Headers = (),
    coalesce_ms: int = 0,
) -> Subscriber | None:
    """Sends the head and tailrace.open; `hold` the subscriber then. None: the answer is complete (204, HEAD)."""
    feeds = session.topics.feeds
    try:
        async with asyncio.timeout(SERVER_SECONDS):
            state = await _state(feeds, run)
            tail = _tail(state)
            if state is not None and state.terminal and cursor.id == tail != ZERO:
                await _answer_empty(send, 204, headers)
                return None
            if cursor.id.seq > tail.seq and not cursor.told:
                raise _beyond_tail(cursor.id, tail)
            if scope["method"] == "HEAD":
                await _answer_empty(send, 200, [*_HEADERS, *headers])
                return None
            topic = await session.topics.join(run)
    except TimeoutError as error:
        raise ServerUnreachable(f"the server did not answer within {SERVER_SECONDS:.0f} s.") from error
    try:
        subscriber = await _begin(scope, send, session, topic, state, cursor.id, headers, coalesce_ms / 1000)
    except BaseException:
        session.topics.left(topic)
        raise
    _watch_end(subscriber, scope, until)
    return subscriber


def hold(subscriber: Subscriber, receive: Receive) -> Awaitable[None]:
    """Returns when the client has gone, or the stream has ended."""
    return subscriber.hold(receive)


async def _state(feeds: Feeds, run: str) -> RunState | None:
    """None if the run has a feed and no hash, which is told in the stream. Raises Problem unknown-run."""
    state = await feeds.state(run)
    if state is None and (await feeds.look(run)).standing is Standing.UNKNOWN:
        raise unknown_run(run)
    return state


def _tail(state: RunState | None) -> FeedId:
    return FeedId.parse(state.tail) if state is not None and state.tail else ZERO


def _beyond_tail(cursor: FeedId, tail: FeedId) -> Problem:
    return Problem(
        "cursor-beyond-tail",
        f"after is {cursor}, and the run's last event is {tail}.",
        field="after",
        value=str(cursor),
        remedy="Begin again with after=0.",
        extra={"tail": str(tail)},
    )


async def _answer_empty(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b""})


async def _begin(
    scope: Scope,
    send: Send,
    session: Followed,
    topic: Topic,
    state: RunState | None,
    cursor: FeedId,
    headers: Headers,
    coalesce_seconds: float,
) -> Subscriber:
    watch_signals()
    hub = Hub.of_loop(session.settings.heartbeat_seconds)
    limit = session.settings.subscriber_kib * 1024
    if cursor != ZERO:
        metrics.resumes_total.inc()
    await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]})
    first = sse.open_frame(
        topic.run,
        topic.ended or (state.status if state is not None else "unknown"),
        cursor,
        topic.position,
        state.attempt if state is not None else 0,
        state.waiting_for if state is not None else None,
        retry_ms=random.randint(*RETRY_MS),
    )
    offer = (scope.get("extensions") or {}).get(OFFER)
    if offer is not None:
        offer.watch()
    # by `send`, so that the head is out before anything goes to the transport
    await send({"type": "http.response.body", "body": first, "more_body": True})
    subscriber: Subscriber
    if offer is not None and offer.passes(first):
        _bound_kernel(offer.transport, limit)
        subscriber = TransportSubscriber(
            topic,
            cursor,
            hub,
            send,
            offer.transport,
            chunked=offer.chunks,
            limit=limit,
            coalesce_seconds=coalesce_seconds,
        )
    else:
        subscriber = SendSubscriber(topic, cursor, hub, send, limit=limit, coalesce_seconds=coalesce_seconds)
    hub.add(subscriber)
    subscriber.behind()
    return subscriber


def _bound_kernel(transport: asyncio.BaseTransport, limit: int) -> None:
    """A tab that never reads fills the kernel's buffer as well, which would grow to 4 MB."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limit)


def _watch_end(subscriber: Subscriber, scope: Scope, until: datetime | None) -> None:
    """At `until` the stream ends with what a new request would be answered."""
    if until is None:
        return
    by_link = b"token=" in scope.get("query_string", b"")

    def end() -> None:
        if by_link:
            position = subscriber.topic.position if subscriber.attached else subscriber.position
            problem = expired(until, datetime.now(UTC), str(position) if position.seq else None)
        else:
            problem = denied(Access("read", subscriber.topic.run))
        subscriber.break_off(sse.denied(problem.json()))

    seconds = max(0.0, (until - datetime.now(UTC)).total_seconds())
    subscriber.until = asyncio.get_running_loop().call_later(seconds, end)


class _Source:
    """Stands where a Gateway would: a route of the user's own has asked whom it wanted to ask."""

    authorize = staticmethod(everyone)

    def __init__(self, tail: Tailrace) -> None:
        self.tail = tail


class FeedResponse(Response):
    """A run's feed, or that of a thread's active run, as the answer of any route; needs no lifespan and no Request.

    Reads cursor and Accept from the request by itself. Unknown run: 404; a thread in which nothing is active: 204. To a
    POST that names no media type it answers SSE. coalesce_ms: what comes within such a time is sent as one write.
    """

    def __init__(
        self, source: Run[Any] | Thread, *, protocol: Literal["tailrace"] = "tailrace", coalesce_ms: int = 0
    ) -> None:
        self.source = source
        self.protocol = protocol
        self.coalesce_ms = coalesce_ms
        self.status_code = 200
        self.background = None
        self.init_headers(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            subscriber = await self._open(scope, receive, send)
        except Problem as problem:
            await problem.send(scope, send, self.raw_headers)
        except TailraceError as error:
            await from_error(error, draw=random.random()).send(scope, send, self.raw_headers)
        except (RedisError, ConnectionError, TimeoutError) as error:
            told = server_error(error, self.source._tail.settings.redis_url or "")
            await from_error(told, draw=random.random()).send(scope, send, self.raw_headers)
        else:
            if subscriber is not None:
                await hold(subscriber, receive)
        if self.background is not None:
            await self.background()

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> Subscriber | None:
        tail = self.source._tail
        exchange = Exchange(cast("Any", _Source(tail)), scope, receive, self._with_headers(send), "")
        session = await exchange.session()
        run = await self._run()
        if run is None:
            await exchange.answer_empty(204)
            return None
        form = self._form(exchange)
        cursor = cursor_of(exchange)
        await wait_for(exchange, run)
        if form is Form.SSE:
            return await open_stream(
                scope, send, session, run, cursor, headers=self.raw_headers, coalesce_ms=self.coalesce_ms
            )
        if form is Form.JSON:
            await get_page(exchange, run, cursor)
        else:
            await get_lines(exchange, run, cursor)
        return None

    async def _run(self) -> str | None:
        if isinstance(self.source, Run):
            return self.source.id
        active = await self.source.active()
        return active.id if active is not None else None

    @staticmethod
    def _form(exchange: Exchange) -> Form:
        """What the request names; of a POST that names nothing the feed is the answer, not its first page."""
        accept = exchange.header("accept")
        if exchange.method == "POST" and (not accept or accept.strip() == "*/*"):
            return Form.SSE
        return form_of(exchange)

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.raw_headers]
            await send(message)

        return sending if self.raw_headers else send
