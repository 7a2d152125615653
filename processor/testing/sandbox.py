"""A sandbox for tests: a fresh server behind `tail` for as long as a block runs."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from processor.client.tailrace import Tailrace
from processor.store.embedded import EmbeddedServer
from processor.testing.fake import Clock, running_fake

__all__ = ["Sandbox", "sandbox"]


class Sandbox:
    """The server behind `tail` while the block runs."""

    def __init__(self, tail: Tailrace, url: str, clock: Clock | None) -> None:
        self._tail, self._clock = tail, clock
        self.url = url

    async def advance(self, seconds: float) -> None:
        """Lets the server's time pass at once, and what was due happen. Raises RuntimeError with server=True."""
        if self._clock is None:
            raise RuntimeError("time is real with server=True; use sandbox(tail) to advance it")
        if seconds < 0:
            raise ValueError(f"seconds is {seconds}; time does not go back")
        session = await self._tail.session()
        self._clock.ahead += seconds
        for partition in session.keys.partitions:
            await session.expire(partition)


@asynccontextmanager
async def sandbox(tail: Tailrace, *, server: bool = False) -> AsyncIterator[Sandbox]:
    """Points `tail` to a fresh fakeredis server with virtual time; server=True: to an embedded Valkey, where time is real.

    Runs of start_here that are still going at the end of the block end as failed, reason shutdown.
    """
    with _fresh_server(server) as (url, clock):
        before = tail._url, tail._settings
        await tail.close()
        tail._url, tail._settings = url, None
        try:
            yield Sandbox(tail, url, clock)
        finally:
            await tail.close()
            tail._url, tail._settings = before


@contextmanager
def _fresh_server(real: bool) -> Iterator[tuple[str, Clock | None]]:
    if real:
        with tempfile.TemporaryDirectory(prefix="tailrace-") as folder, EmbeddedServer(folder, aof="off") as embedded:
            yield embedded.url, None
    else:
        with running_fake() as fake:
            yield fake.url, fake.clock
