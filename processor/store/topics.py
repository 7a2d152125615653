"""Followed runs: what comes live is joined with the feed once for each run, and handed to all its readers.

SSUBSCRIBE confirmed, then the run's tail: that is where a topic begins. A reader reads the feed from its own cursor up to
where the topic is, then is attached without anything happening in between. Everything that goes wrong on the way, a hole, a
lost connection, a rewritten history, is mended by reading the feed from the last known event inclusive.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple

import structlog

from processor.core.cursor import ZERO, FeedId
from processor.core.errors import ServerError
from processor.core.events import payload_type
from processor.core.lifecycle import ENDS
from processor.core.splice import (
    Gap,
    Look,
    Message,
    ReadFeed,
    Splice,
    Standing,
    explain,
    go_on,
    group,
    parse_message,
)
from processor.observe import metrics
from processor.store.channels import Channels
from processor.store.feeds import FIRST_PAGE, Feeds, Store, next_page
from processor.store.runs import RunState

__all__ = ["Batch", "CaughtUp", "Ended", "Page", "Reader", "Step", "Topic", "Topics"]

log = structlog.get_logger("tailrace.topics")

COMPARE_SECONDS: Final = 5.0  # between two comparisons of tails, jittered by a fifth
ON_ITS_WAY_SECONDS: Final = 0.1  # a message that the hash already knows of may still be under way
PACE_CAP_SECONDS: Final = 0.025  # longest wait before a flush
OBSERVE_SECONDS: Final = 0.01  # an observation costs as much as a frame: a hundred a second tell as much
HELD_BYTES: Final = 4 * 1024 * 1024  # of messages that wait while a topic reads the feed
NO_PROGRESS_SECONDS: Final = 0.05
_LIFECYCLE: Final = b'"type":"run.'  # how the payloads begin that may end a run


class Batch:
    """All that came for a run since the last flush, shared by its readers; what they make of it is kept here once."""

    __slots__ = ("chunk", "events", "frames", "messages", "run")

    def __init__(self, run: str, messages: Sequence[Message]) -> None:
        self.run = run
        self.messages = messages
        self.events = len(messages[0].payloads)
        for message in messages[1:]:
            self.events += len(message.payloads)
        self.frames: bytes | None = None  # the gateway's, as SSE
        self.chunk: bytes | None = None  # and as a chunk of HTTP/1.1

    @property
    def size(self) -> int:
        """Bytes of all payloads."""
        return sum(len(payload) for message in self.messages for payload in message.payloads)


class Page(NamedTuple):
    """Events that were read from the feed."""

    messages: list[Message]


class CaughtUp(NamedTuple):
    """What was there when the reader came has been brought. Told once."""

    position: FeedId


class Ended(NamedTuple):
    """The run has ended and the reader has all of it."""

    status: str
    position: FeedId


Step = Page | Gap | CaughtUp | Ended


class Reader:
    """A place in a run. Subclasses take what comes live; `catch_up` brings what they do not have yet.

    `position` is the last event that the reader has; while it is attached, the topic's position is meant.
    """

    __slots__ = ("_caught_up", "_corrupt_told", "_target", "attached", "position", "topic")

    def __init__(self, topic: Topic, cursor: FeedId) -> None:
        self.topic = topic
        self.position = cursor
        self.attached = False
        self._target: FeedId | None = None
        self._caught_up = False
        self._corrupt_told = False

    def live(self, batch: Batch) -> bool:
        """Takes what came; False if there is no room, then nothing of it is taken."""
        raise NotImplementedError

    def behind(self) -> None:
        """No longer attached: `catch_up` has to run."""
        raise NotImplementedError

    async def catch_up(self) -> AsyncGenerator[Step, None]:
        """Brings what is missing until the reader is attached, or the run's end. Waits while the server is away."""
        topic = self.topic
        count = FIRST_PAGE
        if self._target is None:
            self._target = topic.position
        beyond = False  # what was to be read to the target was trimmed: read on behind it
        while True:
            if topic.corrupt and not self._corrupt_told:
                self._corrupt_told = True
                yield self._lost(Gap(1, self.position.seq, "corrupt"))
            at = topic.position
            if self.position == at or (self.position.seq == at.seq and self.position.ms == 0):
                self.position = at
                if not self._caught_up:
                    self._caught_up = True
                    yield CaughtUp(at)
                elif topic.ended is not None:
                    yield Ended(topic.ended, at)
                    return
                else:
                    topic.attach(self)
                    return
            elif self.position.seq >= at.seq:  # one of the two is wrong about the feed
                await topic.check()
                if self.position.seq > topic.position.seq or self._contradicts(topic.position):
                    yield self._lost(Gap(1, self.position.seq, "rewritten"))
            elif not self._caught_up and self.position.seq >= self._target.seq:
                self._caught_up = True
                yield CaughtUp(self.position)
            else:
                last = at.seq if self._caught_up or beyond else min(at.seq, self._target.seq)
                entries = await topic.page(self.position.seq, count, last)
                step = go_on(self.position, entries)
                if step is None:
                    gap = await topic.explain(self.position)
                    if gap is not None and gap.reason == "corrupt":
                        await asyncio.sleep(NO_PROGRESS_SECONDS)  # told above, once; the topic is where the feed is
                    elif gap is not None:
                        yield self._lost(gap)
                    elif last < topic.position.seq:
                        beyond = True
                    else:
                        await asyncio.sleep(NO_PROGRESS_SECONDS)  # trimmed up to here; the topic is about to move
                elif isinstance(step, Gap):
                    if step.restart:
                        await topic.check()
                    yield self._lost(step)
                elif step:
                    self.position = step[-1][0]
                    count = next_page(entries)
                    yield Page(group(step))
                else:  # the topic knows of more than the feed has
                    await topic.check()
                    await asyncio.sleep(NO_PROGRESS_SECONDS)

    def _contradicts(self, other: FeedId) -> bool:
        return self.position.seq == other.seq and self.position.ms not in (0, other.ms)

    def _lost(self, gap: Gap) -> Gap:
        """Goes on behind the gap."""
        self.position = gap.position()
        if gap.restart and not self._caught_up:
            self._target = self.topic.position
        metrics.gaps_told_total.labels(gap.reason).inc()
        return gap


