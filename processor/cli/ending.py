"""SIGINT and SIGTERM of a command that has something to finish first."""

from __future__ import annotations

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
        if self._patience is not None:
            self._patience -= 1
            if self._patience <= 0:
                # By itself the next one ends the process at once, also where C code holds the main thread
                # and no handler of Python's would be called.
                for one in ENDING:
                    signal.signal(one, signal.SIG_DFL)
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
