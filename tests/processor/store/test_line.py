"""A line to the server: answers in order, losses told, and another connection where this one is of no use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from processor.core.errors import ServerError, ServerReadOnly, ServerUnreachable
from processor.store.connection import Address
from processor.store.line import Line
from tests.support.servers import TestServer


@pytest.fixture
async def line(server: TestServer) -> AsyncIterator[Line]:
    line = Line(Address.parse(server.url), "tailrace-test")
    yield line
    line.close()


async def test_answers_in_order(line: Line) -> None:
    """Many calls at once get each its own answer, over one connection."""
    answers = await asyncio.gather(*(line.call("ECHO", f"{n}") for n in range(100)))
    assert answers == [str(n).encode() for n in range(100)]
    assert line.connections == 1


async def test_refusals(line: Line) -> None:
    """What the server refuses is an error of that call alone."""
    refused, answered = asyncio.ensure_future(line.call("NOSUCH")), asyncio.ensure_future(line.call("PING"))
    with pytest.raises(ServerError, match="unknown command"):
        await refused
    assert await answered == b"PONG"
    assert line.connections == 1


async def test_killed_connection(line: Line) -> None:
    """Who waits when the connection ends is told; the next call makes another one."""
    id = await line.call("CLIENT", "ID")
    other = Line(line._address, "tailrace-other")
    waiting = asyncio.create_task(line.call("BLPOP", "nothing", 0, seconds=10))
    await other.call("CLIENT", "UNPAUSE")
    await other.call("CLIENT", "KILL", "ID", id)
    with pytest.raises(ServerUnreachable):
        await waiting
    assert await line.call("PING") == b"PONG"
    assert line.connections == 2
    other.close()


async def test_a_demoted_primary_is_left(line: Line) -> None:
    """A server that became a replica is asked over another connection next time: the address may lead elsewhere by then."""
    await line.call("REPLICAOF", "127.0.0.1", 1)
    try:
        with pytest.raises(ServerReadOnly):
            await line.call("SET", "tailrace-test", 1)
        assert await line.call("PING") == b"PONG"
        assert line.connections == 2
    finally:
        await line.call("REPLICAOF", "NO", "ONE")


async def test_silence(line: Line) -> None:
    """A connection that does not answer in time counts as dead."""
    with pytest.raises(ServerUnreachable, match=r"no answer within 0\.05 s"):
        await line.call("BLPOP", "nothing", 0, seconds=0.05)
    assert await line.call("PING") == b"PONG"
    assert line.connections == 2
