"""What this process holds: each work entry from its reading to the answer to its settlement.

The key is stream and entry ID, since two partitions give out the same ID within a millisecond. What stands here is never
begun a second time, however often it is read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from processor.store.scripts import Held

if TYPE_CHECKING:
    from processor.worker.execution import Execution

__all__ = ["Registry"]

_Key = tuple[int, str, str]  # partition, task, entry


class Registry:
    def __init__(self) -> None:
        self._held: dict[_Key, Execution] = {}
        self._of_run: dict[str, Execution] = {}

    def add(self, execution: Execution) -> bool:
        """False if this very entry is held already."""
        key = _key(execution)
        if key in self._held:
            return False
        self._held[key] = execution
        self._of_run[execution.taken.run] = execution
        return True

    def remove(self, execution: Execution) -> None:
        self._held.pop(_key(execution), None)
        if self._of_run.get(execution.taken.run) is execution:
            del self._of_run[execution.taken.run]

    def holds(self, partition: int, task: str, entry: str) -> bool:
        return (partition, task, entry) in self._held

    def of_run(self, run: str) -> Execution | None:
        return self._of_run.get(run)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Execution]:
        return iter(list(self._held.values()))

    def by_partition(self) -> Mapping[int, Mapping[str, list[Held]]]:
        """What is to be renewed, by partition and task. May be called from another thread."""
        found: dict[int, dict[str, list[Held]]] = {}
        for execution in list(self._held.values()):
            taken = execution.taken
            tasks = found.setdefault(execution.partition, {})
            tasks.setdefault(taken.task, []).append(Held(taken.run, taken.entry, execution.exec))
        return found


def _key(execution: Execution) -> _Key:
    return execution.partition, execution.taken.task, execution.taken.entry
