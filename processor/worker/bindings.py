"""Bindings of a group in one worker: told when it begins and each minute, and what all members bind together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from processor.client.reaction import Group
from processor.client.session import Session
from processor.core.events import Event
from processor.core.routing import labels_of
from processor.store.connection import speaking_of
from processor.store.groups import Bound, bind

__all__ = ["Bindings"]

TELL_SECONDS: Final = 60.0  # what it binds is kept alive


class Bindings:
    """Belongs to one event loop."""

    def __init__(self, session: Session, group: Group, changed: Callable[[], None]) -> None:
        """changed: called whenever it was told."""
        self._session, self._group, self._changed = session, group, changed
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self.bound = Bound("", ())

    @property
    def version(self) -> str:
        return self.bound.version

    async def tell(self) -> None:
        """Raises ServerError, BadInput for a group that is known in another mode."""
        with speaking_of(self._session.server.address.url):
            self.bound = await bind(self._session, self._group.declared)
        self._due = self._loop.time() + TELL_SECONDS
        self._changed()

    async def tell_if_due(self) -> None:
        """Raises as tell."""
        if self._loop.time() >= self._due:
            await self.tell()

    def takes(self, type: str) -> bool:
        """Whether any member has bound the type, whatever the labels."""
        return any(binding.takes(type) for binding in self.bound.bindings)

    def wants(self, event: Event[Any]) -> bool:
        """Whether any member handles it."""
        type, labels = event.type, labels_of(event)
        return any(one.takes(type) and one.wants(labels) for one in self.bound.bindings)
