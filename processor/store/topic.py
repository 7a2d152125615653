"""A followed run: what comes live is joined with the feed once, and handed to all its readers.

SSUBSCRIBE confirmed, then the run's tail: that is where a topic begins. A reader reads the feed from its own cursor up to
where the topic is, then is attached without anything happening in between. Everything that goes wrong on the way, a hole, a
lost connection, a rewritten history, is mended by reading the feed from the last known event inclusive.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from processor.core.cursor import ZERO, FeedId
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
from processor.store.feeds import FIRST_PAGE, next_page
from processor.store.reader import Batch, Reader
from processor.store.runs import RunState

if TYPE_CHECKING:
    from processor.store.topics import Topics

__all__ = ["Topic"]

log = structlog.get_logger("tailrace.topic")

ON_ITS_WAY_SECONDS: Final = 0.1  # a message that the hash already knows of may still be under way
HELD_BYTES: Final = 4 * 1024 * 1024  # of messages that wait while a topic reads the feed
_LIFECYCLE: Final = b'"type":"run.'  # how the payloads begin that may end a run


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
            message = parse_message(body)
        except ValueError:
            log.exception("message_malformed", run=self.run)
            return False
        taken = self._splice.take(message)
        if taken is message:  # all of it, as nearly always: at load each call of a function shows
            pending = self._pending
            if not pending:
                self._topics.mark(self)
            pending.append(message)
        elif isinstance(taken, ReadFeed):
            return False
        elif taken is not None:
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

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Nobody follows it any more, or its session ends."""
        self._closed = True
        for reader in list(self.attached):
            reader.closed()
        for task in (self._opening, self._checking):
            if task is not None:
                task.cancel()
        self._pending.clear()
        if self._subscribed:
            self._subscribed = False
            self._topics.channels.unsubscribe(self._topics.channel(self.run), self)
