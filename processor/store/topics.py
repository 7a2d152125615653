"""All followed runs of a session, and the pace at which what came is handed out."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import structlog

from processor.core.cursor import ZERO
from processor.core.errors import ServerError
from processor.observe import metrics
from processor.store.channels import Channels
from processor.store.feeds import Feeds, Store
from processor.store.topic import Topic

__all__ = ["Topics"]

log = structlog.get_logger("tailrace.topics")

COMPARE_SECONDS: Final = 5.0  # between two comparisons of tails, jittered by a fifth
PACE_CAP_SECONDS: Final = 0.025  # longest wait before a flush
OBSERVE_SECONDS: Final = 0.01  # an observation costs as much as a frame: a hundred a second tell as much


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
        """Ends all topics, and tells their readers that nothing comes any more."""
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
