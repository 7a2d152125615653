"""Thread: a conversation. Its runs come one after the other, at most one is active."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from processor.client.run import Run
from processor.core.names import check_name
from processor.store.connection import speaking_of
from processor.store.runs import RunState, read_active, read_latest, read_state

if TYPE_CHECKING:
    from processor.client.sync import SyncThread
    from processor.client.tailrace import Tailrace

__all__ = ["Thread"]


class Thread:
    """A handle; making it does no I/O."""

    def __init__(self, tail: Tailrace, id: str) -> None:
        self.id = check_name(id, "thread")
        self._tail = tail

    def __repr__(self) -> str:
        return f"<Thread {self.id}>"

    @property
    def sync(self) -> SyncThread:
        """The same, blocking."""
        from processor.client.sync import SyncThread

        return SyncThread(self, self._tail.portal)

    async def active(self) -> Run[Any] | None:
        """The run in progress."""
        session = await self._tail.session()
        with speaking_of(session.server.address.url):
            run = await read_active(session, self.id)
        return Run(self._tail, run) if run is not None else None

    async def runs(self) -> AsyncIterator[RunState]:
        """All runs of the thread that have not expired, newest first."""
        session = await self._tail.session()
        with speaking_of(session.server.address.url):
            run = await read_latest(session, self.id)
        while run is not None:
            with speaking_of(session.server.address.url):
                state = await read_state(session, run)
            if state is None:
                return
            yield state
            run = state.prev
