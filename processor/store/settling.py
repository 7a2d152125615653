"""Settling: what executions have to say at their end goes out in as few calls as possible, and again until it is answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from processor.core.chain import Chain
from processor.core.errors import ServerError
from processor.core.keys import Keyspace
from processor.store.executing import Output, Settled
from processor.store.line import Line
from processor.store.scripts import Script
from processor.store.sending import Command, Sending, until_answered

__all__ = ["Settling"]

log = structlog.get_logger("tailrace.settle")
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


@dataclass(slots=True)
class _Waiting(Generic[U]):
    unit: U
    tell: Callable[[Settled], None]
    chain: Chain | None
    patient_until: float


class Settling(Sending[_Waiting[U]]):
    """A unit sent again is answered `done`."""

    def __init__(
        self,
        line: Line,
        script: Script,
        command: Callable[[int, Sequence[U]], Command],
        keyspace: Callable[[], Keyspace],
        relay: Callable[[int], None],
    ) -> None:
        """command: the script's call for units of a partition. relay: told of a partition whose outbox got something."""
        super().__init__()
        self._line, self._script, self._command = line, script, command
        self._keyspace, self._relay = keyspace, relay

    def put(self, partition: int, unit: U, tell: Callable[[Settled], None], chain: Chain | None = None) -> None:
        """tell: called once, with the server's answer. chain: of live events, behind which the unit is settled: what the
        server has lost of them comes again first."""
        if chain is not None:
            unit = _behind(unit, chain.stored)
        self._put(partition, _Waiting(unit, tell, chain, self._loop.time() + REFILL_SECONDS))

    @staticmethod
    def _size(one: _Waiting[U]) -> int:
        return one.unit.size

    async def _send(self, partition: int, of_call: Sequence[_Waiting[U]]) -> None:
        units = [one.unit for one in of_call]
        answers = await self._until_answered(partition, units)
        if answers is None:
            middle = len(of_call) // 2
            await self._send(partition, of_call[:middle])
            await self._send(partition, of_call[middle:])
            return
        keyspace = self._keyspace()
        if any(keyspace.number(out.run) != partition for unit in units for out in unit.outputs):
            self._relay(partition)
        for one, answer in zip(of_call, answers, strict=True):
            if answer.word == "behind":
                self._loop.call_later(REFILL_LOOK_SECONDS, self._queue, partition, self._refilled(one))
                continue
            try:
                one.tell(answer)
            except Exception:
                log.exception("settled_untold", run=one.unit.run)
            self._answered(1)

    def _refilled(self, one: _Waiting[U]) -> _Waiting[U]:
        """The unit to send again: what nobody has any more keeps no run from its end."""
        if one.chain is not None and one.chain.may_refill(one.unit.live) and self._loop.time() < one.patient_until:
            return one
        log.error("live_events_lost", run=one.unit.run)
        return replace(one, unit=_behind(one.unit, 0))

    async def _until_answered(self, partition: int, units: Sequence[U]) -> list[Settled] | None:
        """None for units that cannot be settled together."""
        try:
            answers = await until_answered(
                self._line, self._script, lambda: self._command(partition, units), units=len(units)
            )
        except ServerError as error:
            return [Settled("failed", error.message)] if len(units) == 1 else None
        return [Settled.parse(answer) for answer in answers]


def _behind(unit: U, live: int) -> U:
    """The unit, to be settled when the server has its live events up to that number."""
    data: Any = unit
    changed: U = replace(data, live=live)
    return changed
