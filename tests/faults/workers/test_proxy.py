"""The fault proxy breaks connections where and how it is told, and is no fault of its own otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.proxy import Break, FaultProxy, Plan, fault_proxy
from tests.support.until import until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[Path]:
    """A server that sends back each line; its socket."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
        except ConnectionResetError:
            pass  # the proxy resets what it breaks
        finally:
            writer.close()

    with TemporaryDirectory(prefix="tailrace-echo-") as folder:
        path = Path(folder) / "s"
        async with await asyncio.start_unix_server(serve, str(path), limit=1 << 25):
            yield path


@asynccontextmanager
async def through(plan: Plan | None) -> AsyncIterator[tuple[FaultProxy, Streams]]:
    """A proxy to an echo, and a connection through it."""
    async with echo() as path, fault_proxy(path, plan) as proxy:
        streams = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield proxy, streams
        finally:
            streams[1].transport.abort()


def always(what: Break) -> Plan:
    return lambda number: what


async def test_without_a_plan_all_passes() -> None:
    """Megabytes come back as they went, however slowly they are read."""
    async with through(None) as (proxy, (reader, writer)):
        sent = b"x" * (8 << 20) + b"\n"
        writer.write(sent)
        assert await asyncio.wait_for(reader.readexactly(len(sent)), 20) == sent
        assert (proxy.opened, proxy.open, proxy.broke) == (1, 1, 0)


@pytest.mark.parametrize("after", [0, 1, 7, 9])
async def test_cut_behind_so_many_bytes(after: int) -> None:
    """Exactly so many bytes of replies arrive, then the end."""
    async with through(always(Break(after=after))) as (proxy, (reader, writer)):
        writer.write(b"1234\n")
        if after > 5:
            assert await reader.readexactly(5) == b"1234\n"
            writer.write(b"5678\n")
        assert len(await asyncio.wait_for(reader.read(), 5)) == (after if after <= 5 else after - 5)
        await until(lambda: proxy.broke == 1, "the proxy counts it")


async def test_cut_is_counted_from_a_request() -> None:
    """What was asked before is answered whole; the reply to the named request breaks off."""
    async with through(always(Break(after=3, asked=b"XREADGROUP"))) as (_, (reader, writer)):
        writer.write(b"PING and more\n")
        assert await reader.readline() == b"PING and more\n"
        writer.write(b"XREADGROUP\n")
        assert await asyncio.wait_for(reader.read(), 5) == b"XRE"


async def test_reset_is_told_as_one() -> None:
    """A connection that is reset ends with an error, not as if all had been said."""
    async with through(always(Break(after=0, how="reset"))) as (_, (reader, writer)):
        writer.write(b"1234\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)


async def test_silent_says_nothing() -> None:
    """A half-open connection takes what is written and neither answers nor ends, until it is dropped."""
    async with through(None) as (proxy, (reader, writer)):
        writer.write(b"1234\n")
        assert await reader.readline() == b"1234\n"
        assert proxy.break_all("silent") == 1
        writer.write(b"5678\n")
        await writer.drain()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 0.2)
        assert proxy.open == 0
        again, other = await asyncio.open_connection("127.0.0.1", proxy.port)
        other.write(b"a new one\n")
        assert await asyncio.wait_for(again.readline(), 5) == b"a new one\n"
        other.transport.abort()


async def test_held_requests_arrive_late() -> None:
    """From a named request on nothing is answered on any connection, until it is let go: then all of it, in order."""
    async with through(None) as (proxy, (reader, writer)):
        other_reader, other = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.hold_at(b"EVALSHA")
        other.write(b"PING\n")
        assert await asyncio.wait_for(other_reader.readline(), 5) == b"PING\n"
        writer.write(b"EVALSHA\n")
        await until(lambda: proxy.holds, "it holds")
        other.write(b"PING 2\n")
        writer.write(b"EVALSHA 2\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other_reader.readline(), 0.2)
        proxy.let_go()
        assert await asyncio.wait_for(reader.readexactly(18), 5) == b"EVALSHA\nEVALSHA 2\n"
        assert await asyncio.wait_for(other_reader.readline(), 5) == b"PING 2\n"
        other.transport.abort()


async def test_delayed_requests_keep_their_order() -> None:
    """What is asked takes its time, and comes out as it went in; also what was said right before a client went."""
    async with through(None) as (proxy, (reader, writer)):
        proxy.delay = 0.1
        begin = asyncio.get_running_loop().time()
        for number in range(20):
            writer.write(b"%d\n" % number)
            await asyncio.sleep(0)
        assert [await reader.readline() for _ in range(20)] == [b"%d\n" % number for number in range(20)]
        assert asyncio.get_running_loop().time() - begin >= 0.1


async def test_absent_server_closes_the_door() -> None:
    """While there is no server behind it, who connects is closed at once, and served once it is there."""
    async with echo() as path:
        elsewhere = path.with_name("away")
        path.rename(elsewhere)
        async with fault_proxy(path) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            elsewhere.rename(path)
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"1234\n")
            assert await asyncio.wait_for(reader.readline(), 5) == b"1234\n"
            writer.transport.abort()
