"""Relays of one process: at once where something was settled for another partition, and all of them at each look."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from processor.core.errors import ServerError
from processor.core.keys import Keyspace
from processor.store.connection import speaking_of
from processor.store.relay import Relay
from processor.store.server import Server
from processor.store.space import Scripted

__all__ = ["Home", "Relaying"]

log = structlog.get_logger("tailrace.relay")


class Home(Scripted, Protocol):
    """A namespace, and the server that it is on."""

    @property
    def server(self) -> Server: ...

    async def settle_topology(self, partition: int, answered: str) -> Keyspace: ...


class Relaying:
    """Belongs to one event loop. One relay a partition at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._relay = Relay(home)
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._again: set[int] = set()

    @property
    def is_busy(self) -> bool:
        """Whether something is on its way to another partition."""
        return bool(self._under_way)

    def soon(self, partition: int) -> None:
        """Its outbox got something."""
        if partition in self._under_way:
            self._again.add(partition)
            return
        task = asyncio.get_running_loop().create_task(self._one(partition), name="tailrace-relay")
        self._under_way[partition] = task
        task.add_done_callback(lambda _: self._done(partition))

    def _done(self, partition: int) -> None:
        del self._under_way[partition]
        if partition in self._again:
            self._again.discard(partition)
            self.soon(partition)

    async def _one(self, partition: int) -> None:
        try:
            with speaking_of(self._home.server.address.url):
                await self._relay.relay(partition)
        except ServerError as error:
            log.info("relay_waits", error=error.code)  # the next look tries again

    async def look(self) -> None:
        """At every outbox: what others left is taken on, what was taken long enough ago is deleted. Raises redis-py's errors."""
        for partition in range(len(self._home.keys.partitions)):
            self._relay.forget()
            await self._relay.relay(partition)
            await self._relay.clear(partition)

    async def close(self, *, seconds: float) -> None:
        """What is on its way has so long: nobody else may come for hours."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._under_way and loop.time() < deadline:
            await asyncio.wait(self._under_way.values(), timeout=deadline - loop.time())
            await asyncio.sleep(0)  # one that is over may begin another
        self._again.clear()
        left = list(self._under_way.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
