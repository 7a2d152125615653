"""Following a run from Python: every event once, in order, to the end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Final, Protocol

from processor.core.cursor import ZERO, FeedId
from processor.core.errors import RunNotFound, ServerUnreachable
from processor.core.events import Event, gap_event
from processor.core.splice import Gap, Message
from processor.store.feeds import Store
from processor.store.reader import Batch, CaughtUp, Ended, Page, Reader
from processor.store.topic import Topic
from processor.store.topics import Topics

__all__ = ["Followed", "follow"]

BUFFER_BYTES: Final = 1024 * 1024  # of payloads that the caller has not taken yet; then it goes on from the feed


class Followed(Store, Protocol):
    """A session with its topics."""

    @property
    def topics(self) -> Topics: ...


class _Queue(Reader):
    """Keeps what came live until the caller asks for it."""

    __slots__ = ("_batches", "_bytes", "_woken")

    def __init__(self, topic: Topic, cursor: FeedId) -> None:
        super().__init__(topic, cursor)
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._woken = asyncio.Event()

    def live(self, batch: Batch) -> bool:
        if self._bytes > BUFFER_BYTES:
            return False
        self._batches.append(batch)
        self._bytes += batch.size
        self._woken.set()
        return True

    def behind(self) -> None:
        self._woken.set()

    def closed(self) -> None:
        self._woken.set()

    async def woken(self) -> None:
        """Returns when there is something to take, or nothing will come live any more."""
        self._woken.clear()
        if self.attached and not self._batches:
            await self._woken.wait()

    def taken(self) -> Iterator[Message]:
        while self._batches:
            batch = self._batches.popleft()
            self._bytes -= batch.size
            yield from batch.messages


def _events(run: str, messages: Iterable[Message]) -> Iterator[Event[Any]]:
    for first, ms, payloads in messages:
        for seq, payload in enumerate(payloads, first):
            yield Event(run, FeedId(seq, ms), payload)


async def follow(
    session: Followed, run: str, after: FeedId = ZERO, live: bool = True, *, wait_seconds: float = 0
) -> AsyncIterator[Event[Any]]:
    """Every event of a run behind `after`, once and in order, to the run's end; live False: to what is there now.

    What cannot be had any more comes as an event of type tailrace.gap with WIRE 4's data. While the server is away it
    waits. wait_seconds: for an unknown run to begin. Raises RunNotFound, ServerError if the server refuses or the session
    is closed.
    """
    topic = await session.topics.join(run)
    queue = _Queue(topic, after)
    try:
        if not topic.exists:
            await _begun(topic, wait_seconds)
        if (
            not live and topic.users > 1
        ):  # others follow it: it is where their messages are, which may be behind the feed
            await topic.check()
        while True:
            for event in _events(run, queue.taken()):
                yield event
            if queue.attached:
                await queue.woken()
                if topic.closed:
                    raise ServerUnreachable(f"run {run} is followed no further: its Tailrace was closed.")
                continue
            async with aclosing(queue.catch_up()) as steps:
                async for step in steps:
                    match step:
                        case Page(messages):
                            for event in _events(run, messages):
                                yield event
                        case Gap(first, last, reason):
                            state = await topic.state()
                            yield gap_event(run, first, last, reason, state.json() if state is not None else None)
                        case Ended():
                            return
                        case CaughtUp():
                            if not live:
                                return
    finally:
        topic.leave(queue)


async def _begun(topic: Topic, wait_seconds: float) -> None:
    try:
        async with asyncio.timeout(wait_seconds):
            await topic.begun()
    except TimeoutError:
        raise RunNotFound(f"there is no run {topic.run}: it never began, or it expired.", run=topic.run) from None
