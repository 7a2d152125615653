"""Topics and follow: a run's events once and in order, whatever gets lost on the way; what cannot be had is told."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from processor.client.session import Session
from processor.client.tailrace import Tailrace
from processor.core.cursor import ZERO, FeedId
from processor.core.errors import RunNotFound
from processor.core.events import GAP, Event
from processor.core.settings import Settings
from processor.store import follow as follow_module
from processor.store import topic as topic_module
from processor.store import topics as topics_module
from processor.store.connection import execute
from processor.store.follow import follow
from processor.store.reader import Batch, CaughtUp, Page, Reader
from tests.processor.store.feedside import Feed, cut_proxy
from tests.support.servers import Daemon, TestServer
from tests.support.until import until


@asynccontextmanager
async def opened(url: str, namespace: str) -> AsyncIterator[Session]:
    async with Tailrace(settings=Settings(redis_url=url, namespace=namespace)) as tail:
        yield await tail.session()


@pytest.fixture
async def session(every_server: TestServer, namespace: str) -> AsyncIterator[Session]:
    async with opened(every_server.url, namespace) as session:
        yield session


@pytest.fixture
async def feed(session: Session) -> AsyncIterator[Feed]:
    feed = Feed(session, "r1")
    yield feed
    await feed.clear()


class Following:
    """A task that follows a run and keeps what it is given."""

    def __init__(self, session: Session, run: str, after: FeedId = ZERO, *, live: bool = True) -> None:
        self.events: list[Event[Any]] = []
        self.task = asyncio.create_task(self._follow(session, run, after, live))

    async def _follow(self, session: Session, run: str, after: FeedId, live: bool) -> None:
        async for event in follow(session, run, after, live, wait_seconds=5):
            self.events.append(event)

    @property
    def ids(self) -> list[FeedId]:
        return [event.feed_id for event in self.events if event.type != GAP]

    @property
    def gaps(self) -> list[tuple[int, int, str]]:
        return [(e.data["from"], e.data["to"], e.data["reason"]) for e in self.events if e.type == GAP]

    async def has(self, count: int) -> None:
        await until(lambda: len(self.events) >= count or self.task.done(), f"{count} events are there")
        if self.task.done():
            self.task.result()

    async def ends(self) -> None:
        async with asyncio.timeout(5):
            await self.task

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def following(session: Session) -> AsyncIterator[Callable[..., Following]]:
    """Starts Followings of the session, and stops them."""
    started: list[Following] = []

    def start(run: str = "r1", after: FeedId = ZERO, **options: Any) -> Following:
        started.append(Following(session, run, after, **options))
        return started[-1]

    yield start
    for one in started:
        await one.stop()


Start = Callable[..., Following]


async def test_backfill_and_live_are_joined(feed: Feed, following: Start) -> None:
    """What was there and what comes is one unbroken run, and ends with the run."""
    await feed.append("run.started")
    await feed.append("message.delta", "message.delta")
    one = following()
    await one.has(3)
    await feed.append("message.delta")
    late = following(after=feed.ids[1])
    await late.has(2)
    await feed.append("message.delta", "message.delta")
    await feed.finish()
    await one.ends()
    await late.ends()
    assert one.ids == feed.ids
    assert [event.payload for event in one.events] == feed.payloads
    assert late.ids == feed.ids[2:]


async def test_readers_share_a_subscription(session: Session, feed: Feed, following: Start) -> None:
    """However many follow a run, its channel is subscribed once, and given up with the last of them."""
    await feed.append("run.started")
    many = [following() for _ in range(5)]
    for one in many:
        await one.has(1)
    message = await feed.append("a.b", publish=False)
    assert await execute(session.redis, "SPUBLISH", feed.channel, message) == 1
    for one in many:
        await one.has(2)
        await one.stop()

    async def unheard() -> bool:
        return bool(await execute(session.redis, "SPUBLISH", feed.channel, message) == 0)

    await until(unheard, "the channel is given up")


async def test_finished_run_is_played_and_ended(session: Session, feed: Feed, following: Start) -> None:
    """A run that has ended needs no subscription; a reader at its end is given nothing."""
    await feed.append("run.started", "a.b")
    await feed.finish()
    one = following()
    await one.ends()
    assert one.ids == feed.ids
    at_end = following(after=feed.ids[-1])
    await at_end.ends()
    assert at_end.events == []


async def test_not_live_ends_where_the_feed_ends(feed: Feed, following: Start) -> None:
    """Without live the present events are given, and nothing is waited for."""
    await feed.append("run.started", "a.b")
    one = following(live=False)
    await one.ends()
    assert one.ids == feed.ids


async def test_unknown_run_may_be_waited_for(session: Session, feed: Feed, following: Start) -> None:
    """A run that does not exist raises; with a wait its first event is seen, live."""
    with pytest.raises(RunNotFound, match="r1"):
        await anext(follow(session, "r1"))
    one = following()
    await until(lambda: session.topics._topics, "it waits")
    await asyncio.wait([session.topics._topics["r1"]._opening])
    await feed.append("run.started")
    await one.has(1)
    assert one.ids == feed.ids


async def test_lost_message_is_read_from_the_feed(feed: Feed, following: Start) -> None:
    """A hole in the live numbers costs a read, never an event."""
    await feed.append("run.started")
    one = following()
    await one.has(1)
    await feed.append("message.delta", publish=False)
    await feed.append("message.delta", "message.delta", publish=False)
    await feed.append("message.delta")
    await one.has(5)
    assert one.ids == feed.ids
    assert one.gaps == []


async def test_repeated_and_late_messages_are_dropped(feed: Feed, following: Start) -> None:
    """Messages that come twice or out of order change nothing."""
    first = await feed.append("run.started")
    one = following()
    await one.has(1)
    second = await feed.append("message.delta", "message.delta")
    third = await feed.append("message.delta", publish=False)
    for message in (first, second, third, first, second, third):
        await feed.publish(message)
    await feed.finish()
    await one.ends()
    assert one.ids == feed.ids
    assert one.gaps == []


async def test_malformed_message_costs_a_read(feed: Feed, following: Start) -> None:
    """What somebody else publishes on the channel harms nobody."""
    await feed.append("run.started")
    one = following()
    await one.has(1)
    await feed.publish(b"hello")
    await feed.append("message.delta")
    await one.has(2)
    assert one.ids == feed.ids


async def test_loss_of_the_last_message_is_found(feed: Feed, following: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No successor shows that the run's last message was lost: tails are compared with the hashes."""
    monkeypatch.setattr(topics_module, "COMPARE_SECONDS", 0.05)
    monkeypatch.setattr(topic_module, "ON_ITS_WAY_SECONDS", 0.01)
    await feed.append("run.started")
    one = following()
    await one.has(1)
    await feed.append("message.delta", publish=False)
    await one.has(2)
    await feed.append("run.finished", status="succeeded", publish=False)
    await one.ends()
    assert one.ids == feed.ids