class Topic:
    """One followed run. A Sink of its channel."""

    __slots__ = (
        "_again",
        "_begun",
        "_checking",
        "_closed",
        "_held",
        "_held_bytes",
        "_opening",
        "_pending",
        "_splice",
        "_subscribed",
        "_topics",
        "attached",
        "corrupt",
        "ended",
        "position",
        "run",
        "users",
    )

    def __init__(self, topics: Topics, run: str) -> None:
        self.run = run
        self.position = ZERO  # of the last event that was flushed
        self.ended: str | None = None
        self.corrupt = False
        self.attached: dict[Reader, None] = {}
        self.users = 0
        self._topics = topics
        self._splice = Splice(ZERO)  # its `last`: of the last event that was taken
        self._pending: list[Message] = []
        self._held: list[bytes] | None = []  # messages that wait while the feed is read; None: nothing is read
        self._held_bytes = 0
        self._again = False
        self._begun: asyncio.Event | None = None
        self._subscribed = False
        self._closed = False
        self._checking: asyncio.Task[None] | None = None
        self._opening = asyncio.create_task(self._open(), name="tailrace-topic-open")

    # -- what readers ask

    async def opened(self) -> None:
        """Raises ServerError if the server refuses the channel."""
        await asyncio.shield(self._opening)

    @property
    def exists(self) -> bool:
        """Whether the run has, or had, any event."""
        return self.position != ZERO or self.corrupt

    async def begun(self) -> None:
        """Returns once the run exists."""
        if not self.exists:
            if self._begun is None:
                self._begun = asyncio.Event()
            await self._begun.wait()

    @property
    def following(self) -> bool:
        """Whether more is expected of it."""
        return self._subscribed and self.ended is None and not self.corrupt

    async def page(self, first: int, count: int, last: int) -> list[tuple[FeedId, bytes]]:
        feeds = self._topics.feeds
        return await feeds.patiently(lambda: feeds.page(self.run, first, count, last))

    async def state(self) -> RunState | None:
        """The run's state as it is now; None for an unknown run."""
        feeds = self._topics.feeds
        return await feeds.patiently(lambda: feeds.state(self.run))

    async def explain(self, position: FeedId) -> Gap | None:
        """Why nothing was read from there; the topic has looked as well, and knows where it is, if it is a gap."""
        gap = explain(position, await self._look())
        if gap is not None:
            await self.check()
            gap = explain(position, await self._look())  # what was true before may have been mended since
        return gap

    def attach(self, reader: Reader) -> None:
        """From now on the reader is given what comes. Its position must be the topic's."""
        reader.attached = True
        self.attached[reader] = None

    def leave(self, reader: Reader) -> None:
        self._detach(reader)
        self._topics.left(self)

    async def check(self) -> None:
        """Reads the feed from the topic's last event inclusive, and says where the run is by the time it returns."""
        self._start_check()
        if self._checking is not None:
            await asyncio.wait([self._checking])

    # -- what the channel tells

    def message(self, body: bytes) -> None:
        if self._held is not None:
            if self._held_bytes < HELD_BYTES:
                self._held.append(body)
                self._held_bytes += len(body)
            else:
                self._again = True
        elif not self._offer(body):
            self._start_check()

    def resubscribed(self) -> None:
        self._start_check()

    def _offer(self, body: bytes) -> bool:
        """Takes what is new of a message; False if the feed has to be read first."""
        try:
            taken = self._splice.take(parse_message(body))
        except ValueError:
            log.exception("message_malformed", run=self.run)
            return False
        if taken is None:
            return True
        if isinstance(taken, ReadFeed):
            return False
        self._take(taken)
        return True

    def _take(self, message: Message) -> None:
        if not self._pending:
            self._topics.mark(self)
        self._pending.append(message)

    # -- handing out

    def flush(self) -> None:
        """Hands what is pending to all attached readers."""
        messages, self._pending = self._pending, []
        if not messages:
            return
        batch = Batch(self.run, messages)
        for reader in list(self.attached):
            try:
                taken = reader.live(batch)
            except Exception:  # one reader's fault: the others must have the batch all the same
                log.exception("reader_failed", run=self.run)
                taken = False
            if not taken:
                self._detach(reader)
                metrics.slow_fallbacks_total.inc()
                reader.behind()
        last = messages[-1]
        self.position = last.last
        if self._begun is not None:
            self._begun.set()
        payload = last.payloads[-1]
        status = ENDS.get(payload_type(payload)) if payload.startswith(_LIFECYCLE) else None
        if status is not None:
            self.ended = status
            self._send_back()

    def _detach(self, reader: Reader) -> None:
        if reader.attached:
            reader.attached = False
            reader.position = self.position
            self.attached.pop(reader, None)

    def _send_back(self) -> None:
        """All readers go on from the feed, each by itself: there they find what has become of the run."""
        for reader in list(self.attached):
            self._detach(reader)
            reader.behind()

    @property
    def oldest_pending_ms(self) -> int | None:
        return self._pending[0].ms if self._pending and self.attached else None

    # -- finding out where the run is

    async def _open(self) -> None:
        self._place(await self._look())
        held, self._held, self._held_bytes = self._held or [], None, 0
        for body in held:
            self.message(body)

    async def _look(self) -> Look:
        """Hash and feed; a run that has not ended is subscribed to before they are believed."""
        feeds = self._topics.feeds
        look = await feeds.patiently(lambda: feeds.look(self.run))
        if look.ended is None and not self._subscribed:
            await self._topics.channels.subscribe(self._topics.channel(self.run), self)
            self._subscribed = True
            look = await feeds.patiently(lambda: feeds.look(self.run))
        return look

    def _place(self, look: Look) -> None:
        self.position = self._splice.last = look.position
        self.ended = look.ended
        self.corrupt = look.standing is Standing.CORRUPT
        if self.corrupt:
            log.error("run_corrupt", run=self.run, status=look.status, tail=str(look.tail), last=str(look.last))
        if self._begun is not None and self.exists:
            self._begun.set()

    def _start_check(self) -> None:
        if self._closed:
            return
        if self._held is None:
            self._held, self._held_bytes, self._again = [], 0, False
            self._checking = asyncio.create_task(self._check(), name="tailrace-topic-check")
        else:
            self._again = True

    async def _check(self) -> None:
        """Reads the feed to its end, then judges what came meanwhile, until both agree."""
        try:
            while True:
                # what came before the read is in the feed, or in no history any more
                self._held, self._held_bytes, self._again = [], 0, False
                await self._read_to_end()
                held = self._held
                if all(self._offer(body) for body in held) and not self._again:
                    return
        finally:
            self._held, self._checking = None, None

    async def _read_to_end(self) -> None:
        feeds, count = self._topics.feeds, FIRST_PAGE
        while True:
            last, asked = self._splice.last, count
            entries = await feeds.patiently(lambda: feeds.page(self.run, last.seq, asked))  # noqa: B023 - awaited here
            step = go_on(last, entries)
            if step is None or isinstance(step, Gap):
                look = await self._look()
                if step is not None or explain(last, look) is not None:
                    self._reset(look)
                    return
                if look.position == last:
                    return
                continue  # it came since
            if step:
                metrics.gaps_filled_total.inc()
                for message in group(step):
                    self._take(message)
                self._splice.last = step[-1][0]
                self.flush()
            if len(entries) < asked:
                return
            count = next_page(entries)

    def _reset(self, look: Look) -> None:
        """The run does not go on from where the topic was."""
        self.flush()
        log.warning(
            "topic_reset", run=self.run, was=str(self.position), tail=str(look.tail), standing=look.standing.value
        )
        self._send_back()
        self._place(look)

    def compare(self, tail: FeedId, asked_at: FeedId) -> None:
        """What the run's hash says its last event is; asked_at: where the topic was when it was asked."""
        if self._held is not None or tail == self._splice.last:
            return
        if tail.seq > self._splice.last.seq:
            asyncio.get_running_loop().call_later(ON_ITS_WAY_SECONDS, self._still_behind, tail)
        elif self._splice.last == asked_at:
            self._start_check()

    def _still_behind(self, tail: FeedId) -> None:
        if self._subscribed and self._held is None and self._splice.last.seq < tail.seq:
            self._start_check()

    @property
    def taken(self) -> FeedId:
        return self._splice.last

    def close(self) -> None:
        """Nobody follows it any more."""
        self._closed = True
        for task in (self._opening, self._checking):
            if task is not None:
                task.cancel()
        self._pending.clear()
        if self._subscribed:
            self._subscribed = False
            self._topics.channels.unsubscribe(self._topics.channel(self.run), self)


