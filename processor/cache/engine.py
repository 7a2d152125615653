"""Single flight over all processes: read what is there, claim what is not, wait for what somebody else computes.

A claim is a random token in the entry, renewed while the computation goes on. It ends by itself when its process dies; then
one of those who wait claims the entry. Whoever lost its claim caches nothing. Those who wait listen to the entry's channel.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import structlog
from prometheus_client import Counter

from processor.cache import entries
from processor.cache.codec import NOT_KEPT, Codec
from processor.cache.policy import Policy
from processor.core.errors import BadEvent, TailraceError
from processor.store.connection import speaking_of

if TYPE_CHECKING:
    from processor.client.session import Session
    from processor.client.tailrace import Tailrace

__all__ = ["Claim", "Engine", "Found"]

log = structlog.get_logger("tailrace.cache")
T = TypeVar("T")

SERVER_SECONDS: Final = 2.0  # for one answer; then the function is called without the cache
AWAY_SECONDS: Final = 2.0  # so long a server that failed is not asked again
OVERDUE_SECONDS: Final = 0.02  # behind the end of a claim somebody looks who takes it over, jittered

calls_total = Counter(
    "tailrace_cache_calls_total",
    "Calls of cached functions: hit, waited (for another's computation), computed, refreshed (early), direct (no cache)",
    ["function", "outcome"],
)


class Found(NamedTuple):
    """A result that can be given out. frame: as Codec has it; None: value is no JSON, and is given out as it is."""

    frame: bytes | None
    value: Any = None


class Claim:
    """The right to compute one entry. Belongs to the loop in which it was taken."""

    def __init__(self, key: str = "", token: str = "", good: bytes | None = None) -> None:
        """token: "" where the cache is left out. good: what is still valid while it is computed anew."""
        self.key, self.token, self.good = key, token, good
        self.began = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    def keep(self, engine: Engine) -> None:
        """Renews it each third of its term, from then on."""
        loop = asyncio.get_running_loop()

        def start() -> None:
            self._renewing = loop.create_task(engine.renew(self), name="tailrace-cache-claim")

        self._timer = loop.call_later(engine.policy.claim_seconds / 3, start)

    def release(self) -> None:
        """It is not renewed any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()


