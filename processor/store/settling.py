"""Settling: what executions have to say at their end goes out in as few calls as possible, and again until it is answered."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from processor.core.chain import Chain
from processor.core.errors import ServerError
from processor.core.keys import Keyspace
from processor.store.executing import Output, Settled
from processor.store.line import Line, failed_in_script
from processor.store.scripts import Script

__all__ = ["Settling"]

log = structlog.get_logger("tailrace.settle")
MAX_UNITS: Final = 200
MAX_BYTES: Final = 1 << 20
IN_FLIGHT: Final = 2  # calls a partition: while one is answered the next is executed
RETRY_SECONDS: Final = 0.2
REFILL_LOOK_SECONDS: Final = 0.1  # while live events that the server lost come again
REFILL_SECONDS: Final = 10.0  # then nobody has them any more


class _Unit(Protocol):
    """What is settled in one step: an execution's end, a reaction."""

    @property
    def run(self) -> str: ...
    @property
    def outputs(self) -> Sequence[Output]: ...
    @property
    def live(self) -> int: ...
    @property
    def size(self) -> int: ...


U = TypeVar("U", bound=_Unit)
Command = tuple[bytes | str | int, ...]


@dataclass(slots=True)
class _Waiting(Generic[U]):
    unit: U
    tell: Callable[[Settled], None]
    chain: Chain | None
    patient_until: float


class Settling(Generic[U]):
    """One turn of the event loop is one call a partition. A unit sent again is answered `done`."""

    def __init__(
        self,
        line: Line,
        script: Script,
        command: Callable[[int, Sequence[U]], Command],
        keyspace: Callable[[], Keyspace],
        relay: Callable[[int], None],
    ) -> None:
        """command: the script's call for units of a partition. relay: told of a partition whose outbox got something."""
        self._line, self._script, self._command = line, script, command
        self._keyspace, self._relay = keyspace, relay
        self._queues: dict[int, deque[_Waiting[U]]] = {}
        self._senders: dict[int, set[asyncio.Task[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self.unsettled = 0  # units without an answer
        self._all_settled = asyncio.Event()
        self._all_settled.set()

    def put(self, partition: int, unit: U, tell: Callable[[Settled], None], chain: Chain | None = None) -> None:
        """tell: called once, with the server's answer. chain: of live events, behind which the unit is settled: what the
        server has lost of them comes again first."""
        if chain is not None:
            unit = _behind(unit, chain.stored)
        self.unsettled += 1
        self._all_settled.clear()
        self._queue(partition, _Waiting(unit, tell, chain, self._loop.time() + REFILL_SECONDS))

    def _queue(self, partition: int, waiting: _Waiting[U]) -> None:
        self._queues.setdefault(partition, deque()).append(waiting)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        for partition, queue in self._queues.items():
            if queue:
                self._fill(partition)

    def _fill(self, partition: int) -> None:
        queue, senders = self._queues[partition], self._senders.setdefault(partition, set())
        while queue and len(senders) < IN_FLIGHT:
            sender = self._loop.create_task(self._send(partition, self._next(queue)), name="tailrace-settle")
            senders.add(sender)
            sender.add_done_callback(lambda sender: self._sent(partition, sender))

    def _sent(self, partition: int, sender: asyncio.Task[None]) -> None:
        self._senders[partition].discard(sender)
        self._fill(partition)

    def _next(self, queue: deque[_Waiting[U]]) -> list[_Waiting[U]]:
        taken: list[_Waiting[U]] = []
        size = 0
        while queue and len(taken) < MAX_UNITS and (not taken or size + queue[0].unit.size <= MAX_BYTES):
            taken.append(queue.popleft())
            size += taken[-1].unit.size
        return taken

    async def _send(self, partition: int, waiting: Sequence[_Waiting[U]]) -> None:
        units = [one.unit for one in waiting]
        answers = await self._until_answered(partition, units)
        if answers is None:
            middle = len(waiting) // 2
            await self._send(partition, waiting[:middle])
            await self._send(partition, waiting[middle:])
            return
        keyspace = self._keyspace()
        if any(keyspace.number(out.run) != partition for unit in units for out in unit.outputs):
            self._relay(partition)
        for one, answer in zip(waiting, answers, strict=True):
            if answer.word == "behind":
                self._loop.call_later(REFILL_LOOK_SECONDS, self._queue, partition, self._refilled(one))
                continue
            self.unsettled -= 1
            try:
                one.tell(answer)
            except Exception:
                log.exception("settled_untold", run=one.unit.run)
        if not self.unsettled:
            self._all_settled.set()

    def _refilled(self, one: _Waiting[U]) -> _Waiting[U]:
        """The unit to send again: what nobody has any more keeps no run from its end."""
        if one.chain is not None and one.chain.may_refill(one.unit.live) and self._loop.time() < one.patient_until:
            return one
        log.error("live_events_lost", run=one.unit.run)
        return replace(one, unit=_behind(one.unit, 0))

    async def _until_answered(self, partition: int, units: Sequence[U]) -> list[Settled] | None:
        """None for units that cannot be settled together."""
        told = False
        while True:
            try:
                answers = await self._line.script(self._script, *self._command(partition, units))
            except ServerError as error:
                if failed_in_script(error):
                    return [Settled("failed", error.message)] if len(units) == 1 else None
                if not told:
                    log.warning("settle_waits", error=error.code, message=error.message, units=len(units))
                told = True
                await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))
            else:
                return [Settled.parse(answer) for answer in answers]

    async def close(self, *, seconds: float = 0) -> None:
        """Waits so long for answers. Whatever has none by then is settled by whoever claims its entry."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_settled.wait()
        tasks = [sender for senders in self._senders.values() for sender in senders]
        for queue in self._queues.values():
            queue.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _behind(unit: U, live: int) -> U:
    """The unit, to be settled when the server has its live events up to that number."""
    data: Any = unit
    changed: U = replace(data, live=live)
    return changed
