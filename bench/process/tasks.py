"""The tasks that the benches start, and how they start many."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.client.task import Task

__all__ = ["CONCURRENCY", "Tasks", "start_many"]

CONCURRENCY: Final = 400  # executions at once, two reads of them: while one is begun and settled the other is read
AT_ONCE: Final = 500  # starts in flight


class Tasks:
    """The tasks that the benches start."""

    def __init__(self, tail: Tailrace, concurrency: int = CONCURRENCY) -> None:
        self.latencies_us: list[float] = []

        @tail.task(concurrency=concurrency)
        async def nothing(run: Run[Any]) -> None:
            pass

        @tail.task(concurrency=concurrency)
        async def first_line(run: Run[Any], started_ns: int) -> None:
            """started_ns: CLOCK_MONOTONIC of the producer, which is the machine's."""
            self.latencies_us.append((time.perf_counter_ns() - started_ns) / 1000)

        @tail.task(concurrency=concurrency)
        async def held(run: Run[Any], seconds: float) -> None:
            await asyncio.sleep(seconds)

        self.nothing, self.first_line, self.held = nothing, first_line, held


async def start_many(task: Task[..., Any], count: int, *arguments: Any) -> list[str]:
    """Runs that the server has accepted."""
    runs: list[str] = []
    for first in range(0, count, AT_ONCE):
        started = await asyncio.gather(*(task.start(*arguments) for _ in range(min(AT_ONCE, count - first))))
        runs += [run.id for run in started]
    return runs
