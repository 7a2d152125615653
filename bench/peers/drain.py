"""What every peer's program shares: its arguments, the clock around the no-ops, and the one line that it prints.

The clock goes from the first line of the first no-op to the last line of the last one. What a peer does before and after (its
start, the acknowledgement of the last few) does not count against it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version

import uvloop

__all__ = ["Drain", "main", "settled"]


class Drain:
    """Counts the no-ops of one round."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.done = asyncio.Event()
        self.seconds = self.cpu_seconds = 0.0
        self._left = tasks

    def begin(self) -> None:
        """The first line of the first."""
        if not self.seconds:
            self.seconds, self.cpu_seconds = time.perf_counter(), time.process_time()

    def count(self, done: int = 1) -> None:
        """The body of the no-op, or of one that had so many at once."""
        self.begin()
        self._left -= done
        if self._left == 0:
            self.seconds = time.perf_counter() - self.seconds
            self.cpu_seconds = time.process_time() - self.cpu_seconds
            self.done.set()


Round = Callable[[argparse.Namespace, Drain], Awaitable[None]]


def main(package: str, concurrency: int, round: Round, *, flags: Sequence[str] = ()) -> None:
    """round: enqueues `options.tasks` no-ops by `options.url`, then runs a worker; it may run for ever.

    concurrency: what was found to be fastest, unless the command line says another. flags: what it may be told besides.
    """
    parser = argparse.ArgumentParser(description=f"No-ops by {package}: prints seconds and CPU of the drain as JSON.")
    parser.add_argument("--url", required=True, help="redis://127.0.0.1:PORT/0")
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--concurrency", type=int, default=concurrency)
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_timed(package, options, round))


async def _timed(package: str, options: argparse.Namespace, round: Round) -> None:
    """Ends the process: how a worker is asked to stop differs most, and is nobody's figure."""
    drain = Drain(options.tasks)
    worker: asyncio.Future[object] = asyncio.ensure_future(round(options, drain))
    done = asyncio.ensure_future(drain.done.wait())
    await asyncio.wait([worker, done], return_when=asyncio.FIRST_COMPLETED)
    if not done.done():
        await worker
        raise RuntimeError(f"the worker ended before its {options.tasks} no-ops were done")
    told = {"peer": package, "version": version(package), "concurrency": options.concurrency, "tasks": options.tasks}
    print(json.dumps({**told, "seconds": drain.seconds, "cpu_seconds": drain.cpu_seconds}), flush=True)
    os._exit(0)


def settled() -> None:
    """Between enqueueing and draining: what the producer left behind is no part of the worker's collections."""
    gc.collect()
    gc.freeze()
