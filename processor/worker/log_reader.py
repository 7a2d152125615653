"""Log reader of a shared group in one worker: new entries, those whose answer was lost, and those that others left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import structlog

from processor.client.session import Session
from processor.core.errors import ServerError
from processor.observe import metrics
from processor.store.connection import speaking_of
from processor.store.line import Line
from processor.store.reacting import Claimed, Delivery, claim
from processor.store.resets import current
from processor.worker.bindings import Bindings
from processor.worker.held import Held

__all__ = ["BLOCK_SECONDS", "Entry", "LogReader"]

log = structlog.get_logger("tailrace.reactions")
BLOCK_SECONDS: Final = 0.5  # a stop waits as long
ANSWER_SECONDS: Final = 5.0  # behind the end of a block
CLAIMED_AT_ONCE: Final = 100

Entry = Sequence[Any]
"""As the server gives it: ID, and fields (names and values in turn; None for one that the log lost)."""


class LogReader:
    """Belongs to one event loop."""

    def __init__(self, session: Session, group: str, consumer: str, bindings: Bindings, held: Held) -> None:
        self._session, self._group, self._consumer = session, group, consumer
        self._bindings, self._held = bindings, held
        self._line = Line(session.server.address, "tailrace-react-read")
        self._names = {keys.log.encode(): number for number, keys in enumerate(session.keys.partitions)}
        self._looked = 0  # connections behind which own pending entries were looked for

    @property
    def is_unsure(self) -> bool:
        """Whether entries may be pending here that this process does not know of: an answer was lost with its connection, or
        another process had the consumer's name before this one."""
        return self._line.connections != self._looked

    def be_unsure(self) -> None:
        """Something that was read was let go without being settled."""
        self._looked = -1

    async def read(self, room: int, *, block: bool) -> list[tuple[int, Sequence[Entry]]]:
        """New entries, of each partition where there are any. Raises ServerError."""
        keys = self._session.keys.partitions
        command: list[str | int] = ["XREADGROUP", "GROUP", self._group, self._consumer]
        command += ("COUNT", max(1, room // len(keys)))
        if block:
            command += ("BLOCK", int(BLOCK_SECONDS * 1000))
        command += ("STREAMS", *(one.log for one in keys), *(">" for _ in keys))
        try:
            reply = await self._line.call(*command, seconds=BLOCK_SECONDS + ANSWER_SECONDS)
        except ServerError as error:
            if "NOGROUP" not in error.message and "UNBLOCKED" not in error.message:
                raise
            log.warning("group_was_lost", group=self._group)  # flushed, deleted, or gone with the server's last second
            await self._bindings.tell()
            return []
        return [(self._names[name], entries) for name, entries in reply or ()]

    async def own_pending(self) -> list[Delivery]:
        """What the server gave to this consumer and this process has not got. Raises ServerError."""
        self._looked, found = self._line.connections, []
        try:
            with self._held.listing():
                for partition in range(len(self._session.keys.partitions)):
                    found += await self._own_of(partition)
                return [one for one in found if self._held.add(one)]
        except BaseException:
            self.be_unsure()
            raise

    async def _own_of(self, partition: int) -> list[Delivery]:
        found: list[Delivery] = []
        after = "-"
        while after:
            page = await self._claim(partition, idle_ms=0, limit=CLAIMED_AT_ONCE, own=True, after=after)
            found += page.deliveries
            after = page.after
        return found

    async def current(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """The same, but retries that a reset dropped are for nobody. Raises ServerError."""
        with speaking_of(self._session.server.address.url):
            return await current(self._session, self._group, deliveries)

    async def take_over(self, partition: int, room: int) -> Sequence[Delivery] | None:
        """What nobody renews; from then on it is held here, and renewed. None if the group is not there. Raises ServerError."""
        idle_ms = int(self._session.settings.visibility_seconds * 1000)
        page = await self._claim(partition, idle_ms=idle_ms, limit=min(room, CLAIMED_AT_ONCE))
        if page.word == "nogroup":
            return None
        taken = [one for one in page.deliveries if self._held.add(one)]
        for one in taken:
            log.info("reaction_taken_over", group=self._group, run=one.run, id=one.id, tries=one.tries)
        return taken

    async def _claim(self, partition: int, *, idle_ms: int, limit: int, own: bool = False, after: str = "-") -> Claimed:
        with speaking_of(self._session.server.address.url):
            page = await claim(
                self._session,
                partition,
                self._group,
                self._consumer,
                idle_ms=idle_ms,
                limit=limit,
                own=own,
                after=after,
            )
        if page.lost:
            metrics.lost_entries_total.inc(page.lost)
            log.warning("log_entries_lost", group=self._group, entries=page.lost)  # cut while the group was behind
        return page

    def close(self) -> None:
        self._line.close()
