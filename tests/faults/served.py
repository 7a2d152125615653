"""The server that faults happen to: a real one with an AOF, which is killed, comes back, or forgets its last writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import redis.asyncio

from processor.core.keys import Keyspace, topology_key
from tests.support.servers import Daemon

__all__ = ["NAMESPACE", "Fsync", "Served", "aof"]

NAMESPACE: Final = "default"
Fsync = Literal["always", "everysec"]
T = TypeVar("T")


def aof(fsync: Fsync) -> tuple[str, ...]:
    """The server's arguments."""
    return ("--appendonly", "yes", "--appendfsync", fsync)


class Served:
    """A folder with a server in it."""

    def __init__(self, folder: Path, server: Daemon, *, fsync: Fsync = "everysec") -> None:
        self.folder, self.server, self.url = folder, server, server.url
        self.fsync = fsync
        self.forgets = False  # it did not keep all that it acknowledged
        # One thread for what starts processes: a parent-death signal fires when the thread that started one ends.
        self._thread = ThreadPoolExecutor(1)

    async def blocking(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def start_server(self) -> None:
        await self.blocking(self.server.start)

    async def restart_server(self, away: float = 0) -> None:
        """kill -9; it comes back with its AOF after so many seconds."""
        await self.kill_server()
        await asyncio.sleep(away)  # the fault itself
        await self.start_server()

    async def kill_server(self) -> None:
        """kill -9. With everysec a write waits while the disk is busy, though it was acknowledged: some may be lost."""
        await self.blocking(self.server.kill)
        self.forgets = self.fsync == "everysec"

    @property
    def _aof(self) -> Path:
        (path,) = (self.folder / "appendonlydir").glob("*.incr.aof")
        return path

    def aof_bytes(self) -> int:
        """What is on its way to the disk by now."""
        return self._aof.stat().st_size

    async def lose_tail(self, kept: int) -> None:
        """As after a crash with everysec: the server dies, and comes back with so many bytes of its AOF."""
        await self.kill_server()
        os.truncate(self._aof, kept)
        await self.start_server()

    @asynccontextmanager
    async def full_server(self) -> AsyncIterator[None]:
        """Within, it is out of memory."""
        async with self.client() as client:
            await client.config_set("maxmemory-policy", "noeviction")
            await client.config_set("maxmemory", "100kb")
            try:
                yield
            finally:
                await client.config_set("maxmemory", "0")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """For looking: redis-py, bytes in, bytes out."""
        client = redis.asyncio.Redis.from_url(self.url, protocol=2, socket_timeout=5)
        try:
            yield client
        finally:
            await client.aclose()

    async def keys(self, client: Any) -> Keyspace:
        layout: bytes = await client.hget(topology_key(NAMESPACE), "layout")
        return Keyspace(NAMESPACE, layout.decode())

    async def now_ms(self) -> int:
        """By the server's clock."""
        async with self.client() as client:
            seconds, micros = await client.time()
        return int(seconds * 1000 + micros // 1000)

    def close(self) -> None:
        """Ends it for good."""
        self.server.kill()
        self._thread.shutdown()
