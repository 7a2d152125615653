"""A door to a server that breaks: connections cut in mid-reply, reset, or silent, by plan or on command."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

__all__ = ["Break", "FaultProxy", "How", "fault_proxy"]

How = Literal["close", "reset", "silent"]  # FIN; RST; nothing any more in either direction, and no word of it


@dataclass(frozen=True, slots=True)
class Break:
    """When a connection breaks: behind so many bytes of replies, counted from the first request that contains `asked`.

    after: 0 breaks before the first byte: the server has executed what the client never hears of.
    """

    after: int
    how: How = "close"
    asked: bytes = b""  # b"": from the connection's beginning


Plan = Callable[[int], Break | None]  # what becomes of the n-th connection, from 1


class _Side(asyncio.Protocol):
    """One of the two connections of a link."""

    def __init__(
        self, received: Callable[[bytes], None], lost: Callable[[], None], *, made: Callable[[], None] | None = None
    ) -> None:
        self._received, self._lost, self._made = received, lost, made
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._made is not None:
            self._made()

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._lost()

    def write(self, data: bytes) -> None:
        if self.transport is not None and data:
            self.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def end(self, how: How) -> None:
        """close: what was written before still goes out."""
        if self.transport is None:
            return
        if how == "silent":
            self.transport.pause_reading()
        elif how == "close":
            self.transport.close()
        else:
            sock: socket.socket | None = self.transport.get_extra_info("socket")
            if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class _Link:
    """A client's connection with the one to the server behind it."""

    def __init__(
        self, proxy: FaultProxy, plan: Break | None, *, begun: Callable[[_Link], None], ended: Callable[[_Link], None]
    ) -> None:
        self._proxy, self._plan, self._ended = proxy, plan, ended
        self._left = plan.after if plan is not None and not plan.asked else None  # bytes until it breaks
        self.broken: How | None = None
        self.client = _Side(self._ask, self._one_ended, made=lambda: begun(self))
        self.server = _Side(self._reply, self._one_ended)
        self.client.other, self.server.other = self.server, self.client
        self._unasked = bytearray()  # came before there was a way to the server, or is held back

    async def connect(self) -> None:
        """The way to the server; without one the client is closed."""
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self.server, str(self._proxy.path))
        except OSError:
            self.client.end("close")
            return
        self.pass_on()

    def pass_on(self) -> None:
        """What was not asked yet, unless it is held back."""
        if self.server.transport is not None and not self._proxy.holds:
            self.server.write(bytes(self._unasked))
            self._unasked.clear()

    def _ask(self, data: bytes) -> None:
        if self._proxy.delay:
            asyncio.get_running_loop().call_later(self._proxy.delay, self._arrive, data)
        else:
            self._arrive(data)

    def _arrive(self, data: bytes) -> None:
        if self.broken is not None:
            return
        if self._plan is not None and self._left is None and self._plan.asked in data:
            self._left = self._plan.after
        if self._proxy.look(data):
            self.break_off("reset")
            return
        self._unasked += data
        self.pass_on()

    def _reply(self, data: bytes) -> None:
        if self.broken is not None:
            return
        if self._plan is None or self._left is None or len(data) < self._left:
            self._left = None if self._left is None else self._left - len(data)
            self.client.write(data)
        else:
            self.client.write(data[: self._left])
            self.break_off(self._plan.how)

    def break_off(self, how: How) -> None:
        """Only once: what broke stays broken as it did."""
        if self.broken is None:
            self.broken = how
            self.client.end(how)
            self.server.end("silent" if how == "silent" else "reset")

    def _one_ended(self) -> None:
        if self.broken != "silent":
            self.client.end("close")
            # What the client said before it went is still on its way.
            asyncio.get_running_loop().call_later(self._proxy.delay, self.server.end, "reset")
        if self.client.transport is None and self.server.transport is None:
            self._ended(self)

    def drop(self) -> None:
        for side in (self.client, self.server):
            side.end("reset")


class FaultProxy:
    """Use it by `fault_proxy`. `plan` may be changed at any time; it decides about connections made from then on."""

    def __init__(self, path: Path, plan: Plan | None) -> None:
        self.path = path
        self.plan = plan
        self.refused: bytes | None = None  # who asks something with this in it is reset
        self.delay = 0.0  # seconds that a request is on its way
        self.holds = False  # what clients ask is kept back, on all connections
        self._hold_at: bytes | None = None
        self.port = 0
        self.opened = 0  # connections so far
        self.broke = 0  # of them, by plan or on command
        self._links: set[_Link] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that pass bytes on."""
        return sum(link.broken is None for link in self._links)

    def accept(self) -> asyncio.Protocol:
        self.opened += 1
        plan = self.plan(self.opened) if self.plan is not None else None
        link = _Link(self, plan, begun=self._begin, ended=self._gone)
        self._links.add(link)
        return link.client

    def _begin(self, link: _Link) -> None:
        connecting = asyncio.create_task(link.connect())
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    def _gone(self, link: _Link) -> None:
        self._links.discard(link)
        self.broke += link.broken is not None

    def break_all(self, how: How) -> int:
        """All that are open now. How many."""
        links = [link for link in self._links if link.broken is None]
        for link in links:
            link.break_off(how)
        return len(links)

    def hold_at(self, asked: bytes) -> None:
        """From the first request on that contains this, no request of anybody goes on to the server: the network is slow."""
        self._hold_at = asked

    def look(self, data: bytes) -> bool:
        """Whether it is refused."""
        if self._hold_at is not None and self._hold_at in data:
            self._hold_at, self.holds = None, True
        return self.refused is not None and self.refused in data

    def let_go(self) -> None:
        """All that was held back arrives, late."""
        self.delay = 0.0  # seconds that a request is on its way
        self.holds = False
        for link in self._links:
            link.pass_on()

    def drop(self) -> None:
        for link in [*self._links]:
            link.drop()
        for task in self._connecting:
            task.cancel()


@asynccontextmanager
async def fault_proxy(path: Path, plan: Plan | None = None) -> AsyncIterator[FaultProxy]:
    """path: of the server's unix socket; it may come and go."""
    proxy = FaultProxy(path, plan)
    server = await asyncio.get_running_loop().create_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.drop()
        await server.wait_closed()
