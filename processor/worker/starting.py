"""Starting: before any user code runs, start.lua must have said go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.session import Session
from processor.core.errors import ServerError
from processor.store.executing import Begun, Taken, start_command
from processor.store.line import Line, failed_in_script
from processor.worker.execution import Execution
from processor.worker.registry import Registry

if TYPE_CHECKING:
    from processor.client.task import Task

__all__ = ["Starting"]

log = structlog.get_logger("tailrace.worker")
IN_FLIGHT: Final = 2  # batches: while one is answered the next one is read
MAX_ENTRIES: Final = 200  # of a call
RETRY_SECONDS: Final = 0.2


class Starting:
    """One call a partition and batch. A call whose answer was lost is sent again with the same nonces."""

    def __init__(
        self,
        line: Line,
        session: Session,
        consumer: str,
        registry: Registry,
        tasks: Mapping[str, Task[..., Any]],
        look_again: Callable[[], None],
        stopping: asyncio.Event,
    ) -> None:
        """look_again: an entry is not what it was when it was taken. stopping: then only done() waits."""
        self._line, self._session, self._consumer = line, session, consumer
        self._registry, self._tasks, self._look_again = registry, tasks, look_again
        self._script = session.scripts.named("start")
        self._batches: set[asyncio.Task[None]] = set()
        self._stopping = stopping
        self._stopped: asyncio.Task[Any] | None = None
        self._given_up = False

    async def begin(self, executions: Sequence[Execution]) -> None:
        """Returns while the last two batches may still be under way."""
        if not executions:
            return
        batch = asyncio.get_running_loop().create_task(self._begin(executions), name="tailrace-start")
        self._batches.add(batch)
        batch.add_done_callback(self._batches.discard)
        while len(self._batches) >= IN_FLIGHT and not self._stopping.is_set():
            await self._one_is_done()

    async def answered(self) -> None:
        """Waits for all batches, until it is to stop."""
        while self._batches and not self._stopping.is_set():
            await self._one_is_done()

    async def _one_is_done(self) -> None:
        """Or it is to stop: a server that is away must not keep its worker from draining."""
        if self._stopped is None:
            self._stopped = asyncio.get_running_loop().create_task(self._stopping.wait())
        await asyncio.wait([*self._batches, self._stopped], return_when=asyncio.FIRST_COMPLETED)

    async def done(self) -> None:
        """Waits for all batches."""
        while self._batches:
            await asyncio.wait(self._batches)

    def give_up(self) -> None:
        """The process ends: what is not answered is begun by whoever claims it."""
        self._given_up = True

    async def _begin(self, executions: Sequence[Execution]) -> None:
        calls = list(_calls(executions))
        if len(calls) == 1:
            await self._begin_in(*calls[0])
        else:
            await asyncio.gather(*(self._begin_in(partition, part) for partition, part in calls))

    async def _begin_in(self, partition: int, executions: list[Execution]) -> None:
        executions.sort(key=_place)
        answers = await self._answers(partition, executions)
        if answers is None:
            middle = len(executions) // 2
            await self._begin_in(partition, executions[:middle])
            await self._begin_in(partition, executions[middle:])
            return
        for execution, answer in zip(executions, answers, strict=True):
            if answer.word == "go":
                execution.begin(answer)
                continue
            if answer.word == "gone":
                self._look_again()
            else:
                log.info("not_begun", run=execution.taken.run, task=execution.taken.task, why=answer.word)
            execution.forget()

    async def _answers(self, partition: int, executions: Sequence[Execution]) -> list[Begun] | None:
        """None for executions that cannot be started together."""
        command = self._command(partition, executions)
        told = False
        while True:
            try:
                return [Begun.parse(answer) for answer in await self._line.script(self._script, *command)]
            except ServerError as error:
                if self._given_up:
                    return [Begun("given_up")] * len(executions)
                if failed_in_script(error):
                    if len(executions) > 1:
                        return None
                    log.error("start_failed", run=executions[0].taken.run, message=error.message)
                    return [Begun("failed")]
                if not told:
                    log.warning("start_waits", error=error.code, message=error.message, entries=len(executions))
                told = True
                await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))

    def _command(self, partition: int, executions: Sequence[Execution]) -> tuple[bytes | str | int, ...]:
        tasks: dict[str, tuple[int, list[tuple[Taken, str]]]] = {}
        for execution in executions:
            name = execution.taken.task
            group = tasks.setdefault(name, (self._tasks[name].retry.attempts, []))
            group[1].append((execution.taken, execution.nonce))
        keys = self._session.keys.partitions[partition]
        return start_command(self._script, self._session.limits, keys, self._consumer, len(self._registry), tasks)


def _calls(executions: Sequence[Execution]) -> Iterator[tuple[int, list[Execution]]]:
    """By partition, and in parts that the server is not held by, nor a script's stack passed."""
    groups: dict[int, list[Execution]] = {}
    for execution in executions:
        groups.setdefault(execution.partition, []).append(execution)
    for partition, group in groups.items():
        for at in range(0, len(group), MAX_ENTRIES):
            yield partition, group[at : at + MAX_ENTRIES]


def _place(execution: Execution) -> tuple[str, int, int]:
    """Entries of a task together, in the order of their IDs."""
    ms, _, n = execution.taken.entry.partition("-")
    return execution.taken.task, int(ms), int(n)
