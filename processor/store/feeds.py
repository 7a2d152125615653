"""Reads of feeds and run hashes for those who follow. Always from the primary: a replica may have the message before the entry."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeVar

import structlog
from redis.asyncio import Redis

from processor.core.cursor import FeedId
from processor.core.errors import ServerError
from processor.core.settings import Settings
from processor.core.splice import Entry, Look
from processor.store.channels import Channels
from processor.store.connection import speaking_of, uncancelled
from processor.store.runs import RunState, Space, read_feed, read_state
from processor.store.scripts import Scripts

__all__ = ["FIRST_PAGE", "Feeds", "Served", "Store", "next_page"]

log = structlog.get_logger("tailrace.feeds")
T = TypeVar("T")

FIRST_PAGE: Final = 64  # entries; nothing is known of their size yet, and they may have 64 KiB each
PAGE_BYTES: Final = 128 * 1024
PAGE_ENTRIES: Final = (16, 1000)
BACKOFF_SECONDS: Final = (0.05, 1.0)


class Served(Protocol):
    """Connections to one server."""

    @property
    def channels(self) -> Channels: ...


class Store(Space, Protocol):
    """What following needs of a session."""

    @property
    def server(self) -> Served: ...

    @property
    def scripts(self) -> Scripts: ...

    @property
    def settings(self) -> Settings: ...


def next_page(entries: Sequence[Entry]) -> int:
    """How many entries to ask for next, so that a page has about PAGE_BYTES, judged by this one. entries: not empty."""
    size = sum(len(payload) + 64 for _, payload in entries)
    low, high = PAGE_ENTRIES
    return max(low, min(high, PAGE_BYTES * len(entries) // size))


class Feeds:
    """Each method reads once and raises ServerError; `patiently` repeats one until the server is back."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._away = False  # told in the log

    async def page(self, run: str, first: int, count: int, last: int | None = None) -> list[Entry]:
        """At most `count` entries with numbers from first to last, both included; last None: to the end."""
        with self._speaking():
            return await read_feed(self._store, run, max(first, 1), last=last, count=count)

    async def state(self, run: str) -> RunState | None:
        """None for an unknown run."""
        with self._speaking():
            return await read_state(self._store, run)

    async def look(self, run: str) -> Look:
        """The run's hash and its feed's last entry, in one step."""
        with self._speaking():
            status, tail, newest = await self._store.scripts.look(self._store.keys.of(run), run)
        return Look(
            status or None,
            FeedId.parse(tail) if tail else None,
            FeedId.parse(newest) if newest else None,
        )

    async def tails(self, runs: Sequence[str]) -> list[FeedId | None]:
        """The last ID of each run by its hash, None where there is none."""
        with self._speaking():
            async with self._redis.pipeline(transaction=False) as many:
                untyped: Any = many
                for run in runs:
                    untyped.hget(self._store.keys.of(run).run(run), "tail")
                found = await uncancelled(untyped.execute())
        return [FeedId.parse(tail) if tail else None for tail in found]

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """What read answers, once the server does. Whoever follows waits: nothing is lost meanwhile."""
        tries = 0
        while True:
            try:
                found = await read()
            except ServerError as error:
                if not self._away:
                    self._away = True
                    log.warning("feeds_unreachable", error=str(error))
                low, high = BACKOFF_SECONDS
                await asyncio.sleep(random.uniform(low, min(high, low * 2 ** min(tries + 1, 10))))
                tries += 1
            else:
                if self._away:
                    self._away = False
                    log.info("feeds_reachable")
                return found

    @property
    def _redis(self) -> Redis:
        return self._store.redis

    def _speaking(self) -> AbstractContextManager[None]:
        return speaking_of(self._store.settings.redis_url or "")
