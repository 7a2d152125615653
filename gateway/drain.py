"""Ctrl-C, SIGTERM and reload end open streams at once, in whatever server this runs, without its help.

Servers wait for endless responses; an ASGI lifespan of a mounted app never runs, and where it runs its end comes after that
wait. So the handlers that are found are chained: ours first ends the streams, then theirs does what it did before.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import structlog

from gateway.hub import drain_all

__all__ = ["watch_signals"]

log = structlog.get_logger("tailrace.drain")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Chained:
    """A handler in front of another one."""

    def __init__(self, found: object) -> None:
        self.found = found
        self.pid = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        drain_all()
        if callable(self.found):
            self.found(number, frame)
        elif self.found != signal.SIG_IGN:
            # nobody else would end the process: what the signal does by itself
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(signal.Signals(number))


def watch_signals() -> None:
    """Chains our handlers, once; again where a server has set its own since. Only the main thread can, others need none:
    a server that runs in another thread is ended by whoever started it."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        found = signal.getsignal(number)
        if isinstance(found, _Chained) or found is None or found == signal.SIG_IGN:
            continue  # None: set by C code, which Python cannot call
        signal.signal(number, _Chained(found))
        signal.siginterrupt(number, False)  # as uvloop and asyncio set it for theirs
