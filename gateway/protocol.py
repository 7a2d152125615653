"""uvicorn's httptools protocol with what it lacks: its transport for streams, limits for heads and slow requests, HTTP/1.0.

`uvicorn.Config(http=Protocol)`. scope["extensions"]["tailrace.transport"] is an Offer; with its transport a frame costs half
of what `send` takes.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.core.problems import MEDIA_TYPE, Problem
from gateway.subscriber import OFFER

__all__ = ["Offer", "Protocol"]

HEAD_SECONDS: Final = 10.0  # of silence, or of a head that does not end
BODY_SECONDS: Final = 30.0
LINGER_SECONDS: Final = 1.0  # in which what a refused client still sends is thrown away
MAX_HEAD: Final = 16 * 1024  # bytes of request line and headers
MAX_PIPELINED: Final = 128  # requests behind one that is answered: a read of 256 KiB may bring 14,000, of 3 KiB each


class Protocol(HttpToolsProtocol):
    """One connection. Kept small: ten thousand of them wait here."""

    # beside 30 attributes Python gives up sharing the dictionary's keys, which costs 1 KiB a connection
    __slots__ = ("_answered", "_head", "_in_body", "_in_head", "_refused", "_slow", "_unparsed")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pipeline = _Pipeline()  # type: ignore[assignment]
        self._slow: asyncio.TimerHandle | None = None  # ends what takes too long
        self._in_head = False
        self._in_body = False
        self._head = 0  # bytes of the present head that the parser has told of
        self._unparsed = 0  # bytes of it that came, but for its first and last read
        self._answered: RequestResponseCycle | None = None  # the one that is, while others are pipelined behind it
        self._refused = False  # answered by this class; what still comes is not read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow._is_writable_event = _Event(True)  # type: ignore[assignment]
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so only where the listening socket names its protocol; uvicorn's of --workers and --reload does not,
            # and each small answer would wait 40 ms for the client's acknowledgement of the one before.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        answered, self._answered = self._answered, None
        if answered is not None:  # uvicorn tells the last request only, and a stream before it would never end
            _disconnect(answered)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        in_head = self._in_head
        super().data_received(data)
        if in_head and self._in_head:  # the parser tells of whole headers only
            self._unparsed += len(data)
            self._check_head()

    # -- what the parser tells

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._refused:
            return
        self._in_head, self._head, self._unparsed = True, 0, 0
        if self._slow is None:
            self._watch(HEAD_SECONDS)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._in_head = False
        self._unwatch()
        if self._check_head():
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refused = True
            self.transport.close()
            return
        self._in_body = True
        self._watch(BODY_SECONDS)
        before = self.cycle
        super().on_headers_complete()
        if len(self.pipeline) == 1:
            self._answered = before
        cycle = self.cycle  # its task has not begun yet
        cycle.message_event = _Event(False)  # type: ignore[assignment]
        offer = Offer(cycle, self.transport, chunks=self.scope["http_version"] != "1.0")
        cycle.send = offer  # type: ignore[method-assign]
        self.scope["extensions"] = {OFFER: offer}  # type: ignore[dict-item]

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        self._in_body = False
        self._unwatch()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._answered = self.pipeline[-1][0] if len(self.pipeline) > 1 else None
        super().on_response_complete()

    # -- limits

    def _watch(self, seconds: float) -> None:
        self._unwatch()
        self._slow = self.loop.call_later(seconds, self._too_slow)

    def _unwatch(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self._slow = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._in_body and answering and self.cycle.response_started:
            self.transport.close()
        elif self._in_body:
            self._refuse(Problem("timeout", f"The body was not whole after {BODY_SECONDS:.0f} s."))
        elif answering:
            return  # a request behind the one that is answered: it is read when that is done
        elif self._in_head:
            self._refuse(Problem("timeout", f"The request's head was not whole after {HEAD_SECONDS:.0f} s."))
        else:
            self.transport.close()

    def _check_head(self) -> bool:
        """Whether the head is too large; then it has been answered."""
        size = max(self._head, self._unparsed)
        if size <= MAX_HEAD:
            return False
        self._refuse(
            Problem(
                "headers-too-large",
                f"Request line and headers have {size} bytes or more; at most {MAX_HEAD} are taken.",
                remedy="Send fewer or shorter headers, cookies above all.",
            )
        )
        return True

    def _refuse(self, problem: Problem) -> None:
        self._refused = True
        self._unwatch()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or not self._in_body:  # another request's answer is under way: nothing may stand in it
                self.transport.close()
                return
            _disconnect(cycle)  # its app answers no more
        body = problem.json()
        head = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (MEDIA_TYPE.encode(), len(body))
        self.transport.write(STATUS_LINE[problem.status] + head + body)
        if self.transport.can_write_eof():
            # a client that still sends would be answered by a reset, and lose the answer with it
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()


def _disconnect(cycle: RequestResponseCycle) -> None:
    """As uvicorn tells an app that its client has gone."""
    cycle.disconnected = True
    cycle.message_event.set()


class _Pipeline(list[Any]):
    """Requests that wait for the answer to another one; there hardly ever are any, and an empty deque has 600 bytes."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)


class _Event:
    """What uvicorn uses of asyncio.Event, without its deque of 600 bytes."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self, is_set: bool) -> None:
        self._is_set = is_set
        self._waiters: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> bool:
        if not self._is_set:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters = [*(self._waiters or ()), waiter]
            await waiter
        return True


class Offer:
    """A connection's own `send`, and the transport behind it for who may go past it.

    HTTP/1.0 knows no chunks: a body without a length ends with the connection.
    """

    __slots__ = ("_bare", "_body", "_cycle", "_task", "_watching", "chunks", "transport")

    def __init__(self, cycle: RequestResponseCycle, transport: asyncio.Transport, *, chunks: bool) -> None:
        self._cycle = weakref.ref(cycle)  # which refers to this: neither should wait for the garbage collector
        self.transport = transport
        self.chunks = chunks  # bodies without a length are chunked
        self._bare = False
        self._watching = False
        self._body: bytes | None = None
        self._task: asyncio.Task[Any] | None = None

    async def __call__(self, message: Any) -> None:
        cycle = self._cycle()
        if cycle is None:
            return
        if message["type"] == "http.response.start":
            if not self.chunks:
                self._bare = not any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if self._bare:
                    cycle.chunked_encoding = False
        elif self._bare:
            cycle.expected_content_length = len(message.get("body", b""))
        if self._watching:
            self._body, self._task = message.get("body"), asyncio.current_task()
        await RequestResponseCycle.send(cycle, message)

    def watch(self) -> None:
        """Before a body is sent by the app's own `send`: `passes` tells whether it came as it was."""
        self._watching = True

    def passes(self, body: bytes) -> bool:
        """Whether what the app sends arrives here unchanged and before `send` returns.

        Not so with middleware that alters bodies, or that hands them on from a task of its own (BaseHTTPMiddleware): what
        went past it could come too early.
        """
        passed = self._body is body and self._task is asyncio.current_task() and not self.transport.is_closing()
        self._watching, self._body, self._task = False, None, None
        return passed
