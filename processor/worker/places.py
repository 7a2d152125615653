"""Places: how many executions this process has at once, in all and of each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["Places"]


class Places:
    """An execution takes a place from the reading of its entry to its last line, except while it waits for something else."""

    def __init__(self, total: int, of_task: Mapping[str, int], on_free: Callable[[], None]) -> None:
        self._total = total
        self._of_task = dict(of_task)
        self._on_free = on_free
        self.free_in_all = total
        self.moves = 0  # how often an execution began, waited, went on or ended

    def take(self, task: str) -> None:
        """Also beyond the limit: what waited goes on at once."""
        self.moves += 1
        self.free_in_all -= 1
        self._of_task[task] -= 1

    def leave(self, task: str) -> None:
        self.moves += 1
        self.free_in_all += 1
        self._of_task[task] += 1
        self._on_free()

    def free(self, task: str) -> int:
        """How many more executions of the task may begin now."""
        return max(0, min(self.free_in_all, self._of_task[task]))

    @property
    def any_free(self) -> bool:
        """Whether an execution of any task may begin now."""
        return any(self.free(task) for task in self._of_task)

    @property
    def taken(self) -> int:
        return self._total - self.free_in_all