async def test_rewritten_history_is_told(feed: Feed, following: Start) -> None:
    """A live number that was seen, with a newer ms: all that the reader has is void, the feed follows from its start."""
    await feed.append("run.started", "message.delta", "message.delta")
    one = following()
    await one.has(3)
    await feed.lose_tail(1)
    await feed.append("message.delta")
    await one.has(6)
    assert one.gaps == [(1, 3, "rewritten")]
    assert one.ids[3:] == feed.ids
    snapshot = one.events[3].data["snapshot"]
    assert snapshot["run"] == "r1"
    assert snapshot["tail"] == str(feed.ids[-1])
    await feed.finish()
    await one.ends()
    assert one.ids[3:] == feed.ids


async def test_lost_tail_without_successor_is_found(
    feed: Feed, following: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that came back with less tells by its hash, before anything new is appended."""
    monkeypatch.setattr(topics_module, "COMPARE_SECONDS", 0.05)
    await feed.append("run.started", "message.delta", "message.delta")
    one = following()
    await one.has(3)
    await feed.lose_tail(2)
    await one.has(6)
    assert one.gaps == [(1, 3, "rewritten")]
    assert one.ids[3:] == feed.ids


async def test_run_that_vanished_is_told_and_waited_for(
    feed: Feed, following: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lost the whole run: a gap without snapshot, then what is written anew."""
    monkeypatch.setattr(topics_module, "COMPARE_SECONDS", 0.05)
    await feed.append("run.started", "message.delta")
    one = following()
    await one.has(2)
    await feed.lose_tail(0)
    await one.has(3)
    assert one.gaps == [(1, 2, "rewritten")]
    assert one.events[2].data["snapshot"] is None
    await feed.append("run.started")
    await one.has(4)
    assert one.ids[2:] == feed.ids


@pytest.mark.parametrize("cursor", [FeedId(2, 1), FeedId(9, 1_700_000_000_001), FeedId(3, 5)])
async def test_cursor_of_another_history_is_told(feed: Feed, following: Start, cursor: FeedId) -> None:
    """A cursor whose number has another ms, or lies beyond the tail, belongs to a history that is gone."""
    await feed.append("run.started", "message.delta", "message.delta")
    one = following(after=cursor)
    await one.has(4)
    assert one.gaps == [(1, cursor.seq, "rewritten")]
    assert one.ids == feed.ids


async def test_trimmed_part_is_told(feed: Feed, following: Start) -> None:
    """What the feed limit took is told where it would stand; a cursor directly below the first entry misses nothing."""
    for _ in range(6):
        await feed.append("message.delta")
    await feed.trim(3)
    one = following()
    await one.has(4)
    assert one.gaps == [(1, 3, "trimmed")]
    assert one.events[0].type == GAP
    assert one.ids == feed.ids[3:]
    later = following(after=feed.ids[0])
    await later.has(4)
    assert later.gaps == [(2, 3, "trimmed")]
    below = following(after=feed.ids[2])
    await below.has(3)
    assert below.gaps == []
    assert below.ids == feed.ids[3:]


async def test_expired_feed_is_told_and_ends(feed: Feed, following: Start) -> None:
    """A tombstone gives a gap up to the tail, then the end; to a reader at the tail nothing."""
    await feed.append("run.started", "message.delta")
    await feed.finish()
    await feed.expire()
    one = following()
    await one.ends()
    assert one.gaps == [(1, 3, "expired")]
    assert one.ids == []
    later = following(after=feed.ids[1])
    await later.ends()
    assert later.gaps == [(3, 3, "expired")]
    at_end = following(after=feed.ids[2])
    await at_end.ends()
    assert at_end.events == []


async def test_corrupt_run_is_told(session: Session, feed: Feed, following: Start) -> None:
    """A hash and a feed that do not belong together are told, and the feed's events given."""
    await feed.append("run.started", "message.delta")
    await execute(session.redis, "HSET", feed.hash, "tail", "7-1700000000009")
    one = following()
    await one.has(3)
    assert one.gaps == [(1, 0, "corrupt")]
    assert one.ids == feed.ids
    await execute(session.redis, "DEL", feed.feed)
    other = following(after=feed.ids[0])
    await other.has(1)
    await one.stop()


async def test_slow_reader_goes_on_from_the_feed(feed: Feed, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that does not take what comes leaves the live path with a bounded buffer, and loses nothing."""
    monkeypatch.setattr(follow_module, "BUFFER_BYTES", 2000)
    await feed.append("run.started")
    events = follow(session, "r1")
    taken = [await anext(events)]
    topic = session.topics._topics["r1"]
    waiting = asyncio.ensure_future(anext(events))
    await until(lambda: topic.attached, "it is attached")
    for _ in range(30):
        await feed.append("message.delta", data=b'"%b"' % (b"x" * 200))
    await until(lambda: not topic.attached, "it left the live path")
    await until(lambda: topic.position == feed.ids[-1], "the topic goes on")
    taken.append(await waiting)
    await feed.finish()
    async with asyncio.timeout(5):
        taken += [event async for event in events]
    assert [event.feed_id for event in taken] == feed.ids


async def test_pages_are_cut_by_bytes(feed: Feed, following: Start) -> None:
    """Many large events come in several pages, complete and in order."""
    for _ in range(5):
        await feed.append(*["message.delta"] * 40, data=b'"%b"' % (b"x" * 4000))
    one = following(live=False)
    await one.ends()
    assert one.ids == feed.ids


class Noting(Reader):
    """A reader whose steps are looked at one by one."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lived: list[int] = []

    def live(self, batch: Batch) -> bool:
        self.lived += [message.first for message in batch.messages]
        return True

    def behind(self) -> None:
        self.lived.append(-1)


async def test_caught_up_stands_behind_what_was_there(session: Session, feed: Feed) -> None:
    """Caught-up comes behind the last event that was there at subscription, though more came while it was read."""
    await feed.append("run.started", "message.delta")
    topic = await session.topics.join("r1")
    reader = Noting(topic, ZERO)
    steps = reader.catch_up()
    page = await anext(steps)
    assert isinstance(page, Page)
    await feed.append("message.delta")
    await until(lambda: topic.position.seq == 3, "the topic has it")
    assert await anext(steps) == CaughtUp(feed.ids[1])
    page = await anext(steps)
    assert isinstance(page, Page)
    assert page.messages[0].first == 3
    with pytest.raises(StopAsyncIteration):
        await anext(steps)
    assert reader.attached
    await feed.append("message.delta")
    await until(lambda: reader.lived == [4], "it comes live")
    topic.leave(reader)


async def test_flushes_are_joined_at_load(session: Session, feed: Feed) -> None:
    """What arrives while a flush is paced is handed out as one batch."""
    await feed.append("run.started")
    topic = await session.topics.join("r1")
    reader = Noting(topic, ZERO)
    async for _ in reader.catch_up():
        pass
    batches: list[Batch] = []
    reader.live = lambda batch: batches.append(batch) or True  # type: ignore[method-assign,func-returns-value]
    loop = asyncio.get_running_loop()
    session.topics._not_before = loop.time() + 3600  # perf_counter and the loop's clock are the same on Linux
    session.topics._scheduled = True
    for _ in range(5):
        await feed.append("message.delta")
    await until(lambda: topic.taken == feed.ids[-1], "all were taken")
    assert batches == []
    session.topics._flush()
    assert len(batches) == 1
    assert batches[0].events == 5
    topic.leave(reader)


async def _loses_nothing(session: Session, feed: Feed, disturb: Callable[[int], Awaitable[None]]) -> None:
    one = Following(session, "r1")
    try:
        await feed.append("run.started")
        for i in range(20):
            await disturb(i)
            await feed.append("message.delta", "message.delta")
        await feed.finish()
        await until(lambda: one.task.done(), "it has all", deadline=10)
        assert one.ids == feed.ids
        assert one.gaps == []
    finally:
        await one.stop()


async def test_cut_connections_lose_nothing(
    every_server: TestServer, session: Session, feed: Feed, namespace: str
) -> None:
    """While connections are cut again and again, everything arrives once and in order."""
    async with cut_proxy(every_server.url) as proxy, opened(proxy.url, namespace) as behind:

        async def disturb(i: int) -> None:
            if i % 4 == 3:
                proxy.cut()

        await _loses_nothing(behind, feed, disturb)


async def test_server_that_is_away_is_waited_for(namespace: str) -> None:
    """A server that is killed and comes back with its AOF: the reader waits, and has everything afterwards."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder), ["--appendonly", "yes", "--appendfsync", "always"])
        await asyncio.to_thread(daemon.start)
        try:
            async with opened(daemon.url, namespace) as session:
                feed = Feed(session, "r1")

                async def disturb(i: int) -> None:
                    if i in (5, 12):
                        await asyncio.to_thread(daemon.kill)
                        await asyncio.to_thread(daemon.start)

                await _loses_nothing(session, feed, disturb)
        finally:
            await asyncio.to_thread(daemon.kill)
