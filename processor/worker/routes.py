"""Routes: who in a group handles an event, by the bytes of its type, before anything is made of it.

Half of what a group reads is what its reactions wrote, and mostly for none of them: a look into a dict and it is set aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from processor.client.reaction import Group, Reaction
from processor.core.events import Event
from processor.core.routing import labels_of
from processor.worker.bindings import Bindings

__all__ = ["NOBODY", "Route", "Routes"]

MOST: Final = 1000  # types are the users' to invent


class Route(NamedTuple):
    """Of one type."""

    sure: Reaction | None  # handles it whatever its labels
    reactions: Sequence[Reaction] = ()  # those that its labels decide among, in their order
    is_bound: bool = False  # perhaps by another member


NOBODY: Final = Route(None)


class Routes:
    """Forgets what it knows when bindings change (`clear`)."""

    def __init__(self, group: Group, bindings: Bindings) -> None:
        self._group, self._bindings = group, bindings
        self.known: dict[bytes, Route] = {}

    def clear(self) -> None:
        self.known.clear()

    def of(self, payload: object) -> Route:
        """NOBODY also for what is no payload: somebody added it by hand."""
        if not isinstance(payload, bytes):
            return NOBODY
        end = payload.find(b'"', 8)
        if end < 0:
            return NOBODY
        type = payload[8:end]
        found = self.known.get(type)
        if found is None:
            if len(self.known) >= MOST:
                self.known.clear()
            found = self.known[type] = self._find(type.decode(errors="replace"))
        return found

    def _find(self, type: str) -> Route:
        reactions = [one for one in self._group.reactions if one.binding.takes(type)]
        is_bound = self._bindings.takes(type)
        if not reactions and not is_bound:
            return NOBODY
        sure = reactions[0] if reactions and not reactions[0].binding.where else None
        return Route(sure, reactions, is_bound)

    def reaction(self, route: Route, event: Event[Any]) -> Reaction | None:
        """None if this worker has none for it."""
        if route.sure is not None:
            return route.sure
        labels = labels_of(event)
        return next((one for one in route.reactions if one.binding.wants(labels)), None)

    def is_for_others(self, route: Route, event: Event[Any]) -> bool:
        """Whether another member has bound it: in a rolling deploy."""
        return route.is_bound and self._bindings.wants(event)
