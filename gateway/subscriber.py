"""Subscribers: one object each, fed by its run's topic.

A frame costs one write a subscriber: where the server offers its transport, straight to it, with its write buffer as
back-pressure, else by `send` from a task that lives only while there is something to send. A subscriber whose buffer is full
leaves the live path and goes on from the feed at its own pace.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol

import structlog

from gateway.core import sse
from gateway.unfinished import leave_unfinished
from processor.core.cursor import FeedId
from processor.core.splice import Gap
from processor.store.reader import Batch, CaughtUp, Ended, Page, Reader
from processor.store.topic import Topic

__all__ = ["OFFER", "Receive", "Send", "SendSubscriber", "Subscriber", "TransportSubscriber"]

log = structlog.get_logger("tailrace.subscriber")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OFFER: Final = "tailrace.transport"  # in scope["extensions"]: gateway.protocol.Offer
LINGER_SECONDS: Final = 0.5  # what a connection that is broken on purpose gets to pass on its last frame


class Hub(Protocol):
    """What a subscriber needs of the hub."""

    tick: int
    frames: int

    def remove(self, subscriber: Subscriber, /) -> None: ...


def _frames(batch: Batch) -> bytes:
    """A batch as SSE, composed by whoever comes first and shared by all."""
    if batch.frames is None:
        batch.frames = sse.event_frames(batch.run, batch.messages)
    return batch.frames


class Subscriber(Reader):
    """One subscriber. Its ASGI task waits in `receive`; `_worker` lives while something is read from the feed or sent."""

    __slots__ = (
        "_coalesce_seconds",
        "_coalesce_timer",
        "_coalesced",
        "_limit",
        "_send",
        "_worker",
        "bucket",
        "closing",
        "complete",
        "hub",
        "task",
        "touched",
        "until",
        "waiting",
        "woken",
    )

    def __init__(
        self, topic: Topic, cursor: FeedId, hub: Hub, send: Send, *, limit: int, coalesce_seconds: float = 0.0
    ) -> None:
        super().__init__(topic, cursor)
        self.hub = hub
        self._send = send
        self._limit = limit  # bytes that wait for this subscriber
        self._worker: asyncio.Task[None] | None = None
        self._coalesce_seconds = coalesce_seconds
        self._coalesced: list[bytes] | None = None  # frames that wait for their window to end
        self._coalesce_timer: asyncio.TimerHandle | None = None
        self.until: asyncio.TimerHandle | None = None  # its permission ends
        self.touched = 0  # the hub's tick of its last bytes
        self.bucket = 0  # the tick at which the hub looks at it again
        self.closing = False  # no frame follows
        self.complete = False  # the response ended cleanly
        self.task: asyncio.Task[Any] | None = None  # the ASGI task
        self.waiting = False  # it waits in `receive`
        self.woken = False  # and was called back from there by `wake`

    # -- what a way to the client has to bring

    def full(self) -> bool:
        raise NotImplementedError

    def write(self, frames: bytes) -> None:
        """Sends frames; only while it is attached, or nothing else is sent."""
        raise NotImplementedError

    def break_off(self, frames: bytes) -> None:
        """Sends a last frame and ends the connection without completing the response."""
        raise NotImplementedError

    # -- Reader

    def live(self, batch: Batch) -> bool:
        if self.closing:
            return True  # the last frame is on its way, and nothing follows it
        if self.full():
            return False
        self.hub.frames += batch.events
        if self._coalesce_seconds:
            self._coalesce(_frames(batch))
        else:
            self.write(_frames(batch))
        return True

    def behind(self) -> None:
        if not self.closing:
            self.start_worker()

    def heartbeat(self) -> None:
        """After a period without bytes. A subscriber that has not taken the last ones needs none."""
        raise NotImplementedError

    # -- coalescing: the first frame at once, then what came within a window as one write

    def _coalesce(self, frames: bytes) -> None:
        if self._coalesced is None:
            self._coalesced = []
            self.write(frames)
            loop = asyncio.get_running_loop()
            self._coalesce_timer = loop.call_later(self._coalesce_seconds, self._window_ended)
        else:
            self._coalesced.append(frames)

    def _window_ended(self) -> None:
        held, self._coalesced, self._coalesce_timer = self._coalesced, None, None
        if held and not self.closing:
            self._coalesce(b"".join(held))

    def _uncoalesce(self) -> bytes:
        if self._coalesce_timer is not None:
            self._coalesce_timer.cancel()
        held, self._coalesced, self._coalesce_timer = self._coalesced or [], None, None
        return b"".join(held)

    # -- the transient task

    def start_worker(self) -> None:
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="tailrace-subscriber")

    async def _work(self) -> None:
        """Sends what waits, then goes on from the feed; ends when it is attached, without having waited in between."""
        try:
            while True:
                if body := self._take_waiting():
                    self.touched = self.hub.tick
                    await self._send({"type": "http.response.body", "body": body, "more_body": True})
                elif self.closing:
                    break
                elif self.attached:
                    if not await self._more_comes():
                        break
                else:
                    await self._catch_up()
        except OSError as error:
            log.debug("subscriber_lost", run=self.topic.run, error=str(error))
            self.closing = True
        finally:
            self._worker = None
        if self.closing:
            self.wake()

    async def _more_comes(self) -> bool:
        """Whether the worker is still needed, now that nothing waits."""
        return False

    def _take_waiting(self) -> bytes:
        """What has to go out before anything that is read from the feed."""
        return b"" if self.attached else self._uncoalesce()

    async def _catch_up(self) -> None:
        run = self.topic.run
        async with aclosing(self.catch_up()) as steps:
            async for step in steps:
                if self.closing:
                    return
                match step:
                    case Page(messages):
                        self.hub.frames += sum(len(message.payloads) for message in messages)
                        await self._send_body(sse.event_frames(run, messages))
                    case CaughtUp(position):
                        await self._send_body(sse.caught_up(position))
                    case Gap():
                        state = await self.topic.state()
                        await self._send_body(sse.gap(step, state.json() if state is not None else None))
                    case Ended(status, position):
                        self.closing = True
                        await self._send_body(sse.end(status, position), last=True)
                        self.complete = True

    async def _send_body(self, body: bytes, *, last: bool = False) -> None:
        """By ASGI, which waits while the client is slow."""
        self.touched = self.hub.tick
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    # -- the ASGI task

    def wake(self) -> None:
        """Calls the ASGI task back from `receive`, which nothing else can end under every server."""
        if self.waiting and not self.woken and self.task is not None:
            self.woken = True
            self.task.cancel()

    async def hold(self, receive: Receive) -> None:
        """Returns when the client has gone, or when the stream has ended. The only frame of ours while it is idle."""
        task = self.task = asyncio.current_task()
        assert task is not None
        try:
            while not self.closing:
                self.waiting = True
                message = await receive()
                self.waiting = False
                if message["type"] == "http.disconnect":
                    return
            if self._worker is not None:  # the last frame is on its way
                self.waiting = True
                await asyncio.wait([self._worker])
                self.waiting = False
        except asyncio.CancelledError:
            self.waiting = False
            if not self.woken or task.uncancel():
                raise
        finally:
            self.hub.remove(self)
            if not self.complete:
                leave_unfinished()
            await self._leave()

    async def _leave(self) -> None:
        """A read that is under way is waited for, not cancelled: that would cost its connection."""
        self.closing = True
        self.topic.leave(self)
        self._uncoalesce()
        if self.until is not None:
            self.until.cancel()
        if self._worker is not None:
            await asyncio.wait([self._worker], timeout=LINGER_SECONDS)
        if self._worker is not None:
            self._worker.cancel()


class TransportSubscriber(Subscriber):
    """Writes to the connection itself. The head must be out, and what `send` was given must have passed before it returned."""

    __slots__ = ("_chunked", "_transport")

    def __init__(
        self,
        topic: Topic,
        cursor: FeedId,
        hub: Hub,
        send: Send,
        transport: asyncio.WriteTransport,
        *,
        chunked: bool,
        limit: int,
        coalesce_seconds: float = 0.0,
    ) -> None:
        super().__init__(topic, cursor, hub, send, limit=limit, coalesce_seconds=coalesce_seconds)
        self._transport = transport
        self._chunked = chunked

    def live(self, batch: Batch) -> bool:
        if self.closing or not self._chunked or self._coalesce_seconds:
            return super().live(batch)
        if self._transport.get_write_buffer_size() > self._limit:
            return False
        chunk = batch.chunk
        if chunk is None:
            chunk = batch.chunk = sse.http_chunk(_frames(batch))
        try:
            self._transport.write(chunk)
        except RuntimeError:
            return True  # uvloop says so of a connection that has just gone: its end is on its way to `hold`
        hub = self.hub
        hub.frames += batch.events
        self.touched = hub.tick
        return True

    def full(self) -> bool:
        return self._transport.get_write_buffer_size() > self._limit

    def write(self, frames: bytes) -> None:
        if not self._transport.is_closing():
            # as in `live`; what is raised here would end the hub's round, and with it the heartbeats of all others
            with suppress(RuntimeError):
                self._transport.write(sse.http_chunk(frames) if self._chunked else frames)
        self.touched = self.hub.tick

    def heartbeat(self) -> None:
        if not self.closing and not self._transport.get_write_buffer_size():
            self.write(sse.HEARTBEAT)

    def break_off(self, frames: bytes) -> None:
        if self.closing:
            return
        self.closing = True
        self.write(self._uncoalesce() + frames)
        self._transport.close()  # passes on what it holds first
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)


class SendSubscriber(Subscriber):
    """Sends through ASGI, under any server.

    Its worker stays until a heartbeat shows that nothing has come for long: a new task for each frame costs as much as
    all the rest but the system call.
    """

    __slots__ = ("_beats", "_more", "_queue", "_queued")

    def __init__(
        self, topic: Topic, cursor: FeedId, hub: Hub, send: Send, *, limit: int, coalesce_seconds: float = 0.0
    ) -> None:
        super().__init__(topic, cursor, hub, send, limit=limit, coalesce_seconds=coalesce_seconds)
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._more: asyncio.Future[None] | None = None  # the worker waits for it
        self._beats = False  # the last bytes were a heartbeat

    def live(self, batch: Batch) -> bool:
        if self.closing or self._coalesce_seconds:
            return super().live(batch)
        if self._queued > self._limit:
            return False
        frames = batch.frames or _frames(batch)
        self.hub.frames += batch.events
        self._beats = False
        self._queue.append(frames)
        self._queued += len(frames)
        self.start_worker()
        return True

    def start_worker(self) -> None:
        more, self._more = self._more, None
        if more is None:
            super().start_worker()
        elif not more.done():
            more.set_result(None)

    async def _more_comes(self) -> bool:
        if self._beats:
            return False
        self._more = asyncio.get_running_loop().create_future()
        await self._more
        return True

    async def _leave(self) -> None:
        self.closing = True
        if self._more is not None:
            self.start_worker()
        await super()._leave()

    def full(self) -> bool:
        return self._queued > self._limit

    def write(self, frames: bytes) -> None:
        self._beats = frames is sse.HEARTBEAT
        self._queue.append(frames)
        self._queued += len(frames)
        self.start_worker()

    def _take_waiting(self) -> bytes:
        if not self._queue:
            return super()._take_waiting()
        body = b"".join(self._queue)
        self._queue.clear()
        self._queued = 0
        return body

    def heartbeat(self) -> None:
        if not self.closing and (self._worker is None or self._more is not None):
            self.write(sse.HEARTBEAT)

    def break_off(self, frames: bytes) -> None:
        if self.closing:
            return
        self.closing = True
        self.write(self._uncoalesce() + frames)
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.wake)
