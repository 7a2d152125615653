"""A sandbox for tests: a fresh server behind `tail`, a worker, and time that passes when the test says so."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from processor.client.tailrace import Tailrace
from processor.store.connection import execute
from processor.store.dead import DeadLetter, Wanted, letters
from processor.store.embedded import EmbeddedServer
from processor.store.space import ms_of
from processor.testing.fake import Clock, running_fake

if TYPE_CHECKING:
    from processor.client.task import Task
    from processor.worker.worker import Worker

__all__ = ["Sandbox", "sandbox"]

LOOKS: Final = 16  # between two of them passes an eighth of a visibility timeout, so that they count as a worker's


class Sandbox:
    """The server behind `tail` and a worker of its tasks while the block runs. The worker works when it is told to."""

    def __init__(self, tail: Tailrace, url: str, clock: Clock | None) -> None:
        self._tail, self._clock = tail, clock
        self.url = url
        self._worker: Worker | None = None

    async def drain(self) -> None:
        """Does everything that can be done now: entries of inlets are taken, what is queued runs, and what that starts. Returns
        when nothing is left but what waits for an answer or for time to pass."""
        worker = await self._working()
        await self._take_in()
        await worker.work_until_idle()

    async def advance(self, seconds: float) -> None:
        """Lets time pass at once: retries, delayed starts and schedules happen when they are due, one after the other.

        Raises RuntimeError with server=True.
        """
        if self._clock is None:
            raise RuntimeError("time is real with server=True; use sandbox(tail) to advance it")
        if seconds < 0:
            raise ValueError(f"seconds is {seconds}; time does not go back")
        worker = await self._working()
        end = await self._now() + int(seconds * 1000)
        while True:
            now = await self._now()
            due = min(await self._next_due(), end)
            self._clock.ahead += max(0, due - now) / 1000
            await self._fire()
            await worker.work_until_idle()
            if due >= end:
                break
        session = await self._tail.session()
        for partition in session.keys.partitions:
            await session.expire(partition)

    async def crash(self) -> None:
        """Kills the worker in the midst of what it does, and lets so much time pass that the next one takes its entries over.

        To crash it while a task runs, drain in the background. Raises RuntimeError with server=True.
        """
        if self._clock is None:
            raise RuntimeError("time is real with server=True; use sandbox(tail) to crash its worker")
        worker, self._worker = await self._working(), None
        await worker.crash()
        successor = await self._working()
        for _ in range(LOOKS):
            self._clock.ahead += self._tail.settings.visibility_seconds / 8
            await successor.look_once()

    async def dead(self, task: Task[..., Any] | str) -> Sequence[DeadLetter]:
        """Dead letters, newest first, of the task; of the task or group of that name where it is a string."""
        wanted = Wanted(task=task, group=task) if isinstance(task, str) else Wanted(task=task.name)
        return [letter async for letter in letters(await self._tail.session(), wanted)]

    async def _working(self) -> Worker:
        """The worker, which knows every task that there is by now."""
        from processor.worker.scheduler import register_all
        from processor.worker.worker import Worker, tasks_of

        if self._worker is not None and self._worker.tasks != tasks_of(self._tail):
            await self.close()
        if self._worker is None:
            self._worker = Worker(self._tail)
            await self._worker.open(alone=True)
            await register_all(await self._tail.session(), self._worker.tasks.values())
        return self._worker

    async def _take_in(self) -> None:
        from processor.worker.inlets import Taking

        for inlet in self._tail.inlets.values():
            await Taking(inlet, await self._tail.session()).take_now()

    async def _now(self) -> int:
        return ms_of(await execute((await self._tail.session()).redis, "TIME"))

    async def _next_due(self) -> int:
        """When something is due next, in ms; what was due is so by now."""
        from processor.store.schedules import list_schedules

        session = await self._tail.session()
        times = [record.next for record in (await list_schedules(session))[1] if record.next is not None]
        for keys in session.keys.partitions:
            first = await execute(session.redis, "ZRANGE", keys.delayed, 0, 0, "WITHSCORES")
            if first:
                score = first[0][1] if isinstance(first[0], (list, tuple)) else first[1]
                times.append(int(float(score)))
        waits = self._worker.reacting.due_seconds if self._worker is not None else None
        if waits is not None:
            times.append(await self._now() + int(waits * 1000) + 1)
        return min(times, default=1 << 60)

    async def _fire(self) -> None:
        from processor.worker.scheduler import Scheduler

        await Scheduler(self._tail).look_once()

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()


@asynccontextmanager
async def sandbox(tail: Tailrace, *, server: bool = False) -> AsyncIterator[Sandbox]:
    """Points `tail` to a fresh fakeredis server with virtual time; server=True: to an embedded Valkey, where time is real.

    Runs of start_here that are still going at the end of the block end as failed, reason shutdown.
    """
    with _fresh_server(server) as (url, clock):
        before = tail._url, tail._settings
        await tail.close()
        tail._url, tail._settings = url, None
        box = Sandbox(tail, url, clock)
        try:
            yield box
        finally:
            await box.close()
            await tail.close()
            tail._url, tail._settings = before


@contextmanager
def _fresh_server(real: bool) -> Iterator[tuple[str, Clock | None]]:
    if real:
        with tempfile.TemporaryDirectory(prefix="tailrace-") as folder, EmbeddedServer(folder, aof="off") as embedded:
            yield embedded.url, None
    else:
        with running_fake() as fake:
            yield fake.url, fake.clock
