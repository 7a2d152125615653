"""Channels: one PubSub connection for all subscriptions of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from processor.core.errors import ServerError
from processor.store.channels import Channels
from processor.store.connection import Address, execute
from tests.processor.store.feedside import cut_proxy
from tests.support.servers import TestServer
from tests.support.until import until


class Heard:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.resubscriptions = 0

    def message(self, body: bytes, /) -> None:
        self.bodies.append(body)

    def resubscribed(self) -> None:
        self.resubscriptions += 1


@asynccontextmanager
async def channels_of(url: str, *, health_seconds: float = 5.0) -> AsyncIterator[Channels]:
    channels = Channels(Address.parse(url), health_seconds=health_seconds)
    try:
        yield channels
    finally:
        await channels.close()


@pytest.fixture
async def publish(every_server: TestServer) -> AsyncIterator[Callable[[str, str], Awaitable[int]]]:
    """Returns how many clients were reached."""
    redis = Redis.from_url(every_server.url, protocol=2)

    async def publish(channel: str, body: str) -> int:
        reached: int = await execute(redis, "SPUBLISH", channel, body)
        return reached

    yield publish
    await redis.aclose()


async def test_what_is_published_after_the_confirmation_comes(
    every_server: TestServer, publish: Callable[..., Awaitable[int]]
) -> None:
    """A confirmed subscription brings every message of its channel to all its sinks, in order, and of no other."""
    async with channels_of(every_server.url) as channels:
        one, two, other = Heard(), Heard(), Heard()
        await channels.subscribe("{a}one", one)
        await channels.subscribe("{a}one", two)
        await channels.subscribe("{a}other", other)
        assert await publish("{a}one", "1") == 1  # one subscription of the process
        await publish("{a}one", "2")
        await publish("{a}other", "3")
        await until(lambda: other.bodies, "the last message came")
        assert one.bodies == two.bodies == [b"1", b"2"]
        assert other.bodies == [b"3"]
        assert one.resubscriptions == 0


async def test_many_at_once_are_all_confirmed(every_server: TestServer, publish: Callable[..., Awaitable[int]]) -> None:
    """Concurrent subscriptions are told apart by the order of their confirmations."""
    async with channels_of(every_server.url) as channels:
        sinks = [Heard() for _ in range(200)]
        await asyncio.gather(*(channels.subscribe(f"{{a}}{i}", sink) for i, sink in enumerate(sinks)))
        for i in range(0, 200, 7):
            assert await publish(f"{{a}}{i}", str(i)) == 1
        await until(lambda: sinks[196].bodies, "the last message came")
        assert [sink.bodies for sink in sinks[::7]] == [[str(i).encode()] for i in range(0, 200, 7)]


async def test_last_sink_ends_the_subscription(
    every_server: TestServer, publish: Callable[..., Awaitable[int]]
) -> None:
    """A channel without sinks is given up, and can be taken again at once."""
    async with channels_of(every_server.url) as channels:
        one, two = Heard(), Heard()
        await channels.subscribe("{a}c", one)
        await channels.subscribe("{a}c", two)
        channels.unsubscribe("{a}c", one)
        await publish("{a}c", "1")
        await until(lambda: two.bodies, "the message came")
        assert one.bodies == []
        channels.unsubscribe("{a}c", two)
        three = Heard()
        await channels.subscribe("{a}c", three)  # its confirmation stands behind that of giving it up
        await publish("{a}c", "2")
        await until(lambda: three.bodies, "the message came")
        channels.unsubscribe("{a}c", three)
        channels.unsubscribe("{a}c", three)

        async def nobody() -> bool:
            return await publish("{a}c", "3") == 0

        await until(nobody, "the server knows of no subscriber")
        assert two.bodies == [b"1"]


async def test_lost_connection_is_made_again_and_told(
    every_server: TestServer, publish: Callable[..., Awaitable[int]]
) -> None:
    """After a reconnect everything is subscribed again and each sink is told that messages may have been lost."""
    async with cut_proxy(every_server.url) as proxy, channels_of(proxy.url) as channels:
        one, two = Heard(), Heard()
        await channels.subscribe("{a}one", one)
        await channels.subscribe("{a}two", two)
        proxy.cut()
        await until(lambda: one.resubscriptions == two.resubscriptions == 1, "both are told")
        await publish("{a}one", "1")
        await publish("{a}two", "2")
        await until(lambda: one.bodies == [b"1"] and two.bodies == [b"2"], "messages come again")


async def test_subscribing_waits_while_the_server_is_away(server: TestServer) -> None:
    """A subscription that is asked for during an outage is confirmed behind it; nobody is told of a gap."""
    async with cut_proxy(server.url) as proxy, channels_of(proxy.url) as channels:
        proxy.refusing = True
        sink = Heard()
        asked = asyncio.create_task(channels.subscribe("{a}c", sink))
        await asyncio.sleep(0)
        proxy.refusing = False
        async with asyncio.timeout(5):
            await asked
        assert sink.resubscriptions == 0


async def test_half_open_connection_is_noticed(server: TestServer) -> None:
    """A connection on which nothing comes back, not even to PING, is given up for a new one."""
    async with cut_proxy(server.url) as proxy, channels_of(proxy.url, health_seconds=0.05) as channels:
        sink = Heard()
        await channels.subscribe("{a}c", sink)
        proxy.freeze()
        await until(lambda: channels._wire is None, "the connection is given up")
        proxy.cut()
        proxy.thaw()
        await until(lambda: sink.resubscriptions == 1, "it is subscribed again")


async def test_quiet_connection_is_kept(server: TestServer) -> None:
    """Silence alone is no reason: PING is answered and the connection stays."""
    async with cut_proxy(server.url) as proxy, channels_of(proxy.url, health_seconds=0.01) as channels:
        sink = Heard()
        await channels.subscribe("{a}c", sink)
        wire = channels._wire
        pings = 0
        send = wire.send if wire is not None else None
        assert wire is not None
        assert send is not None

        def counted(packed: bytes) -> None:
            nonlocal pings
            pings += b"PING" in packed
            send(packed)

        wire.send = counted  # type: ignore[method-assign]
        await until(lambda: pings >= 5, "five were sent")
        assert channels._wire is wire
        assert proxy.connections == 1
        assert sink.resubscriptions == 0


class Scripted:
    """A server that answers as it is told: for what real ones do only in a cluster."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None
        self.asked: list[bytes] = []
        self.refuse: bytes | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        while header := await reader.readline():
            words = []
            for _ in range(int(header[1:])):
                await reader.readline()
                words.append((await reader.readline()).strip())
            self.asked.append(b" ".join(words))
            if words[0] == b"SSUBSCRIBE" and self.refuse:
                writer.write(self.refuse)
            elif words[0] in (b"SSUBSCRIBE", b"SUNSUBSCRIBE"):
                self.push(words[0].lower(), words[1])
            else:
                writer.write(b"+OK\r\n")
        writer.close()

    def push(self, kind: bytes, channel: bytes) -> None:
        assert self.writer is not None
        self.writer.write(b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind, len(channel), channel))


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Scripted, str]]:
    stub = Scripted()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    try:
        yield stub, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_unasked_unsubscription_is_a_gap() -> None:
    """A server that gives a slot away ends its subscriptions; they are asked for again, and their sinks told."""
    async with scripted() as (stub, url), channels_of(url) as channels:
        sink = Heard()
        await channels.subscribe("{a}c", sink)
        stub.push(b"sunsubscribe", b"{a}c")
        await until(lambda: sink.resubscriptions == 1, "the sink is told")
        assert stub.asked.count(b"SSUBSCRIBE {a}c") == 2


async def test_refused_channel_is_told() -> None:
    """What the server refuses is raised to who asked for it, and leaves no subscription behind."""
    async with scripted() as (stub, url), channels_of(url) as channels:
        stub.refuse = b"-NOPERM this user has no permissions to access one of the channels\r\n"
        sink = Heard()
        with pytest.raises(ServerError, match="NOPERM"):
            await channels.subscribe("{a}c", sink)
        stub.refuse = None
        await channels.subscribe("{a}c", sink)
        assert sink.resubscriptions == 0


async def test_cancelled_subscription_leaves_nothing(server: TestServer) -> None:
    """Who stops waiting for the confirmation is not subscribed."""
    async with cut_proxy(server.url) as proxy, channels_of(proxy.url) as channels:
        proxy.freeze()
        sink = Heard()
        asked = asyncio.create_task(channels.subscribe("{a}c", sink))
        await until(lambda: channels._channels, "it is asked for")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert not channels._channels
