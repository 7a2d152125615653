"""The lag exporter: one process tells Prometheus how much work each task and each group has, for alerts and for scaling."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from processor.client.session import Session
from processor.core.errors import ServerError
from processor.observe import metrics
from processor.store.backlog import Backlog, known_tasks, read_backlogs, tasks_with_work
from processor.store.connection import speaking_of
from processor.store.standings import Standing, read_groups
from processor.store.stopping import pause_or_stop

__all__ = ["LagExporter"]

log = structlog.get_logger("tailrace.lag")

EXPORT_SECONDS: Final = 5.0  # scrapes are 15 s apart or more
DISCOVER_EVERY: Final = 60  # exports: tasks that no worker knows are found by a walk through all keys
_GAUGES: Final = (
    metrics.tasks_waiting,
    metrics.tasks_pending,
    metrics.tasks_delayed,
    metrics.tasks_oldest_seconds,
    metrics.groups_lag,
    metrics.groups_pending,
    metrics.groups_delayed,
    metrics.groups_oldest_seconds,
    metrics.groups_members,
    metrics.groups_dead,
)


class LagExporter:
    """The duty of one process. Others export nothing: Prometheus would add them up."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._discovered: set[str] = set()
        self._exports = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until stop is set; then, or when it is cancelled, the figures go. A server that is away is waited for."""
        try:
            while not stop.is_set():
                try:
                    await self.export()
                except ServerError as error:
                    self._clear()  # an old figure would look like a quiet queue
                    log.warning("lag_unknown", error=error.message)
                await pause_or_stop(stop, EXPORT_SECONDS)
        finally:
            self._clear()

    async def export(self) -> None:
        """Sets the figures once. Raises ServerError."""
        session = self._session
        with speaking_of(session.server.address.url):
            if self._exports % DISCOVER_EVERY == 0:
                self._discovered = await tasks_with_work(session)
            self._exports += 1
            backlogs = await read_backlogs(session, sorted(await known_tasks(session) | self._discovered))
            groups = await read_groups(session)
        self._clear()
        for backlog in backlogs:
            _tell_task(backlog)
        for standing in groups.all:
            _tell_group(standing)

    def _clear(self) -> None:
        for gauge in _GAUGES:
            gauge.clear()


def _tell_task(backlog: Backlog) -> None:
    metrics.tasks_waiting.labels(backlog.task).set(backlog.waiting)
    metrics.tasks_pending.labels(backlog.task).set(backlog.pending)
    metrics.tasks_delayed.labels(backlog.task).set(backlog.delayed)
    metrics.tasks_oldest_seconds.labels(backlog.task).set(backlog.oldest_ms / 1000)


def _tell_group(standing: Standing) -> None:
    name = standing.group.name
    metrics.groups_lag.labels(name).set(standing.lag)
    metrics.groups_pending.labels(name).set(standing.pending)
    metrics.groups_delayed.labels(name).set(standing.delayed)
    metrics.groups_oldest_seconds.labels(name).set(standing.oldest_ms / 1000)
    metrics.groups_members.labels(name).set(len(standing.members))
    metrics.groups_dead.labels(name).set(standing.dead)
