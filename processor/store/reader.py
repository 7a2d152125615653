"""Readers: places in a run. What they do not have yet is read from the feed; then they are handed what comes live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from processor.core.cursor import FeedId
from processor.core.splice import Gap, Message, go_on, group
from processor.observe import metrics
from processor.store.feeds import FIRST_PAGE, next_page

if TYPE_CHECKING:
    from processor.store.topic import Topic

__all__ = ["Batch", "CaughtUp", "Ended", "Page", "Reader", "Step"]

NO_PROGRESS_SECONDS: Final = 0.05


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

    def closed(self) -> None:
        """The topic ended with its session: nothing comes any more."""

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
