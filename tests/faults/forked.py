"""Processes of these tests: real ones, forked from one that has imported everything, so that 16 of them start at once.

Each has its own log (what it prints and logs), its own environment, and dies with the test.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from tests.support.until import until

__all__ = ["Forked"]

_PRELOADED: Final = ("tests.faults.workers.program", "tests.faults.reactions.program")
_PR_SET_PDEATHSIG: Final = 1
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(_PRELOADED))


def _live(function: Callable[..., None], argument: Any, env: Mapping[str, str], log: str) -> None:
    """The first code of the process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    into = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(into, 1)
    os.dup2(into, 2)
    os.environ.update(env)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    try:
        function(argument)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Forked:
    """One process. Start it in a thread: the first one of a test session waits for the imports."""

    def __init__(
        self, name: str, function: Callable[[Any], None], argument: Any, *, folder: Path, env: Mapping[str, str]
    ) -> None:
        """function: of a module, it is found again by its name. argument: can be pickled."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._before = self.log.stat().st_size if self.log.exists() else 0  # of earlier processes of the name
        self._process: ForkServerProcess = _context.Process(
            target=_live, args=(function, argument, dict(env), str(self.log)), name=name, daemon=True
        )

    def start(self) -> None:
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None, f"{self.name} was not started"
        return pid

    @property
    def code(self) -> int | None:
        """Its exit code, negative: the signal; None while it lives."""
        return self._process.exitcode

    @property
    def said(self) -> str:
        """All that it wrote so far."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._before :].decode(errors="replace")

    def send(self, sig: signal.Signals) -> None:
        if self.code is None:
            os.kill(self.pid, sig)

    async def says(self, text: str, deadline: float = 20) -> None:
        """Waits until it does; fails at once if it ended without."""
        await until(lambda: text in self.said or self.code is not None, f"{self.name} says {text!r}", deadline)
        assert text in self.said, f"{self.name} ended ({self.code}) without {text!r}: {self.said[-3000:]}"

    async def ended(self, deadline: float = 20) -> int:
        await until(lambda: self.code is not None, f"{self.name} ({self.pid}) ended", deadline)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        if self._process.pid is not None:
            self._process.kill()
            self._process.join(10)
