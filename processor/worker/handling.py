"""Handling: the lanes of an ordered group's reactions, and for which partition each call runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

from processor.client.reaction import Reaction
from processor.worker.lanes import Call, Ended, Lanes
from processor.worker.owned import Owned

__all__ = ["Handling"]


class Handling:
    """Belongs to one event loop."""

    def __init__(self, reactions: Iterable[Reaction], max_event_bytes: int, over: Callable[[Owned], None]) -> None:
        """over: a call of the partition ended, and it was told."""
        self._over = over
        self._lanes = {id(one): Lanes(one, max_event_bytes, functools.partial(self._ended, one)) for one in reactions}
        self._owners: dict[int, Owned] = {}  # by the ID of the call

    @property
    def running(self) -> int:
        return sum(lanes.running for lanes in self._lanes.values())

    def put(self, owned: Owned, reaction: Reaction, call: Call) -> None:
        self._owners[id(call)] = owned
        self._lanes[id(reaction)].put(call)

    def _ended(self, reaction: Reaction, call: Call, ended: Ended) -> None:
        owned = self._owners.pop(id(call))
        owned.over(reaction, call, ended)
        self._over(owned)

    def stop(self, calls: Sequence[Call]) -> Sequence[Call]:
        """Cancels those that run. Returns those that never began: nobody is told of their end."""
        ids = {id(call) for call in calls}
        unbegun = []
        for lanes in self._lanes.values():
            for call in lanes.take_back():
                if id(call) in ids:
                    del self._owners[id(call)]
                    unbegun.append(call)
                else:
                    lanes.put(call)
            lanes.stop("drop", calls)
        return unbegun

    def sweep(self) -> None:
        """Time limits."""
        for lanes in self._lanes.values():
            lanes.sweep()

    async def close(self) -> None:
        """Nothing is said of what still runs."""
        for lanes in self._lanes.values():
            await lanes.close()
