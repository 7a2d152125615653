"""SIGINT and SIGTERM, told to whoever must end with the process, in whatever server this runs and without its help.

A mounted app's lifespan never runs, and where one runs its end comes after the server has waited for endless responses. So
the handlers that are found are chained: ours tell first, then theirs do what they did before.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

__all__ = ["on_stop", "watch_signals"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_told: dict[Callable[[int], None], None] = {}


class _Chained:
    """A handler in front of another one."""

    def __init__(self, found: object) -> None:
        self.found = found

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for tell in list(_told):
            tell(number)
        if callable(self.found):
            self.found(number, frame)
        elif self.found != signal.SIG_IGN:
            # nobody else would end the process: what the signal does by itself
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def on_stop(tell: Callable[[int], None]) -> Callable[[], None]:
    """Calls tell(signal number), in the main thread and between two of its instructions, when the process is to end.

    Returns what takes it back.
    """
    _told[tell] = None
    watch_signals()
    return lambda: _told.pop(tell, None)


def watch_signals() -> None:
    """Chains our handlers; again where a server has set its own since. Only the main thread can, and others need none: a
    server that runs in another thread is ended by whoever started it."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        found = signal.getsignal(number)
        if isinstance(found, _Chained) or found is None or found == signal.SIG_IGN:
            continue  # None: set by C code, which Python cannot call
        signal.signal(number, _Chained(found))
        signal.siginterrupt(number, False)  # as uvloop and asyncio set it for theirs
