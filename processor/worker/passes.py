"""What each worker does from time to time, whatever the others do: the scripts' gates make it harmless."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from processor.client.session import PASS_SECONDS, Session
from processor.core.errors import ServerError
from processor.store.claims import Claims
from processor.store.connection import speaking_of
from processor.store.delayed import promote_all
from processor.store.executing import Taken

__all__ = ["Passes"]

log = structlog.get_logger("tailrace.passes")

PROMOTE_SECONDS: Final = 0.5  # how late a retry may be; a look that finds nothing is one round trip
STOP_SECONDS: Final = (
    2.0  # for what is under way at the end: a claim whose answer nobody hears waits for its idle time again
)

Step = Callable[[], Awaitable[object]]


class Passes:
    """Of one worker, whose session is open. Each step has a pace of its own, so that one which hangs keeps no other one waiting.

    No error of the server or of a step ends them. The first one of its kind is logged, and that it is over.
    """

    def __init__(
        self,
        session: Session,
        consumer: str,
        tasks: Sequence[str],
        take: Callable[[list[Taken]], None],
        *,
        free: Callable[[str], int],
        also: Mapping[str, Step] | None = None,
    ) -> None:
        """take: gets entries that were taken over. free: how many of a task it may get now; 0 while the worker drains.

        also: further steps, by the name they have in the log.
        """
        self._session = session
        settings = session.settings
        claims = Claims(session, consumer, idle_ms=int(settings.visibility_seconds * 1000))
        self._steps: dict[str, Step] = {
            "claim": lambda: claims.look(tasks, free, take),
            "expire": self._expire,
            "trim": self._trim,
            **(also or {}),
        }
        # Half a visibility timeout without a claim counts as a silence, after which nobody claims; so jitter has its room.
        self._seconds = min(PASS_SECONDS, settings.visibility_seconds / 4, settings.owner_seconds / 6)
        self._troubles: dict[str, str] = {}  # step → what it said last

    async def run(self, stop: asyncio.Event) -> None:
        """Until stop is set, then so long as a step is under way, STOP_SECONDS at most."""
        steps = {name: self._keep(name, step, self._seconds, stop) for name, step in self._steps.items()}
        steps["promote"] = self._keep("promote", self._promote, PROMOTE_SECONDS, stop)
        paces = [asyncio.create_task(pace, name=f"tailrace-{name}") for name, pace in steps.items()]
        try:
            await stop.wait()
            await asyncio.wait(paces, timeout=STOP_SECONDS)
        finally:
            for pace in paces:
                pace.cancel()
            await asyncio.gather(*paces, return_exceptions=True)

    async def _keep(self, name: str, step: Step, seconds: float, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._try(name, step)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds * (0.8 + 0.4 * random.random())):
                    await stop.wait()

    # Once each: a sandbox's time is virtual.

    async def promote_all(self) -> None:
        """Queues what is due in every partition."""
        await self._try("promote", self._promote)

    async def look_once(self) -> None:
        """Takes over what is idle, ends lost owners, cuts logs, and what else was asked for, one after the other."""
        for name, step in self._steps.items():
            await self._try(name, step)

    # Steps.

    async def _promote(self) -> None:
        await promote_all(self._session)

    async def _expire(self) -> None:
        for keys in self._session.keys.partitions:
            await self._session.expire(keys)

    async def _trim(self) -> None:
        for keys in self._session.keys.partitions:
            await self._session.scripts.trim(keys)

    # Their errors.

    async def _try(self, name: str, step: Step) -> None:
        """This is the worker's edge: what a step raises ends here."""
        try:
            with speaking_of(self._session.server.address.url):
                await step()
        except ServerError as error:
            if self._is_new(name, error.message):
                log.warning("pass_failed", step=name, error=error.message)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._is_new(name, repr(error)):
                log.exception("pass_failed", step=name)
        else:
            if self._troubles.pop(name, None) is not None:
                log.info("pass_recovered", step=name)

    def _is_new(self, name: str, trouble: str) -> bool:
        """Whether this step did not end like that the last time: it is logged once, however often it comes."""
        is_new = self._troubles.get(name) != trouble
        self._troubles[name] = trouble
        return is_new