class Topics:
    """All followed runs of a session, and the pace at which what came is handed out."""

    def __init__(self, store: Store) -> None:
        self.feeds = Feeds(store)
        self._store = store
        self._topics: dict[str, Topic] = {}
        self._dirty: list[Topic] = []
        self._scheduled = False
        self._not_before = 0.0
        self._observe_from = 0.0
        self._comparing: asyncio.Task[None] | None = None

    @property
    def channels(self) -> Channels:
        return self._store.server.channels

    def channel(self, run: str) -> str:
        return self._store.keys.of(run).channel(run)

    async def join(self, run: str) -> Topic:
        """The run's topic, which knows where the run is. Each join is ended by one `leave` (or `left`).

        Waits while the server is away. Raises ServerError if it refuses.
        """
        topic = self._topics.get(run)
        if topic is None:
            topic = self._topics[run] = Topic(self, run)
            if self._comparing is None:
                self._comparing = asyncio.create_task(self._compare_tails(), name="tailrace-tails")
        topic.users += 1
        try:
            await topic.opened()
        except BaseException:
            self.left(topic)
            raise
        return topic

    def left(self, topic: Topic) -> None:
        topic.users -= 1
        if topic.users == 0:
            topic.close()
            if self._topics.get(topic.run) is topic:
                del self._topics[topic.run]
            if not self._topics and self._comparing is not None:
                self._comparing.cancel()
                self._comparing = None

    def close(self) -> None:
        """Ends all topics; their readers are told nothing more."""
        for topic in self._topics.values():
            topic.close()
        self._topics.clear()
        if self._comparing is not None:
            self._comparing.cancel()
            self._comparing = None

    # -- pacing: a flush begins only when as much time has passed since the last one as that one took. What arrives
    # meanwhile is joined, so that at load a frame costs less, not more; free at low load, where a flush takes 10 us.

    def mark(self, topic: Topic) -> None:
        """The topic has something to hand out."""
        self._dirty.append(topic)
        if not self._scheduled:
            self._scheduled = True
            loop = asyncio.get_running_loop()
            wait = self._not_before - time.perf_counter()
            if wait > 0:
                loop.call_later(wait, self._flush)
            else:
                loop.call_soon(self._flush)

    def _flush(self) -> None:
        begin = time.perf_counter()
        dirty, self._dirty = self._dirty, []
        self._scheduled = False
        oldest = dirty[0].oldest_pending_ms if begin >= self._observe_from else None
        for topic in dirty:
            topic.flush()
        if oldest is not None:
            self._observe_from = begin + OBSERVE_SECONDS
            metrics.append_to_send_seconds.observe(max(0.0, time.time() - oldest / 1000))
        # uvloop writes to sockets behind this callback: the flush has ended when the loop turns again
        asyncio.get_running_loop().call_soon(self._flushed, begin)

    def _flushed(self, begin: float) -> None:
        end = time.perf_counter()
        self._not_before = end + min(end - begin, PACE_CAP_SECONDS)

    async def _compare_tails(self) -> None:
        """A run's last message has no successor that would show its loss."""
        while True:
            await asyncio.sleep(COMPARE_SECONDS * random.uniform(0.8, 1.2))
            followed = [topic for topic in self._topics.values() if topic.following]
            for at in range(0, len(followed), 500):
                await self._compare(followed[at : at + 500])

    async def _compare(self, topics: list[Topic]) -> None:
        asked_at = [topic.taken for topic in topics]
        try:
            tails = await self.feeds.tails([topic.run for topic in topics])
        except ServerError as error:
            log.debug("tails_unreachable", error=str(error))  # the channel's connection is lost as well, or about to be
            return
        for topic, tail, asked in zip(topics, tails, asked_at, strict=True):
            topic.compare(tail or ZERO, asked)
