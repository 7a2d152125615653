"""A producer whose events bring their own numbers: what it sends next, whatever the server says."""

from __future__ import annotations

import asyncio

import pytest

from processor.core.chain import Outcome
from processor.core.errors import RunClosed, ServerUnreachable
from processor.core.events import draft
from processor.store.append import Source
from processor.store.offsets import AHEAD, Moved, Offsets
from tests.support.until import until

EVENT = draft("log", b'{"lines":[]}')
Call = tuple[int, int]  # prev and number; (0, 0) asks


class Server:
    """What an appender does with a source, step by step."""

    def __init__(self) -> None:
        self.marked = 0
        self.offsets = Offsets("r", "file", self._mark)

    def _mark(self, source: Source) -> None:
        self.marked += 1

    def takes(self, now: float = 0) -> Call | None:
        flight = self.offsets.take(256, 1 << 20, now)
        return (flight.prev, flight.number) if flight is not None else None

    def says(self, word: str, detail: str = "") -> None:
        self.offsets.answered([(1, Outcome(word, detail=detail))], 0)

    async def begun(self, stored: int) -> Offsets:
        position = asyncio.create_task(self.offsets.position())
        await until(lambda: self.marked, "it asks")
        assert self.takes() == (0, 0)
        assert self.takes() is None
        self.says("stored", str(stored))
        assert await position == stored
        return self.offsets


async def test_numbers_go_on_from_what_is_stored() -> None:
    """Each event is a batch of its own and names the number before it, two under way at once."""
    server = Server()
    offsets = await server.begun(100)
    assert offsets.writer == "c:file"
    for number in (150, 300, 301):
        await offsets.put(number, EVENT)
    assert [server.takes(), server.takes(), server.takes()] == [(100, 150), (150, 300), None]
    server.says("appended")
    assert server.takes() == (300, 301)
    server.says("duplicate")
    server.says("appended")
    await offsets.settled()
    assert offsets.stored == 301


async def test_memory_is_bounded() -> None:
    """Only so many events wait; the next one waits outside."""
    server = Server()
    offsets = await server.begun(0)
    for number in range(1, AHEAD + 1):
        await offsets.put(number, EVENT)
    one_more = asyncio.create_task(offsets.put(AHEAD + 1, EVENT))
    assert server.takes() == (0, 1)
    await asyncio.sleep(0)
    assert not one_more.done()
    server.says("appended")
    await one_more


async def test_a_server_that_stands_elsewhere() -> None:
    """A hole ends it: whoever sends must read again from what is stored."""
    server = Server()
    offsets = await server.begun(10)
    await offsets.put(20, EVENT)
    await offsets.put(30, EVENT)
    assert [server.takes(), server.takes()] == [(10, 20), (20, 30)]
    server.says("hole", "5")
    assert not offsets.wants
    with pytest.raises(Moved) as moved:
        await offsets.settled()
    assert moved.value.stored == 5
    assert not offsets.idle
    server.says("hole", "5")
    assert offsets.idle


async def test_a_full_backlog_is_waited_for() -> None:
    """Nothing goes out until both are answered, then both again, in order, after a pause."""
    server = Server()
    offsets = await server.begun(0)
    await offsets.put(1, EVENT)
    await offsets.put(2, EVENT)
    assert [server.takes(), server.takes()] == [(0, 1), (1, 2)]
    server.says("full", "group g")
    assert server.takes(9) is None
    server.says("hole", "0")
    assert server.takes(0.5) is None
    assert [server.takes(2), server.takes(2)] == [(0, 1), (1, 2)]


async def test_refused_as_a_whole() -> None:
    """What a call brought that the server did not execute goes again, a question too."""
    server = Server()
    position = asyncio.create_task(server.offsets.position())
    await until(lambda: server.marked, "it asks")
    assert server.takes() == (0, 0)
    server.offsets.unsent(0)
    assert server.takes() == (0, 0)
    server.says("stored", "0")
    await position
    await server.offsets.put(1, EVENT)
    await server.offsets.put(2, EVENT)
    assert [server.takes(), server.takes()] == [(0, 1), (1, 2)]
    server.offsets.unsent(0)
    assert server.takes() is None
    server.offsets.unsent(0)
    assert [server.takes(), server.takes()] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(("stored", "expected"), [(10, (10, 20)), (20, (20, 30)), (30, None)])
async def test_a_new_connection_asks_first(stored: int, expected: Call | None) -> None:
    """What was under way is sent again as far as the server does not have it."""
    server = Server()
    offsets = await server.begun(5)
    for number in (10, 20, 30):
        await offsets.put(number, EVENT)
    assert server.takes() == (5, 10)
    server.says("appended")
    assert [server.takes(), server.takes()] == [(10, 20), (20, 30)]
    offsets.broken()
    assert server.takes() == (0, 0)
    server.says("stored", str(stored))
    assert server.takes() == expected


@pytest.mark.parametrize("stored", [5, 9, 11, 40])
async def test_a_new_connection_to_a_server_that_stands_elsewhere(stored: int) -> None:
    """Less than was acknowledged, or what this one did not send: read again."""
    server = Server()
    offsets = await server.begun(5)
    for number in (10, 20):
        await offsets.put(number, EVENT)
    assert server.takes() == (5, 10)
    server.says("appended")
    assert server.takes() == (10, 20)
    offsets.broken()
    assert server.takes() == (0, 0)
    server.says("stored", str(stored))
    with pytest.raises(Moved):
        await offsets.settled()


async def test_a_loss_before_its_first_event() -> None:
    """Where the server took nothing yet, what was sent before it may be lost: whoever sends must look."""
    server = Server()
    offsets = await server.begun(5)
    await offsets.put(10, EVENT)
    offsets.broken()
    assert server.takes() == (0, 0)
    server.says("stored", "5")
    with pytest.raises(Moved):
        await offsets.settled()


async def test_refused_for_good() -> None:
    """An ended run, and a Tailrace that was closed, are told to whoever waits."""
    server = Server()
    offsets = await server.begun(0)
    await offsets.put(1, EVENT)
    server.takes()
    waiting = asyncio.create_task(offsets.settled())
    await asyncio.sleep(0)
    server.says("closed", "succeeded 9-1795542320493")
    with pytest.raises(RunClosed):
        await waiting
    assert offsets.idle
    other = Server()
    offsets = await other.begun(0)
    await offsets.put(1, EVENT)
    offsets.abandon()
    with pytest.raises(ServerUnreachable):
        await offsets.settled()
