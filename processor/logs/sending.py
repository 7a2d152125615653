"""What Handler and StructlogProcessor share: which records are not theirs, and how one is handed over."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from processor.core.errors import BadInput, TailraceError
from processor.core.names import check_run
from processor.logs import counts
from processor.logs.lines import Line
from processor.logs.outlet import outlet
from processor.logs.targets import Target, target_of

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Sending", "level_of"]

_OWN: Final = (
    "tailrace",
    "processor",
    "gateway",
    "redis",
    "hiredis",
)  # what sending logs would have to be sent as well
MAX_NESTED: Final = 4  # records while a record is made, as by a __repr__ or a signal handler
_nested = threading.local()


def level_of(level: int | str) -> int:
    """As logging has it. Raises BadInput."""
    number = logging.getLevelName(level.upper()) if isinstance(level, str) else level
    if not isinstance(number, int) or isinstance(number, bool):
        raise BadInput(
            f"level is {level!r}.", remedy='Give a level of logging, such as "INFO".', field="level", value=str(level)
        )
    return number


class Sending:
    """tail, run: where records from outside of tasks go; without run nowhere."""

    def __init__(self, tail: Tailrace | None, run: str | None) -> None:
        """Without tail it is that of the environment. Raises BadName."""
        self._run = check_run(run) if run is not None else None
        self._tail = tail

    def __call__(self, logger: str, make: Callable[[], Line]) -> None:
        """Hands a record over. make: called only if there is a run for it. Never waits."""
        if logger.partition(".")[0] in _OWN or sys.is_finalizing():
            return
        depth: int = getattr(_nested, "depth", 0)
        if depth >= MAX_NESTED:
            counts.add("nested", 1)
            return
        _nested.depth = depth + 1
        try:
            target = self._target()
            if target is not None:
                outlet().put(target, make())
        except TailraceError as error:  # settings that are wrong
            self._refused(error.code, error)
        finally:
            _nested.depth = depth

    def _target(self) -> Target | None:
        try:
            return target_of(self._tail_of(), self._run)
        except RuntimeError as error:  # at the interpreter's end no thread can be started
            self._refused("closed", error)
            return None

    def _refused(self, why: str, error: Exception) -> None:
        counts.add("refused", 1)
        outlet().tell_once(self._run or "", why, str(error))

    def _tail_of(self) -> Tailrace | None:
        if self._tail is None and self._run is not None:
            from processor.client.tailrace import Tailrace

            self._tail = Tailrace()
        return self._tail
