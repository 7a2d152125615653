"""Holding: what a worker has of a shared group stays its own, and how often it was begun is known to whoever has it next."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import structlog

from processor.client.renewal import Call
from processor.client.session import Session
from processor.store.line import Line
from processor.store.reacting import Delivery, hold_command
from processor.worker.held import Held

__all__ = ["Holding"]

log = structlog.get_logger("tailrace.reactions")


class Holding:
    """Speaks for one consumer (hold.lua)."""

    def __init__(self, session: Session, line: Line, group: str, consumer: str, held: Held) -> None:
        self._session, self._line, self._group, self._consumer, self._held = session, line, group, consumer, held
        self._script = session.scripts.named("hold")

    def renewals(self) -> Iterator[Call]:
        """Called in the renewing thread."""
        for partition, entries in self._held.entries():
            key = self._session.keys.partitions[partition].log
            command = hold_command(self._script, key, self._group, self._consumer, entries)
            yield Call(command, functools.partial(self._renewed, partition), self._script)

    def _renewed(self, partition: int, lost: Sequence[str]) -> None:
        """Settled meanwhile, most likely; what was taken over is refused when it is settled."""
        if lost:
            log.debug("entries_not_held", group=self._group, partition=partition, entries=len(lost))

    async def begin(self, delivery: Delivery) -> bool:
        """Notes that an entry which was lost with the process that had it begins once more: the one that kills its processes is
        known by its count, and what only waits beside it is not. False: it is somebody else's by now. Raises ServerError."""
        key = self._session.keys.partitions[delivery.partition].log
        command = hold_command(self._script, key, self._group, self._consumer, [delivery.entry], delivery.lost + 1)
        return not await self._line.script(self._script, *command)
