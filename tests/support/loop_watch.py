"""Tells when a callback of the event loop kept it from everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["watched_loop"]

_SCHEDSTAT = Path("/proc/thread-self/schedstat")


def _run_delay() -> float:
    """Seconds that this thread waited for a core so far; 0 where the system does not tell."""
    try:
        return int(_SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


@contextmanager
def watched_loop(limit_seconds: float) -> Iterator[list[str]]:
    """Within it, each callback of asyncio's own loop that holds it longer than the limit adds a line to the list.

    Time in which other processes had the cores does not count.
    """
    found: list[str] = []
    run: Callable[[Any], None] = asyncio.Handle._run
    delay = _run_delay()

    def timed(handle: asyncio.Handle) -> None:
        nonlocal delay
        begin = time.perf_counter()
        run(handle)
        took = time.perf_counter() - begin
        if took > limit_seconds:
            now = _run_delay()
            own, delay = took - (now - delay), now
            if own > limit_seconds:
                found.append(f"{handle!r} held the loop for {own:.2f} s")

    asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign,assignment]