class _Woken:
    """A sink of the entry's channel."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def message(self, body: bytes, /) -> None:
        self.event.set()

    def resubscribed(self) -> None:
        self.event.set()


class Engine:
    """Of one cached function."""

    def __init__(self, tail: Tailrace, name: str, policy: Policy, codec: Codec) -> None:
        self.name, self.policy, self.codec = name, policy, codec
        self._tail = tail
        self._away_until = 0.0  # by time.monotonic()
        self._is_away = False  # and the log was told so
        self._told: set[str] = set()
        self._loose: set[asyncio.Task[None]] = set()

    # Before the function.

    async def begin(self, digest: str) -> Found | Claim:
        """What is cached, after a wait if somebody computes it; else the claim to compute it. Raises nothing of the server."""
        if time.monotonic() < self._away_until:
            return self._direct()
        try:
            return await self._begin(digest)
        except (TailraceError, TimeoutError) as error:
            self._went_away(error)
            return self._direct()

    def _direct(self) -> Claim:
        self._count("direct")
        return Claim()

    async def _begin(self, digest: str) -> Found | Claim:
        session = await _in_time(self._tail.session())
        key, token = session.keys.cache(self.name, digest), secrets.token_hex(8)
        stretch = self.policy.stretch(random.random())
        taken = await self._take(session, key, token, stretch)
        if taken.word != "wait":
            return self._answer(key, token, taken, "hit")
        async with _listening(session, key) as woken:
            while True:
                woken.clear()
                taken = await self._take(session, key, token, stretch)
                if taken.word != "wait":
                    return self._answer(key, token, taken, "waited")
                late = OVERDUE_SECONDS * (1 + random.random())
                with suppress(TimeoutError):
                    async with asyncio.timeout(taken.left_ms / 1000 + late):
                        await woken.wait()

    async def _take(self, session: Session, key: str, token: str, stretch: float) -> entries.Taken:
        try:
            with speaking_of(session.server.address.url):
                taken = await _in_time(entries.take(session, key, token, self.policy.term_ms, stretch))
        except (
            asyncio.CancelledError,
            TimeoutError,
        ):  # it may have been taken all the same, and nobody is to wait for it
            given_up = asyncio.get_running_loop().create_task(self._give_up(Claim(key, token)))
            self._loose.add(given_up)
            given_up.add_done_callback(self._loose.discard)
            raise
        self._came_back()
        return taken

    def _answer(self, key: str, token: str, taken: entries.Taken, outcome: str) -> Found | Claim:
        if taken.word == "mine":
            self._count("refreshed" if taken.frame is not None else "computed")
            claim = Claim(key, token, taken.frame if taken.frame != NOT_KEPT else None)
            claim.keep(self)
            return claim
        if taken.frame == NOT_KEPT:
            return self._direct()
        self._count(outcome)
        return Found(taken.frame)

    async def renew(self, claim: Claim) -> None:
        """Until it is cancelled or the claim is lost. A renewal that fails is made up for by the next one."""
        while True:
            try:
                session = await _in_time(self._tail.session())
                with speaking_of(session.server.address.url):
                    if not await _in_time(entries.renew(session, claim.key, claim.token, self.policy.term_ms)):
                        return
            except (TailraceError, TimeoutError) as error:
                self._went_away(error)
            await asyncio.sleep(self.policy.claim_seconds / 3)

    # Behind the function.

    async def computed(self, claim: Claim, value: Any) -> Found:
        """Caches what the function returned."""
        claim.release()
        frame = self._framed(value)
        if not claim.token:
            return Found(frame, value)
        if frame is None or len(frame) > self.policy.max_kib << 10:
            if frame is not None:
                self._tell_once("cache_value_too_large", bytes=len(frame), allowed=self.policy.max_kib << 10)
            await self._put(claim, NOT_KEPT, self.policy.ttl_ms(random.random()))
        else:
            await self._put(claim, frame, self.policy.ttl_ms(random.random(), negative=value is None))
        return Found(frame, value)

    async def failed(self, claim: Claim, error: BaseException) -> Found | None:
        """The function raised: what is still good; or None, and the exception is the caller's."""
        claim.release()
        frame = self.codec.encode_error(error) if isinstance(error, Exception) else None
        if frame is not None:
            await self._put(claim, frame, self.policy.ttl_ms(random.random(), negative=True))
            return None
        await self._give_up(claim)
        if claim.good is None or not isinstance(error, Exception):
            return None
        log.info("cache_refresh_failed", function=self.name, error=repr(error)[:200])
        return Found(claim.good)

    def _framed(self, value: Any) -> bytes | None:
        try:
            return self.codec.encode(value)
        except BadEvent as error:
            self._tell_once("cache_value_no_json", error=error.message)
            return None

    async def _put(self, claim: Claim, frame: bytes, ttl_ms: int) -> None:
        if ttl_ms <= 0:
            await self._give_up(claim)
            return
        took_ms = round(1000 * (time.monotonic() - claim.began))
        with self._server_may_fail():
            session = await _in_time(self._tail.session())
            with speaking_of(session.server.address.url):
                await _in_time(entries.put(session, claim.key, claim.token, frame, ttl_ms, took_ms))

    async def _give_up(self, claim: Claim) -> None:
        if not claim.token:
            return
        with self._server_may_fail():
            session = await _in_time(self._tail.session())
            with speaking_of(session.server.address.url):
                await _in_time(entries.drop(session, claim.key, claim.token))

    # By hand.

    async def drop(self, digest: str) -> bool:
        """Raises ServerError: an entry that should go and stays is the caller's to know."""
        session = await self._tail.session()
        with speaking_of(session.server.address.url):
            return await entries.drop(session, session.keys.cache(self.name, digest))

    async def peek(self, digest: str) -> tuple[bytes, float] | None:
        """The frame and the seconds left. Raises ServerError."""
        session = await self._tail.session()
        with speaking_of(session.server.address.url):
            found = await entries.peek(session, session.keys.cache(self.name, digest))
        return (found[0], found[1] / 1000) if found is not None and found[0] != NOT_KEPT else None

    def unreadable(self, error: ValueError) -> None:
        """What is cached was written by a release with another type."""
        self._tell_once("cache_value_unreadable", error=str(error)[:200])

    # What is told.

    def _server_may_fail(self) -> suppress:
        return _Telling(self)

    def _went_away(self, error: Exception) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS
        if not self._is_away:
            self._is_away = True
            said = error.message if isinstance(error, TailraceError) else f"no answer within {SERVER_SECONDS:g} s"
            log.warning("cache_away", function=self.name, error=said)

    def _came_back(self) -> None:
        if self._is_away:
            self._is_away = False
            log.info("cache_back", function=self.name)

    def _tell_once(self, what: str, **fields: object) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning(what, function=self.name, **fields)

    def _count(self, outcome: str) -> None:
        calls_total.labels(function=self.name, outcome=outcome).inc()


class _Telling(suppress):
    """Whatever the server fails with behind a computation costs the cache an entry, and nobody a result."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(TailraceError, TimeoutError)
        self._engine = engine

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        swallowed = super().__exit__(kind, error, trace)
        if swallowed and isinstance(error, Exception):
            self._engine._went_away(error)
        return bool(swallowed)


async def _in_time(call: Awaitable[T]) -> T:
    async with asyncio.timeout(SERVER_SECONDS):
        return await call


@asynccontextmanager
async def _listening(session: Session, key: str) -> AsyncIterator[asyncio.Event]:
    """Set by each message of the entry's channel."""
    woken = _Woken()
    channels = session.server.channels
    await _in_time(channels.subscribe(key, woken))
    try:
        yield woken.event
    finally:
        channels.unsubscribe(key, woken)
