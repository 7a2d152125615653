"""Singletons: duties that one process of a namespace has at a time, elected by RedLock.

An election is no proof: a process that was frozen has its duty still when it wakes, until it looks at the clock. So what a duty
does must be harmless when two do it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Literal

import structlog

from processor.client.session import Session
from processor.store.redlock import MAX_EXTENSIONS, TTL_MS, Held, LockServer, RedLock, lock_servers
from processor.store.stopping import pause_or_stop

__all__ = ["Duty", "Singletons"]

log = structlog.get_logger("tailrace.singletons")

Duty = Callable[[asyncio.Event], Coroutine[Any, Any, None]]  # until the event is set; cancelled when the lock is lost
Ending = Literal["stopped", "lost", "handed_over", "ended", "failed"]

RENEWAL_SHARE: Final = 0.3  # of the TTL: there is time for more tries when one fails,
RETRY_SHARE: Final = 0.1  # so soon after each other
STOP_SECONDS: Final = 1.0  # for a duty to end by itself when the process stops
REST_SECONDS: Final = 2.0  # about so long a process that had a duty leaves it to others


class Singletons:
    """Of one process: it stands for each of the duties, and does those that it is elected for. run() once."""

    def __init__(
        self,
        session: Session,
        duties: Mapping[str, Duty],
        *,
        ttl_ms: int = TTL_MS,
        max_extensions: int = MAX_EXTENSIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """duties: by the name of their lock. clock: seconds that only go forward; an argument for tests."""
        self.duties = dict(duties)
        self.held: set[str] = set()  # duties that this process has now
        self._session = session
        self._ttl_ms, self._max_extensions, self._clock = ttl_ms, max_extensions, clock

    async def run(self, stop: asyncio.Event) -> None:
        """Until stop is set; then what it holds is given back, so that another process is elected at once."""
        servers = self._servers()
        try:
            async with asyncio.TaskGroup() as group:
                for name, duty in self.duties.items():
                    lock = self._lock(servers, name)
                    group.create_task(self._stand(name, duty, lock, stop), name=f"tailrace-{name}")
        finally:
            await asyncio.gather(*(server.close() for server in servers))

    def _lock(self, servers: Sequence[LockServer], name: str) -> RedLock:
        key = self._session.keys.lock(name)
        return RedLock(servers, key, clock=self._clock, max_extensions=self._max_extensions)

    def _servers(self) -> Sequence[LockServer]:
        session = self._session
        own = session.settings.lock_urls
        urls = own or (session.server.address.url,)
        shebang = bool(own) or session.server.shebang
        return lock_servers(urls, session.limits, ttl_ms=self._ttl_ms, shebang=shebang)

    async def _stand(self, name: str, duty: Duty, lock: RedLock, stop: asyncio.Event) -> None:
        """Waits to be elected, does the duty, rests; again and again."""
        while True:
            held = await lock.wait(stop)
            if held is None:
                return
            log.info("singleton_elected", duty=name)
            self.held.add(name)
            try:
                ending = await self._serve(name, duty, lock, held, stop)
            finally:
                self.held.discard(name)
                await lock.release(held)  # its token stays the same when it is extended
            (log.warning if ending in ("lost", "failed") else log.info)("singleton_over", duty=name, why=ending)
            await pause_or_stop(stop, REST_SECONDS * (0.5 + random.random()))

    async def _serve(self, name: str, duty: Duty, lock: RedLock, held: Held, stop: asyncio.Event) -> Ending:
        doing = asyncio.create_task(duty(stop))
        stopping = asyncio.create_task(stop.wait())
        try:
            ending = await self._watch(doing, stopping, lock, held)
            if ending == "stopped":
                await asyncio.wait([doing], timeout=STOP_SECONDS)
        finally:
            stopping.cancel()
            doing.cancel()
            await asyncio.gather(doing, stopping, return_exceptions=True)
        return "failed" if self._has_failed(name, doing) else ending

    async def _watch(
        self, doing: asyncio.Future[Any], stopping: asyncio.Future[Any], lock: RedLock, held: Held
    ) -> Ending:
        """Extends the lock until the duty ends, the process stops, or it is lost."""
        share = RENEWAL_SHARE
        while True:
            seconds = min(lock.ttl_seconds * share, lock.seconds_left(held))
            await asyncio.wait([doing, stopping], timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                return "stopped"
            if doing.done():
                return "ended"
            if not lock.may_extend(held):
                return "handed_over"
            longer = await self._extend(lock, held)
            if longer is None or lock.seconds_left(longer) <= 0:
                return "lost"
            held, share = longer, RETRY_SHARE if longer is held else RENEWAL_SHARE

    async def _extend(self, lock: RedLock, held: Held) -> Held | None:
        """No longer than it is valid, whatever the servers do."""
        try:
            async with asyncio.timeout(max(lock.seconds_left(held), 0)):
                return await lock.extend(held)
        except TimeoutError:
            return held

    def _has_failed(self, name: str, doing: asyncio.Future[Any]) -> bool:
        """This is the duties' edge: what one raises ends here."""
        error = None if doing.cancelled() else doing.exception()
        if error is not None:
            log.error("singleton_failed", duty=name, exc_info=error)
        return error is not None
