"""The worker of a bench in a process of its own, seen from the bench."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["Hired", "hired", "hired_worker"]

STOP_SECONDS: Final = 30.0


class Hired:
    """It waits until `begin`; `end` and `wait` return what it told at its end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def check(self) -> None:
        """Raises RuntimeError if it has ended."""
        if (code := self._process.poll()) is not None:
            raise RuntimeError(f"the worker ended with {code}")

    def begin(self) -> None:
        self._say("go")

    def end(self) -> dict[str, Any]:
        """Asks it to stop. Raises as wait."""
        self._say("stop")
        return self.wait()

    def wait(self) -> dict[str, Any]:
        """Of a burst: until nothing is left. Raises RuntimeError if it ended otherwise."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self._process.wait(STOP_SECONDS)}")
        told: dict[str, Any] = json.loads(line)
        self._process.wait(STOP_SECONDS)
        return told

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()


@contextmanager
def hired_worker(
    url: str,
    task: str,
    *,
    burst: bool = False,
    concurrency: int | None = None,
    settings: Mapping[str, object] | None = None,
) -> Iterator[Hired]:
    """Ready to begin. What is still running at the end of the block is killed."""
    command: Sequence[str] = (
        *("bench.process.working", url, "--tasks", task),
        *(["--burst"] if burst else []),
        *(["--concurrency", str(concurrency)] if concurrency else []),
        *("--settings", json.dumps(settings or {})),
    )
    with hired(command) as worker:
        yield worker


@contextmanager
def hired(command: Sequence[str]) -> Iterator[Hired]:
    """A module and its arguments; it says `ready`. What is still running at the end of the block is killed."""
    command = (sys.executable, "-m", *command)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the worker did not start: it ended with {process.wait(STOP_SECONDS)}")
        yield Hired(process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
