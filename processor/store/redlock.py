"""RedLock: one holder at a time, elected by a majority of independent servers.

After https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/. It elects only: a process that stops for longer
than its lock is valid wakes as a holder that is none any more, so what a holder does must be harmless when done twice.
"""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from processor.store.connection import execute, redact
from processor.store.scripts import Limits, Scripts
from processor.store.stopping import pause_or_stop

__all__ = ["Held", "LockServer", "RedLock", "lock_servers"]

log = structlog.get_logger("tailrace")

DRIFT_SHARE: Final = 0.01  # of the TTL: how much faster a server's clock may run than the holder's
DRIFT_MS: Final = 2  # and how coarse their expiry is
TTL_MS: Final = 10_000
TIMEOUT_SHARE: Final = (
    0.025  # of the TTL, for each server: one that is frozen must not cost the others' votes their validity
)
LEAST_TIMEOUT_SECONDS: Final = 0.05
MAX_EXTENSIONS: Final = (
    100  # without a bound nobody else would ever be elected, and a restarted server never vote again
)
MOST_OWED: Final = 16  # releases that are still to be told to a server; the rest expires
POLL_SHARE: Final = 0.25  # of the TTL: how soon a lock that was given back early is noticed
JITTER_SHARE: Final = 0.05  # of the TTL: candidates that wake together must not split the votes again and again


class Vote(NamedTuple):
    """A server's answer. `silent` may mean yes: the answer got lost, or the server was frozen."""

    answer: Literal["yes", "no", "silent"]
    free_ms: float = math.inf  # until its key expires, as far as known


@dataclass(frozen=True, slots=True)
class Held:
    """A lock that was won."""

    token: str
    valid_until: float  # on the clock of the RedLock that won it, in seconds
    extensions: int = 0


class LockServer:
    """One independent master. What it does not answer in time counts as no vote; nothing is sent twice."""

    def __init__(
        self, url: str, limits: Limits, *, ttl_ms: int, shebang: bool = True, timeout_seconds: float | None = None
    ) -> None:
        """timeout_seconds: of each question; small against the TTL by default."""
        self.url = url
        self.ttl_ms = ttl_ms
        self._timeout = timeout_seconds or max(LEAST_TIMEOUT_SECONDS, ttl_ms / 1000 * TIMEOUT_SHARE)
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            # A SET NX that is sent again after a lost answer would be refused for its own first copy.
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._scripts = Scripts(self._redis, limits, shebang=shebang)
        self._is_away = False
        self._owed: set[tuple[str, str]] = set()  # key and token of releases that it did not answer

    async def close(self) -> None:
        await self._redis.aclose()

    async def take(self, key: str, token: str) -> Vote:
        return await self._in_time(self._take(key, token))

    async def extend(self, key: str, token: str) -> Vote:
        return await self._in_time(self._call("lock_extend", key, "extended", token, self.ttl_ms))

    async def release(self, key: str, token: str) -> Vote:
        vote = await self._in_time(self._call("lock_release", key, "released", token))
        if vote.answer == "silent":
            self._owed.add((key, token))
        return vote

    async def _settle_owed(self) -> None:
        """A server that was frozen takes a lock late, and nobody has it: without this until it expires."""
        owed, self._owed = self._owed, set()
        try:
            while owed:
                key, token = one = next(iter(owed))
                await self._call("lock_release", key, "released", token)
                owed.discard(one)
        finally:
            if len(owed) < MOST_OWED:
                self._owed |= owed

    async def _take(self, key: str, token: str) -> Vote:
        if self._owed:
            await self._settle_owed()
        if await execute(self._redis, "SET", key, token, "NX", "PX", self.ttl_ms):
            return Vote("yes", 0) if await self._remembers() else Vote("silent")
        left = await execute(self._redis, "PTTL", key)
        # -2: expired since; -1: never expires, which is somebody's hand
        return Vote("no", left if left >= 0 else 0 if left == -2 else math.inf)

    async def _remembers(self) -> bool:
        """Whether it knows every lock that may still be valid: a server that restarted may have forgotten some, and stays out
        for one TTL ("delayed restarts" in the published algorithm)."""
        try:
            facts = await execute(self._redis, "INFO", "server")
        except (NoPermissionError, ResponseError):  # its user may not ask, or it is no real server: taken at its word
            return True
        return bool(facts["uptime_in_seconds"] > self.ttl_ms / 1000 + 1)  # whole seconds, cut off

    async def _call(self, script: str, key: str, done: str, *args: str | int) -> Vote:
        (word,) = await self._scripts.call(script, [key], args)
        return Vote("yes", 0) if word.decode() == done else Vote("no", 0)

    async def _in_time(self, asking: Awaitable[Vote]) -> Vote:
        try:
            async with asyncio.timeout(self._timeout):
                vote = await asking
        except (RedisError, OSError, TimeoutError) as error:
            if not self._is_away:
                log.warning("lock_server_away", server=redact(self.url), error=str(error) or type(error).__name__)
            self._is_away = True
            return Vote("silent")
        if self._is_away:
            log.info("lock_server_back", server=redact(self.url))
        self._is_away = False
        return vote


