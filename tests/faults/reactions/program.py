"""The programs: a worker of some groups, and a producer that tells numbered facts into runs and journals what was accepted.

SIGTERM ends both in their own time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from processor.core.errors import BacklogFull, EventsLost, ServerFull
from processor.observe.logs import configure
from processor.worker.worker import Worker
from tailrace import Tailrace
from tests.faults.program import work_until_told
from tests.faults.reactions.handlers import tail_of
from tests.faults.reactions.oracle import FACT, Fact

__all__ = ["React", "Swarm", "Tell", "accepted_in", "react", "swarm", "tell"]

log = structlog.get_logger("faults")
PAUSE: Final = 0.05  # before a fact is told again that was refused


@dataclass(frozen=True, slots=True, kw_only=True)
class React:
    """What a worker shall do."""

    groups: tuple[str, ...]
    version: int = 1  # of the program
    consumer: str | None = None


def react(order: React) -> None:
    """Until SIGTERM."""
    configure("json")
    uvloop.run(_react(order))


async def _react(order: React) -> None:
    await work_until_told(Worker(tail_of(order.groups, version=order.version), consumer=order.consumer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """Light workers in one process, each with a client of its own; each second some leave and others join."""

    seed: str
    groups: tuple[str, ...]
    workers: int


def swarm(order: Swarm) -> None:
    """Until SIGTERM."""
    configure("json")
    uvloop.run(_swarm(order))


async def _swarm(order: Swarm) -> None:
    rng, stop = random.Random(order.seed), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    workers: dict[Worker, asyncio.Task[None]] = {}

    def join() -> None:
        worker = Worker(tail_of(order.groups))
        workers[worker] = asyncio.create_task(_work_light(worker))

    async def leave(leaving: Sequence[Worker]) -> None:
        for worker in leaving:
            worker.stop()
        await asyncio.gather(*(workers.pop(worker) for worker in leaving))

    for _ in range(order.workers):
        join()
    log.info("swarm_begins", workers=len(workers))
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
        opened = [worker for worker in workers if hasattr(worker, "reacting")]
        await leave(rng.sample(opened, min(len(opened), rng.randint(1, order.workers // 2))))
        while len(workers) < order.workers and not stop.is_set():
            join()
    while workers:
        await leave([worker for worker in workers if hasattr(worker, "reacting")])
        await asyncio.sleep(PAUSE)
    log.info("swarm_ended")


async def _work_light(worker: Worker) -> None:
    try:
        await worker.run()
    finally:
        await worker.tail.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """What a producer shall do: so many facts in each run, or until it is told to end."""

    name: str
    seed: str
    journal: str
    type: str = FACT
    runs: int = 8
    count: int = 0  # facts of a run; 0: until SIGTERM
    pause: float = 0.05  # seconds between two facts of a run, on average
    data: Mapping[str, Any] = field(default_factory=dict)  # of each fact, besides its number
    counts: bool = (
        True  # whether what was accepted has to stay; else it may be lost in a flood, and is applied once at most
    )
    special: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # of the facts with these numbers

    def run(self, number: int) -> str:
        """From 0."""
        return f"{self.name}-{number}"


def accepted_in(order: Tell) -> list[Fact]:
    path = Path(order.journal)
    return [Fact(*json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def tell(order: Tell) -> None:
    configure("json")
    asyncio.run(_Teller(order).work())


class _Teller:
    def __init__(self, order: Tell) -> None:
        self.order = order
        self.tail = Tailrace()
        self.rng = random.Random(order.seed)
        self.journal = open(order.journal, "a", buffering=1)  # noqa: SIM115 - as long as the process
        self.stop = asyncio.Event()

    async def work(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop.set)
        with self.journal:
            await asyncio.gather(*(self.tell(self.order.run(number)) for number in range(self.order.runs)))
        await self.tail.close()

    async def tell(self, run: str) -> None:
        number = 0
        while not self.stop.is_set() and not (self.order.count and number >= self.order.count):
            number += 1
            await self.tell_one(run, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), self.rng.uniform(0, 2 * self.order.pause))

    async def tell_one(self, run: str, number: int) -> None:
        """Until it is accepted. One that is not heard of is sent again by the client, under its number."""
        data = {**self.order.data, **self.order.special.get(number, {}), "n": number}
        sent = self.tail.run(run).emit(self.order.type, data)
        while True:
            try:
                await sent
            except BacklogFull as error:
                if self.stop.is_set():
                    return
                log.info("fact_refused", run=run, n=number, group=error.group)
                await asyncio.sleep(PAUSE)
                sent = self.tail.run(run).emit(self.order.type, data)
            except ServerFull:  # it stays in the buffer, and is waited for again
                await asyncio.sleep(PAUSE)
            except EventsLost as error:
                if self.order.counts:
                    raise
                log.info("facts_lost", run=run, first=error.first, last=error.last)
                return
            else:
                self.journal.write(json.dumps([run, number]) + "\n")
                return
