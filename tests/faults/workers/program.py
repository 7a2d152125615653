"""The programs: a worker whose consumer may be named, and a producer that journals what it was told.

The producer starts runs in bursts and writes the ID of each that the server accepted into its journal, before anything
else happens. SIGTERM ends both in their own time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from processor.core.errors import BacklogFull, ServerError
from processor.observe.logs import configure
from processor.worker.worker import Worker, tasks_of
from tests.faults.program import work_until_told
from tests.faults.workers.tasks import tail

__all__ = ["Produce", "Work", "accepted_in", "produce", "work"]

log = structlog.get_logger("faults")
PAUSE: Final = 0.05  # before a start is tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker is given besides its settings."""

    concurrency: int = 20
    consumer: str | None = None


def work(order: Work) -> None:
    """Until SIGTERM."""
    configure("json")
    uvloop.run(_work(order))


async def _work(order: Work) -> None:
    await work_until_told(Worker(tail, concurrency=order.concurrency, consumer=order.consumer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Produce:
    """What a producer shall do: start `count` runs, or go on until it is told to end."""

    name: str
    seed: str
    journal: str
    task: str = "work"
    input: Mapping[str, Any] = field(default_factory=dict)
    count: int = 0  # 0: until SIGTERM
    burst: int = 12  # runs at once, at most
    pause: float = 0.05  # seconds between two bursts, on average


def accepted_in(order: Produce) -> list[str]:
    path = Path(order.journal)
    return [json.loads(line)["run"] for line in path.read_text().splitlines()] if path.exists() else []


def produce(order: Produce) -> None:
    configure("json")
    asyncio.run(_Producer(order).work())


class _Producer:
    def __init__(self, order: Produce) -> None:
        self.order = order
        self.rng = random.Random(order.seed)
        self.journal = open(order.journal, "a", buffering=1)  # noqa: SIM115 - as long as the process
        self.stop = asyncio.Event()
        self.number = 0

    async def work(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop.set)
        with self.journal:
            while not self.stop.is_set() and not (self.order.count and self.number >= self.order.count):
                await asyncio.gather(*(self.start() for _ in range(self._burst())))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), self.rng.uniform(0, 2 * self.order.pause))
        await tail.close()

    def _burst(self) -> int:
        burst = self.rng.randint(1, self.order.burst)
        return min(burst, self.order.count - self.number) if self.order.count else burst

    async def start(self) -> None:
        """Until it is accepted: the same ID and input is the same run, however often it is sent."""
        self.number += 1
        run = f"{self.order.name}-{self.number}"
        task = tasks_of(tail)[self.order.task].options(id=run)
        while True:
            try:
                await task.start(**self.order.input)
            except BacklogFull:
                await asyncio.sleep(PAUSE)
            except ServerError as error:
                log.info("start_refused", run=run, error=str(error))
                await asyncio.sleep(PAUSE)
            else:
                self.journal.write(json.dumps({"run": run}) + "\n")
                return
