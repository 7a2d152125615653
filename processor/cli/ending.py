"""SIGINT and SIGTERM of a command that has something to finish first."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from processor.cli.exits import DONE, INTERRUPTED

__all__ = ["ENDING", "Ending", "ending"]

ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """`by`: the signal that came first, 0 for none."""

    ends_in_order = True  # for processor.client.signals: who is told need not be held back until others have ended

    def __init__(self, tell: Callable[[int], object], patience: int | None) -> None:
        self.by = 0
        self._tell, self._patience = tell, patience

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.by = self.by or number
        if self._patience == 0:
            # what the signal does by itself, also to a process whose loop is held by somebody's code
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._patience is not None:
            self._patience -= 1
        self._tell(number)

    @property
    def code(self) -> int:
        """The exit code of a command that ended in order."""
        return INTERRUPTED if self.by == signal.SIGINT else DONE


@contextmanager
def ending(tell: Callable[[int], object], *, patience: int | None = 1) -> Iterator[Ending]:
    """Calls tell(signal number) in the main thread, between two of its instructions; after `patience` calls the next signal
    ends the process at once. None: no signal does. For one that is kept: its keeper kills it when that is meant, and a
    service manager that signals all processes of a service makes two signals of one."""
    one = Ending(tell, patience)
    before = {number: signal.signal(number, one) for number in ENDING}
    try:
        yield one
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
