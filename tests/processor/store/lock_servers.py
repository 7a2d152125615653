"""Independent lock servers that tests kill, freeze and lie to."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from processor.store.redlock import LockServer, RedLock
from tests.processor.store.stage import LIMITS
from tests.support.servers import Daemon, Kind, binary_of
from tests.support.until import until

__all__ = ["LockDaemons", "Party", "running_lock_servers"]

TIMEOUT_SECONDS = 0.12  # a busy machine must not look like a frozen server; TTLs here are short


class LockDaemons:
    """Real servers without persistence, by number."""

    def __init__(self, daemons: Sequence[Daemon]) -> None:
        self.daemons = daemons
        self._frozen: set[int] = set()

    @property
    def urls(self) -> list[str]:
        return [daemon.url for daemon in self.daemons]

    def client(self, number: int) -> redis.Redis:
        """A blocking client. Close it."""
        return redis.Redis.from_url(self.urls[number], protocol=2, socket_timeout=5)

    def kill(self, number: int) -> None:
        self.thaw(number)
        self.daemons[number].kill()

    def restart(self, number: int) -> None:
        """It comes back empty."""
        self.kill(number)
        self.daemons[number].start()

    def freeze(self, number: int) -> None:
        process = self.daemons[number].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        self._frozen.add(number)

    def thaw(self, number: int) -> None:
        process = self.daemons[number].process
        if number in self._frozen and process is not None:
            process.send_signal(signal.SIGCONT)
        self._frozen.discard(number)

    async def is_old(self, numbers: Sequence[int], ttl_ms: int) -> None:
        """Until their word counts, which takes a TTL and a second from their start."""

        def old() -> bool:
            for number in numbers:
                with self.client(number) as client:
                    if client.info("server")["uptime_in_seconds"] <= ttl_ms / 1000 + 1:
                        return False
            return True

        await until(old, "the lock servers have run for a TTL", ttl_ms / 1000 + 5)

    def heal(self) -> None:
        """All run and are empty."""
        for number, daemon in enumerate(self.daemons):
            self.thaw(number)
            if daemon.process is None:
                daemon.start()
            with self.client(number) as client:
                client.flushall()
                client.config_resetstat()

    def keys(self, number: int) -> list[bytes]:
        with self.client(number) as client:
            found: list[bytes] = client.keys("*")
            return found


@contextmanager
def running_lock_servers(count: int, first: Callable[[Path], Daemon] | None = None) -> Iterator[LockDaemons]:
    """Every second one is Redis 7, where that is installed. first: makes the first one, in its folder."""
    kinds: list[Kind] = ["valkey", "redis7" if binary_of("redis7") else "valkey"]
    with tempfile.TemporaryDirectory(prefix="tailrace-lock-") as root:
        daemons = []
        for number in range(count):
            folder = Path(root) / str(number)
            folder.mkdir()
            daemons.append(first(folder) if first and number == 0 else Daemon(kinds[number % 2], folder))
        try:
            for daemon in daemons:
                daemon.start()
            yield LockDaemons(daemons)
        finally:
            for daemon in daemons:
                if daemon.process is not None:
                    daemon.process.send_signal(signal.SIGCONT)
                daemon.kill(signal.SIGTERM)


class Party:
    """Somebody who wants the lock, with connections and a clock of their own.

    rate: how fast that clock runs; up to 1 % is what the drift allows for.
    """

    def __init__(
        self, urls: Sequence[str], key: str, *, ttl_ms: int, rate: float = 1, max_extensions: int = 100
    ) -> None:
        self.servers = [LockServer(url, LIMITS, ttl_ms=ttl_ms, timeout_seconds=TIMEOUT_SECONDS) for url in urls]
        self.lock = RedLock(self.servers, key, clock=lambda: time.monotonic() * rate, max_extensions=max_extensions)
        self.rate = rate

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self.servers))
