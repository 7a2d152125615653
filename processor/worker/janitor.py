"""The janitor: what nobody misses is taken away. What of runs has expired is `expire`'s, which every worker's passes call."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from processor.client.session import Session
from processor.core.errors import ServerError
from processor.store.backlog import known_tasks, tasks_with_work
from processor.store.claims import forget_consumers
from processor.store.connection import speaking_of
from processor.store.members import forget_members, recorded_groups
from processor.store.stopping import pause_or_stop
from processor.store.workers import forget_gone

__all__ = ["Janitor"]

log = structlog.get_logger("tailrace.janitor")

LOOK_SECONDS: Final = 600.0  # what it takes away is an hour or a day old
FIRST_SECONDS: Final = 30.0  # elected again and again, it does not begin each time with a walk through all keys
CALLER: Final = "janitor"  # no worker's name: those have host, process and six more characters


class Janitor:
    """The duty of one process."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def run(self, stop: asyncio.Event) -> None:
        """Until stop is set. A server that is away is waited for."""
        seconds = FIRST_SECONDS
        while True:
            await pause_or_stop(stop, seconds * (0.8 + 0.4 * random.random()))
            if stop.is_set():
                return
            seconds = LOOK_SECONDS
            try:
                await self.look_once()
            except ServerError as error:
                log.warning("janitor_waits", error=error.message)
                seconds = FIRST_SECONDS

    async def look_once(self) -> None:
        """Workers that went a day ago leave the registry; consumers that were silent for an hour with nothing pending leave
        their tasks and groups, those too that no worker has any more. Raises ServerError."""
        session = self._session
        idle_ms = int(session.settings.visibility_seconds * 1000)
        with speaking_of(session.server.address.url):
            workers = await forget_gone(session)
            consumers = 0
            for task in sorted(await known_tasks(session) | await tasks_with_work(session)):
                for keys in session.keys.partitions:
                    consumers += len(await forget_consumers(session, keys, task, CALLER, idle_ms=idle_ms))
            for group in await recorded_groups(session):
                for keys in session.keys.partitions:
                    consumers += len(await forget_members(session, keys, group))
        if workers or consumers:
            log.info("janitor_tidied", workers=workers, consumers=consumers)
