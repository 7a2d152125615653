"""Readers of one topic do not harm one another, and nothing follows a last frame. Each was found by the oracle first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.hub import Hub
from gateway.subscriber import SendSubscriber, TransportSubscriber
from processor.client.tailrace import Tailrace
from processor.core.cursor import FeedId
from processor.core.splice import Message
from processor.store.reader import Batch, Reader
from processor.store.topic import Topic
from tests.support.servers import TestServer
from tests.support.until import until

LIVE = Batch("r", [Message(5, 1000, [b'"type":"run.failed","data":{}}'])])


class Noting(Reader):
    """Keeps what it is given; the broken one raises instead."""

    __slots__ = ("broken", "seen")

    def __init__(self, topic: Topic, *, broken: bool) -> None:
        super().__init__(topic, topic.position)
        self.broken = broken
        self.seen: list[int] = []

    def live(self, batch: Batch) -> bool:
        if self.broken:
            raise RuntimeError("its connection has just gone")
        self.seen += [message.first for message in batch.messages]
        return True

    def behind(self) -> None:
        """Nobody catches up here."""


async def test_broken_reader_takes_nothing_from_others(server: TestServer) -> None:
    """A reader that raises is behind from then on; those after it in the same flush get their events."""
    async with Tailrace(server.url) as tail:
        run = tail.run("r")
        await run.log("1")
        session = await tail.session()
        topic = await session.topics.join("r")
        readers = [Noting(topic, broken=True), Noting(topic, broken=False)]
        for reader in readers:
            topic.attach(reader)
        await run.log("2")
        await until(lambda: readers[1].seen == [2], "the healthy reader has it")
        assert not readers[0].attached
        await run.log("3")
        await until(lambda: readers[1].seen == [2, 3], "the healthy reader goes on")
        topic.leave(readers[1])


class Transport:
    """Of a client that reads nothing."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Its buffer is not empty: it stays a while."""

    abort = close


@pytest.mark.parametrize("way", ["send", "transport"])
async def test_nothing_follows_the_last_frame(way: str) -> None:
    """What comes live while a stream's last frame is still under way is for the next connection."""
    taken: list[bytes] = []
    slow = asyncio.Event()
    topic: Any = SimpleNamespace(run="r")

    async def send(message: Any) -> None:
        await slow.wait()
        taken.append(message["body"])

    transport: Any = Transport()
    hub = Hub(15.0)
    subscriber: Any
    if way == "send":
        subscriber = SendSubscriber(topic, FeedId(4, 1000), hub, send, limit=1 << 16)
    else:
        subscriber = TransportSubscriber(topic, FeedId(4, 1000), hub, send, transport, chunked=True, limit=1 << 16)
        taken = transport.written
    subscriber.attached = True
    subscriber.break_off(b"last\n\n")
    assert subscriber.live(LIVE)
    slow.set()
    await until(lambda: taken, "the last frame is out")
    await asyncio.sleep(0)
    assert b"last" in taken[-1]
    assert b"run.failed" not in b"".join(taken)
