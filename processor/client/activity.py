"""Activity: how many branches of one execution do something. While all of them wait, it takes no place among others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from processor.client.run import Run

__all__ = ["Activity"]


class Activity:
    """It begins with one branch. One that ends hands its part over to whoever joins it."""

    __slots__ = ("_away", "_branches", "_run")

    def __init__(self, run: Run[Any]) -> None:
        self._run = run
        self._branches = 1
        self._away: AbstractContextManager[None] | None = None

    def more(self, branches: int = 1) -> None:
        self._branches += branches
        if self._branches > 0:
            self.end()

    def less(self, branches: int = 1) -> None:
        self._branches -= branches
        if self._branches <= 0 and self._away is None:
            self._away = self._run._elsewhere()
            self._away.__enter__()

    def end(self) -> None:
        """The execution takes its place again, if it had left it."""
        away, self._away = self._away, None
        if away is not None:
            away.__exit__(None, None, None)

    @contextmanager
    def waiting(self, child: str = "") -> Iterator[None]:
        """One branch waits while the block does. child: the run that it waits for."""
        awaited = {child} if child else set()
        self._run._awaited |= awaited
        self.less()
        try:
            yield
        finally:
            self.more()
            self._run._awaited -= awaited
