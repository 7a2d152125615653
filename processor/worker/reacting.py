"""The groups whose reactions a worker runs: each reads the log by itself, beside the worker's main step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from processor.client.reaction import Group
from processor.client.renewal import Call
from processor.store.groups import Mode, read_cuts
from processor.worker.ordering import OrderedGroup
from processor.worker.shared_group import SharedGroup

if TYPE_CHECKING:
    from processor.worker.worker import Worker

__all__ = ["GroupReader", "Reacting"]

log = structlog.get_logger("tailrace.reactions")
AGAIN_SECONDS: Final = 1.0  # behind an error that nobody foresaw


class GroupReader(Protocol):
    """One group in this process."""

    group: Group

    @property
    def held(self) -> int:
        """Entries in hands."""

    @property
    def running(self) -> int:
        """Calls that run."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held, and the last look found nothing."""

    @property
    def due_seconds(self) -> float | None:
        """Until something that waits in this process goes on; None if nothing does."""

    async def open(self) -> None:
        """Binds. Raises ServerError, BadInput for a group that is known in another mode."""

    async def run(self) -> None:
        """Until its worker stops."""

    async def step(self) -> bool:
        """Reads what is there and hands it out. Whether there was nothing. Raises ServerError."""

    def sweep(self) -> None:
        """Time limits."""

    def renewals(self) -> Iterator[Call]:
        """For the renewing thread."""

    async def look(self) -> None:
        """A pass. Raises ServerError."""

    async def drain(self, seconds: float) -> bool:
        """Calls may finish, the rest is given to others. Whether all is settled."""

    async def close(self) -> None: ...

    async def crash(self) -> None:
        """As if its process had been killed."""


KINDS: Final[Mapping[Mode, Callable[[Worker, Group, Callable[[], None]], GroupReader]]] = {
    "shared": SharedGroup,
    "ordered": OrderedGroup,
}


class Reacting:
    """All groups of one worker, whose session is open."""

    def __init__(self, worker: Worker, changed: Callable[[], None]) -> None:
        self._readers = [KINDS[group.mode](worker, group, changed) for group in worker.groups.values()]
        self._session, self._stopping = worker.session, worker.stopping
        self._loops: list[asyncio.Task[None]] = []
        self._cuts: dict[tuple[str, int], str] = {}  # that were told

    @property
    def held(self) -> int:
        return sum(reader.held for reader in self._readers)

    @property
    def running(self) -> int:
        return sum(reader.running for reader in self._readers)

    @property
    def is_idle(self) -> bool:
        return all(reader.is_idle for reader in self._readers)

    @property
    def due_seconds(self) -> float | None:
        """Until the next of what waits in this process goes on; None if nothing does."""
        return min((due for reader in self._readers if (due := reader.due_seconds) is not None), default=None)

    async def open(self) -> None:
        """Binds each group before any of them reads. Raises ServerError, BadInput."""
        for reader in self._readers:
            await reader.open()

    def start(self) -> None:
        """Begins to read."""
        create = asyncio.get_running_loop().create_task
        self._loops = [
            create(self._keep(reader), name=f"tailrace-group-{reader.group.name}") for reader in self._readers
        ]

    async def _keep(self, reader: GroupReader) -> None:
        """A reader that stopped on a fault of ours would hold its entries and leases for ever, since they are renewed beside it."""
        told = ""
        while not self._stopping.is_set():
            try:
                await reader.run()
            except Exception as error:
                if told != repr(error):
                    log.exception("group_broke_off", group=reader.group.name)
                told = repr(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_SECONDS):
                        await self._stopping.wait()

    async def step(self) -> bool:
        """Instead of start(), where somebody else moves the time. Whether there was nothing, in any group."""
        return all([await reader.step() for reader in self._readers])

    def sweep(self) -> None:
        for reader in self._readers:
            reader.sweep()

    def renewals(self) -> Iterator[Call]:
        for reader in self._readers:
            yield from reader.renewals()

    async def look(self) -> None:
        for reader in self._readers:
            await reader.look()
        if self._readers:
            await self._tell_cuts()

    async def _tell_cuts(self) -> None:
        """A group that was behind a full log has missed events for good."""
        cuts = await read_cuts(self._session, [reader.group.name for reader in self._readers])
        for (group, partition), first in cuts.items():
            if self._cuts.get((group, partition)) != first:
                log.warning("group_was_cut", group=group, partition=partition, first=first)
        self._cuts = cuts

    async def drain(self, seconds: float) -> None:
        """The worker stops: nothing is read any more."""
        await asyncio.gather(*self._loops, return_exceptions=True)
        settled = await asyncio.gather(*(reader.drain(seconds) for reader in self._readers))
        for reader, is_settled in zip(self._readers, settled, strict=True):
            if not is_settled:
                log.warning("group_left_unsettled", group=reader.group.name, held=reader.held, running=reader.running)

    async def close(self) -> None:
        for reader in self._readers:
            await reader.close()

    async def crash(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for reader in self._readers:
            await reader.crash()
