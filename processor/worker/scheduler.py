"""The scheduler: starts runs of tasks when their schedules say so.

However many do this at once, each due time has one run: its ID is `<schedule>~<due>`, and a second start of it changes nothing.
What is due is decided by the server's clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from processor.client.queueing import Options, put_queued
from processor.client.run import Run
from processor.client.session import Session
from processor.core.errors import BacklogFull, BadInput, RunError, ServerError
from processor.core.schedule import Schedule, due_name, plan
from processor.core.ulid import ulid
from processor.store.connection import speaking_of
from processor.store.schedules import SEEN_MS, Registered, advance, list_schedules, register
from processor.store.stopping import pause_or_stop

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["INPUT", "Scheduled", "Scheduler", "fire", "keep_registered", "register_all"]

log = structlog.get_logger("tailrace.scheduler")

LOOK_MS: Final = 1_000  # how soon a schedule that is new, or resumed, is seen
SHORTEST_SECONDS: Final = 0.005
GRACE_MS: Final = 60_000  # an election takes some ten seconds: what it delays is not missed
RETRY_SECONDS: Final = 2.0
INPUT: Final = b"{}"  # a scheduled run's: its task's parameters have defaults


class Scheduled(Protocol):
    """A task, as far as schedules are concerned."""

    @property
    def name(self) -> str: ...

    @property
    def cron(self) -> Schedule | None: ...


class Scheduler:
    """The duty of one process."""

    def __init__(self, tail: Tailrace, *, grace_ms: int = GRACE_MS) -> None:
        """grace_ms: how late a run may start and not count as missed."""
        self._tail = tail
        self._grace_ms = grace_ms
        self._told: set[Registered] = set()  # records that could not be used, told once

    async def run(self, stop: asyncio.Event) -> None:
        """Until stop is set. A server that is away is waited for."""
        trouble = ""
        while not stop.is_set():
            try:
                seconds = await self.look_once()
                trouble = ""
            except ServerError as error:
                if error.message != trouble:
                    log.warning("schedules_wait", error=error.message)
                trouble, seconds = error.message, RETRY_SECONDS
            await pause_or_stop(stop, seconds)

    async def look_once(self) -> float:
        """Starts what is due now. Returns the seconds until something is, a second at most. Raises ServerError."""
        session = await self._tail.session()
        with speaking_of(session.server.address.url):
            now, records = await list_schedules(session)
            soonest = now + LOOK_MS
            for record in records:
                if record.state(now) == "on":
                    soonest = min(soonest, await self._look(session, record, now))
                elif record.state(now) == "unreadable":
                    self._tell_unreadable(record)
        return max(SHORTEST_SECONDS, (soonest - now) / 1000)

    async def _look(self, session: Session, record: Registered, now: int) -> int:
        """Starts what is due of one schedule; what comes next is written only when that was accepted. Returns when to look again."""
        assert record.next is not None, "it is on"
        planned = plan(record.schedule, record.next, now, grace_ms=self._grace_ms)
        started: int | None = None
        for due in planned.due:
            if not await self._start(record, due):
                await advance(session, record, next=due, last=started)
                return now + LOOK_MS
            started = due
        if planned.next != record.next:
            await advance(session, record, next=planned.next, last=started)
        return planned.next if planned.next is not None else now + LOOK_MS

    async def _start(self, record: Registered, due: int) -> bool:
        """Whether it is dealt with: started, now or before by somebody else. False: the task's backlog is full."""
        try:
            await fire(self._tail, record, due_name(due))
        except BacklogFull as error:
            log.warning("schedule_waits", schedule=record.name, due=due_name(due), error=error.message)
            return False
        except (RunError, BadInput) as error:  # somebody uses its IDs for runs of another task, or its name for no run
            log.error("schedule_not_started", schedule=record.name, due=due_name(due), error=str(error))
        return True

    def _tell_unreadable(self, record: Registered) -> None:
        if record not in self._told:
            self._told.add(record)
            log.error("schedule_unreadable", schedule=record.name, cron=record.cron, timezone=record.timezone)


async def fire(tail: Tailrace, record: Registered, due: str | None = None) -> Run[object]:
    """A run of a schedule's task: for a due time, or an extra one.

    Raises RunExists if another task has a run of that ID, BacklogFull, ServerError.
    """
    name = due if due is not None else f"fired-{ulid()}"
    run: Run[object] = Run(tail, f"{record.name}~{name}")
    await tail.session()
    is_new = await put_queued(run, record.task, INPUT, Options(labels={"schedule": record.name}))
    if is_new:
        log.info("schedule_started", schedule=record.name, run=run.id)
    return run


async def register_all(session: Session, tasks: Iterable[Scheduled], *, first: bool = True) -> None:
    """Writes the schedules of these tasks into the registry. first: at a worker's start. Raises ServerError."""
    with speaking_of(session.server.address.url):
        for task in tasks:
            if task.cron is not None:
                await register(session, task.name, task.name, task.cron, first=first)


async def keep_registered(session: Session, tasks: Iterable[Scheduled], stop: asyncio.Event) -> None:
    """Registers them, and tells every minute that they are still there, until stop is set."""
    scheduled = [task for task in tasks if task.cron is not None]
    first = True
    while scheduled and not stop.is_set():
        seconds = SEEN_MS / 1000 * (0.8 + 0.4 * random.random())
        try:
            await register_all(session, scheduled, first=first)
            first = False
        except ServerError as error:
            log.warning("schedules_not_registered", error=error.message)
            seconds = RETRY_SECONDS
        await pause_or_stop(stop, seconds)
