"""Runs of which a member of an ordered group has events in hands, and what their partition asks of the group."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from processor.client.reaction import Group, Reaction
from processor.core.events import Event
from processor.store.reacting import Delivery
from processor.worker.lanes import Call

if TYPE_CHECKING:
    from processor.worker.owned import Owned

__all__ = ["Crew", "Entry", "RunInHand", "Standing"]

Standing = Literal["ready", "busy", "waits", "held"]
"""busy: its next event runs or is being settled. waits: for its time. held: for a member that has the handler."""


class Entry:
    __slots__ = ("delivery", "event", "is_suspect")

    def __init__(self, delivery: Delivery, event: Event[Any], *, is_suspect: bool) -> None:
        self.delivery, self.event, self.is_suspect = delivery, event, is_suspect


class RunInHand:
    """Its events in hands, in their order."""

    __slots__ = ("due", "entries", "id", "one_by_one", "standing")

    def __init__(self, id: str) -> None:
        self.id = id
        self.entries: deque[Entry] = deque()
        self.standing: Standing = "ready"
        self.due = 0.0
        self.one_by_one = 0  # so many of its next events go alone: a batch of them failed

    def forget(self, count: int) -> None:
        """Its first ones are settled."""
        for _ in range(count):
            self.entries.popleft()


class Crew(Protocol):
    """What a partition asks of its group."""

    group: Group

    @property
    def patience(self) -> float:
        """How long a suspect keeps others waiting (s)."""

    def now(self) -> float:
        """By which retries are due (s)."""

    def reaction_of(self, event: Event[Any]) -> Reaction | None:
        """Which reaction of this process handles it."""

    def is_bound(self, event: Event[Any]) -> bool:
        """Whether any member handles it."""

    def put(self, owned: Owned, reaction: Reaction, call: Call) -> None:
        """Runs it; `Owned.over` is told of its end."""

    def stop(self, calls: Sequence[Call]) -> Sequence[Call]:
        """Cancels those that run. Returns those that never began: `over` is not told of them."""

    def broken(self, owned: Owned, word: str) -> None:
        """fenced, hole."""

    async def note(self, owned: Owned, entry: str, tries: int) -> bool:
        """Whether the lease is still had. Raises ServerError."""

    async def is_stopped(self, owned: Owned, run: str) -> bool:
        """As the server has it. Raises ServerError."""

    def wake(self) -> None:
        """Something changed."""
