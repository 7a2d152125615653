"""A run's hash, feed and channel, written by hand in the shapes of DESIGN 2: for what no script would write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from processor.client.session import Session
from processor.core.cursor import FeedId
from processor.core.events import compose
from processor.store.connection import execute

__all__ = ["Cut", "Feed", "cut_proxy"]


class Feed:
    """One run. `ids` and `payloads` are what its feed holds or held, oldest first."""

    def __init__(self, session: Session, run: str) -> None:
        self.session = session
        self.run = run
        self.ids: list[FeedId] = []
        self.payloads: list[bytes] = []
        self.ms = 1_700_000_000_000
        keys = session.keys.of(run)
        self.hash, self.feed, self.channel = keys.run(run), keys.feed(run), keys.channel(run)

    async def append(
        self, *types: str, data: bytes = b'{"text":"x"}', status: str = "running", publish: bool = True
    ) -> bytes:
        """As one append; returns the message, which goes out unless publish is False."""
        self.ms += 1
        first = len(self.ids) + 1
        payloads = [compose(type, data) for type in types]
        message = b"\n".join([b"%d-%d" % (first, self.ms), *payloads])
        async with self.session.redis.pipeline(transaction=True) as step:  # one step, as the script's
            untyped: Any = step
            for seq, payload in enumerate(payloads, first):
                untyped.execute_command("XADD", self.feed, f"{seq}-{self.ms}", "e", payload)
                self.ids.append(FeedId(seq, self.ms))
                self.payloads.append(payload)
            tail = f"{len(self.ids)}-{self.ms}"
            untyped.execute_command("HSET", self.hash, "status", status, "tail", tail, "created", self.ms)
            if publish:
                untyped.execute_command("SPUBLISH", self.channel, message)
            await untyped.execute()
        return message

    async def finish(self) -> bytes:
        return await self.append("run.finished", data=b'{"result":null}', status="succeeded")

    async def publish(self, message: bytes) -> None:
        await execute(self.session.redis, "SPUBLISH", self.channel, message)

    async def lose_tail(self, keep: int) -> None:
        """A failover to a server that has only the first events."""
        redis = self.session.redis
        await execute(redis, "DEL", self.feed, self.hash)
        del self.ids[keep:], self.payloads[keep:]
        for id, payload in zip(self.ids, self.payloads, strict=True):
            await execute(redis, "XADD", self.feed, str(id), "e", payload)
        if self.ids:
            await execute(redis, "HSET", self.hash, "status", "running", "tail", str(self.ids[-1]), "created", self.ms)
        self.ms += 1000

    async def trim(self, keep: int) -> None:
        await execute(self.session.redis, "XTRIM", self.feed, "MAXLEN", keep)

    async def expire(self) -> None:
        """As after retain_hours: the hash stays as a tombstone."""
        await execute(self.session.redis, "DEL", self.feed)

    async def clear(self) -> None:
        """No test leaves a run of its own behind."""
        await execute(self.session.redis, "DEL", self.feed, self.hash)


class Cut:
    """A proxy in front of a server, whose connections can be cut, frozen and refused."""

    def __init__(self, upstream: Callable[[], Any]) -> None:
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.refusing = False
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def freeze(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.close()
            return
        self.connections += 1
        up_reader, up_writer = await self._upstream()
        self._writers |= {writer, up_writer}
        try:
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
        finally:
            for end in (writer, up_writer):
                end.close()
                self._writers.discard(end)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
        sink.close()


@contextlib.asynccontextmanager
async def cut_proxy(url: str) -> AsyncIterator[Cut]:
    """url: of the server behind it, unix:// or redis://."""

    async def upstream() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if url.startswith("unix://"):
            return await asyncio.open_unix_connection(url.removeprefix("unix://"))
        host, _, port = url.removeprefix("redis://").partition(":")
        return await asyncio.open_connection(host, int(port))

    proxy = Cut(upstream)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.thaw()
        proxy.cut()
        await server.wait_closed()
