"""Held entries: what a worker has of a shared group, until it is settled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from processor.store.reacting import Delivery

__all__ = ["Held"]


class Held:
    """Changed in one event loop; `entries` may be asked for in any thread."""

    def __init__(self, partitions: int) -> None:
        self._of: list[dict[str, Delivery]] = [{} for _ in range(partitions)]
        self._dropped: set[tuple[int, str]] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._of))

    def add(self, delivery: Delivery) -> bool:
        """False: it is held already."""
        here, entry = self._of[delivery.partition], delivery.entry
        if entry in here or (self._dropped is not None and (delivery.partition, entry) in self._dropped):
            return False
        here[entry] = delivery
        return True

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """They are settled, or somebody else's."""
        for delivery in deliveries:
            self._of[delivery.partition].pop(delivery.entry, None)
        if self._dropped is not None:
            self._dropped.update((delivery.partition, delivery.entry) for delivery in deliveries)

    @contextmanager
    def listing(self) -> Iterator[None]:
        """While the server is asked for what is pending: what is settled before its answer is here is still in that answer, and
        must not be handled again."""
        self._dropped = set()
        try:
            yield
        finally:
            self._dropped = None

    def entries(self) -> Iterator[tuple[int, Sequence[str]]]:
        """By partition, where there are any."""
        for partition, here in enumerate(self._of):
            if entries := list(here):
                yield partition, entries

    def clear(self) -> None:
        for here in self._of:
            here.clear()