def lock_servers(
    urls: Sequence[str], limits: Limits, *, ttl_ms: int = TTL_MS, shebang: bool = True
) -> list[LockServer]:
    """One to five. Close each. shebang: False for fakeredis. Raises ValueError."""
    if not 1 <= len(urls) <= 5:
        raise ValueError(f"{len(urls)} lock servers; give one to five independent ones")
    return [LockServer(url, limits, ttl_ms=ttl_ms, shebang=shebang) for url in urls]


class RedLock:
    """One lock's name on its servers, all with the same TTL.

    clock: seconds that only go forward. draw: a random number in [0, 1). Both are arguments for tests.
    """

    def __init__(
        self,
        servers: Sequence[LockServer],
        key: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        max_extensions: int = MAX_EXTENSIONS,
    ) -> None:
        self.servers = servers
        self.key = key
        self.ttl_seconds = servers[0].ttl_ms / 1000
        self.quorum = len(servers) // 2 + 1
        self._valid_seconds = self.ttl_seconds * (1 - DRIFT_SHARE) - DRIFT_MS / 1000
        self._clock, self._draw = clock, draw
        self._max_extensions = max_extensions
        self._free_ms: float = 0  # until a majority's keys have expired, as the last try to acquire saw them

    def seconds_left(self, held: Held) -> float:
        """How long it is still valid; 0 or less: somebody else may hold it."""
        return held.valid_until - self._clock()

    async def acquire(self) -> Held | None:
        """One try. None if it was not won; then nothing of it stays on servers that answer."""
        token = secrets.token_hex(16)
        began = self._clock()
        votes: list[Vote] = [Vote("silent")] * len(self.servers)
        try:
            votes = await self._ask(self.servers, lambda server: server.take(self.key, token))
            held = Held(token, began + self._valid_seconds)
            if self._is_majority(votes) and self.seconds_left(held) > 0:
                return held
        except asyncio.CancelledError:
            await self._give_back(token, votes)
            raise
        await self._give_back(token, votes)
        self._free_ms = sorted(vote.free_ms for vote in votes)[self.quorum - 1]
        return None

    async def wait(self, stop: asyncio.Event) -> Held | None:
        """Tries until it is won; None once stop is set."""
        while not stop.is_set():
            held = await self.acquire()
            if held is not None:
                return held
            await pause_or_stop(stop, self.retry_seconds())
        return None

    def retry_seconds(self) -> float:
        """Until the next try: when its keys expire, or before that, in case it is given back. At random, lest votes are split."""
        ttl, free, draw = self.ttl_seconds, self._free_ms / 1000, self._draw()
        poll = ttl * POLL_SHARE
        return free + ttl * JITTER_SHARE * draw if free < poll else poll * (0.2 + 0.8 * draw)

    async def extend(self, held: Held) -> Held | None:
        """The lock with its validity begun anew; itself, if not enough servers answered: until seconds_left is 0 that may be
        tried again. None if it is lost, or was extended max_extensions times."""
        if not self.may_extend(held) or self.seconds_left(held) <= 0:
            return None
        began = self._clock()
        votes = await self._ask(self.servers, lambda server: server.extend(self.key, held.token))
        if self.seconds_left(held) <= 0 or self._is_refused(votes):
            return None
        if not self._is_majority(votes):
            return held
        return replace(held, valid_until=began + self._valid_seconds, extensions=held.extensions + 1)

    def may_extend(self, held: Held) -> bool:
        return held.extensions < self._max_extensions

    async def release(self, held: Held) -> None:
        """Gives it back on all servers that answer; on the others it expires."""
        await self._ask(self.servers, lambda server: server.release(self.key, held.token))

    async def _give_back(self, token: str, votes: Sequence[Vote]) -> None:
        """Everywhere but where the server said that it never took it."""
        unsure = [server for server, vote in zip(self.servers, votes, strict=True) if vote.answer != "no"]
        await self._ask(unsure, lambda server: server.release(self.key, token))

    def _is_majority(self, votes: Sequence[Vote]) -> bool:
        return sum(vote.answer == "yes" for vote in votes) >= self.quorum

    def _is_refused(self, votes: Sequence[Vote]) -> bool:
        """Whether there can be no majority any more, whatever the silent ones would say."""
        return sum(vote.answer == "no" for vote in votes) > len(self.servers) - self.quorum

    async def _ask(
        self, servers: Sequence[LockServer], question: Callable[[LockServer], Awaitable[Vote]]
    ) -> list[Vote]:
        """All at once; as long as the slowest, which has its timeout."""
        return list(await asyncio.gather(*(question(server) for server in servers)))
