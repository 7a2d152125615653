"""SIGINT and SIGTERM, told to whoever must end with the process, in whatever server this runs and without its help.

A mounted app's lifespan never runs, and where one runs its end comes after the server has waited for endless responses. So
the handlers that are found are chained: ours tell first, then theirs do what they did before. Who is told may ask for time;
then theirs wait, since most of them end the process without asking anybody. A second signal waits for nobody.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

__all__ = ["Hold", "at_exit", "on_stop", "watch_signals"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_told: dict[Callable[[int], Hold | None], None] = {}
_held: dict[int, set[Hold]] = {}  # signals that wait, and what for


class Hold:
    """Time that somebody needs before the process ends. release() may be called from any thread, and more than once."""

    def release(self) -> None:
        for number, holds in list(_held.items()):
            if self in holds:
                holds.discard(self)
                if not holds:
                    os.kill(os.getpid(), number)  # its handler runs in the main thread, and waits no more


class _Chained:
    """A handler in front of another one."""

    def __init__(self, found: object) -> None:
        self.found = found

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _held.pop(number, None) is None:
            holds = {hold for tell in list(_told) if (hold := tell(number)) is not None}
            if holds and not _is_the_loops(self.found) and not getattr(self.found, "ends_in_order", False):
                _held[number] = holds
                return
        self._go_on(number, frame)

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self.found):
            self.found(number, frame)
        elif self.found != signal.SIG_IGN:
            # nobody else would end the process: what the signal does by itself
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def on_stop(tell: Callable[[int], Hold | None]) -> Callable[[], None]:
    """Calls tell(signal number), in the main thread and between two of its instructions, when the process is to end.

    The Hold that it returns keeps the process until it is released. Returns what takes it back.
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
        if isinstance(found, _Chained) or found is None:
            continue  # None: set by C code, which Python cannot call
        if found == signal.SIG_IGN and not _is_worker():
            continue  # as nohup does: it is not meant for this process
        signal.signal(number, _Chained(found))
        if _is_the_loops(found):  # which set it so themselves; elsewhere a wait for a lock would hear nothing
            signal.siginterrupt(number, False)


def _is_worker() -> bool:
    """Whether this is the child of a supervisor (hypercorn's) that lets its workers ignore SIGINT because it ends them itself."""
    process: Any = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def _is_the_loops(found: object) -> bool:
    """Whether it stands for loop.add_signal_handler (granian): then the loop hears of signals whatever is done here."""
    return getattr(found, "__name__", "") in ("_sighandler_noop", "_Loop__sighandler")  # asyncio's and uvloop's


def at_exit(function: Callable[[], None]) -> Callable[[], None]:
    """Calls it when the process ends without being killed, also where it is a worker and its end is not Python's own.

    Returns what takes it back.
    """
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        take_back: Callable[[], None] = util.Finalize(None, function, exitpriority=10).cancel
        return take_back
    atexit.register(function)
    return lambda: atexit.unregister(function)
