"""Settlements of one partition of an ordered group: one call after the other, and each names the entry settled before it, so that
neither a lost answer nor a late copy nor a server that lost its last second lets an event be applied twice or out of its order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from processor.core.errors import ServerError
from processor.store.executing import Settled
from processor.store.line import Line
from processor.store.reacting import Lease, ReactUnit
from processor.store.scripts import Script
from processor.store.sending import MAX_UNITS, Command, as_many, until_answered

__all__ = ["Chained"]

log = structlog.get_logger("tailrace.reactions")
Tell = Callable[[Settled], None]


class _Waiting(NamedTuple):
    unit: ReactUnit
    tell: Tell


class Chained:
    """Under one lease. Belongs to one event loop."""

    def __init__(
        self,
        line: Line,
        script: Script,
        command: Callable[[Sequence[ReactUnit], Lease], Command],
        token: str,
        broken: Callable[[str], None],
        answered: Callable[[Sequence[ReactUnit]], None],
    ) -> None:
        """broken: told `fenced` or `hole`, once; nothing is settled here any more. answered: told of each call's units."""
        self._line, self._script, self._command, self._token, self._broken = line, script, command, token, broken
        self._answered = answered
        self.last = ""  # the entry settled last, as far as it is known; "" for none
        self.calls = 0  # that were begun
        self._queue: deque[_Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._in_flight = 0
        self._alone = 0  # so many units go one by one: a call of several cannot be executed
        self._is_closed = False

    @property
    def unsettled(self) -> int:
        """Units without an answer."""
        return len(self._queue) + self._in_flight

    def put(self, unit: ReactUnit, tell: Tell) -> None:
        """tell: called with settled, done, refused or failed, and not at all once the chain is broken or closed."""
        if self._is_closed:
            return
        self._queue.append(_Waiting(unit, tell))
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_all(), name="tailrace-chain")

    def close(self) -> None:
        """What has no answer yet is settled by the next owner; its answer is not heard."""
        self._is_closed = True
        self._queue.clear()
        if self._sender is not None:
            self._sender.cancel()

    async def ended(self) -> None:
        if self._sender is not None:
            await asyncio.gather(self._sender, return_exceptions=True)

    async def _send_all(self) -> None:
        """What is put meanwhile goes with the next call."""
        try:
            while self._queue and not self._is_closed:
                waiting = self._next()
                self._in_flight = len(waiting)
                self.calls += 1
                answers = await self._until_answered([one.unit for one in waiting])
                self._in_flight = 0
                if answers is None:
                    self._alone = len(waiting)
                    self._queue.extendleft(reversed(waiting))
                elif not self._is_closed:
                    self._answered([one.unit for one in waiting])
                    self._hear(waiting, answers)
        finally:
            self._sender = None

    def _next(self) -> list[_Waiting]:
        taken = as_many(self._queue, lambda one: one.unit.size, 1 if self._alone else MAX_UNITS)
        self._alone = max(0, self._alone - 1)
        return taken

    async def _until_answered(self, units: Sequence[ReactUnit]) -> list[Settled] | None:
        """The same call again until there is an answer. None for units that cannot be settled together."""
        command = self._command(units, Lease(self._token, self.last))
        try:
            answers = await until_answered(self._line, self._script, lambda: command, units=len(units))
        except ServerError as error:
            return [Settled("failed", error.message)] if len(units) == 1 else None
        return [Settled.parse(answer) for answer in answers]

    def _hear(self, waiting: Sequence[_Waiting], answers: Sequence[Settled]) -> None:
        for n, (one, answer) in enumerate(zip(waiting, answers, strict=True)):
            if answer.word in ("fenced", "hole"):
                self.close()
                self._broken(answer.word)
                return
            if answer.word in ("settled", "done"):
                self.last = one.unit.deliveries[-1].entry
            if answer.word in ("refused", "failed"):
                self._queue.extendleft(reversed(waiting[n + 1 :]))  # they named it as settled, and were not looked at
            self._tell(one, answer)
            if answer.word in ("refused", "failed"):
                return

    def _tell(self, one: _Waiting, answer: Settled) -> None:
        try:
            one.tell(answer)
        except Exception:
            log.exception("settled_untold", run=one.unit.run)
