"""Sending settlements: what one turn of the event loop put is one call a partition, sent again until it is answered."""

from __future__ import annotations

import asyncio
import functools
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

import structlog

from processor.core.errors import ServerError
from processor.store.line import Line, failed_in_script
from processor.store.scripts import Script

__all__ = ["MAX_BYTES", "MAX_UNITS", "Command", "Sending", "as_many", "until_answered"]

log = structlog.get_logger("tailrace.settle")
MAX_UNITS: Final = 200
MAX_BYTES: Final = 1 << 20
IN_FLIGHT: Final = 2  # calls a partition: while one is answered the next is executed
RETRY_SECONDS: Final = 0.2

T = TypeVar("T")
Command = tuple[bytes | str | int, ...]


async def until_answered(line: Line, script: Script, command: Callable[[], Command], *, units: int) -> Any:
    """The script's answer, however often it takes. command: made anew for each try. units: in it, for the log.

    Raises ServerError only where the script stopped on what it found: it will again.
    """
    told = False
    while True:
        try:
            return await line.script(script, *command())
        except ServerError as error:
            if failed_in_script(error):
                raise
            if not told:
                log.warning("settle_waits", error=error.code, message=error.message, units=units)
            told = True
            await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))


def as_many(queue: deque[T], size: Callable[[T], int], most: int = MAX_UNITS) -> list[T]:
    """Takes from a queue what one call may hold."""
    taken: list[T] = []
    total = 0
    while queue and len(taken) < most and (not taken or total + size(queue[0]) <= MAX_BYTES):
        one = queue.popleft()
        taken.append(one)
        total += size(one)
    return taken


class Sending(ABC, Generic[T]):
    """Belongs to one event loop. T: what is put, and is answered by `_send`."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[T]] = {}
        self._senders: dict[int, set[asyncio.Task[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._scheduled = self._is_closed = False
        self.unsettled = 0  # what has no answer
        self._all_settled = asyncio.Event()
        self._all_settled.set()

    @abstractmethod
    async def _send(self, partition: int, of_call: Sequence[T]) -> None:
        """One call, until it is answered; what was answered is told of, and counted by `_answered`."""

    @staticmethod
    @abstractmethod
    def _size(one: T) -> int:
        """Bytes of a call, about."""

    def _put(self, partition: int, one: T) -> None:
        """Nothing is sent once it is closed."""
        if self._is_closed:
            return
        self.unsettled += 1
        self._queue(partition, one)

    def _queue(self, partition: int, one: T) -> None:
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = deque()
        queue.append(one)
        if not self._scheduled:
            self._scheduled = True
            self._all_settled.clear()
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        for partition, queue in self._queues.items():
            if queue:
                self._fill(partition)

    def _fill(self, partition: int) -> None:
        queue, senders = self._queues[partition], self._senders.setdefault(partition, set())
        while queue and len(senders) < IN_FLIGHT:
            sender = self._loop.create_task(self._send(partition, as_many(queue, self._size)), name="tailrace-settle")
            senders.add(sender)
            sender.add_done_callback(functools.partial(self._sent, partition))

    def _sent(self, partition: int, sender: asyncio.Task[None]) -> None:
        self._senders[partition].discard(sender)
        self._fill(partition)

    def _answered(self, count: int) -> None:
        self.unsettled -= count
        if not self.unsettled:
            self._all_settled.set()

    async def close(self, *, seconds: float = 0) -> None:
        """Waits so long for answers. Whatever has none by then is settled by whoever claims its entry."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_settled.wait()
        self._is_closed = True
        tasks = [sender for senders in self._senders.values() for sender in senders]
        for queue in self._queues.values():
            queue.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
