"""Where a record goes: the run that the logging code belongs to, else the one that was named, else nowhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from processor.client.blocks import block
from processor.client.calling import Executing, executing
from processor.store.writer import Writer

if TYPE_CHECKING:
    from processor.client.run import Run
    from processor.client.tailrace import Tailrace

__all__ = ["Live", "Outside", "Target", "target_of"]


@dataclass(frozen=True, slots=True, eq=True)
class Live:
    """A run that is executed here: its lines stand among what it writes, at once and under its attempt."""

    tail: Tailrace
    handle: Run[Any]
    loop: asyncio.AbstractEventLoop

    @property
    def run(self) -> str:
        return self.handle.id

    @property
    def attempt(self) -> int:
        return self.handle.attempt

    def writer(self) -> Writer:
        """In the loop. Raises TailraceError where the execution is over."""
        return self.handle._writer()


@dataclass(frozen=True, slots=True, eq=True)
class Outside:
    """Any other run: this process is one of its producers."""

    tail: Tailrace
    run: str
    loop: asyncio.AbstractEventLoop

    @property
    def attempt(self) -> int:
        return 0

    def writer(self) -> Writer:
        """In the loop. Raises NotConfigured, SettingsError."""
        return self.tail._current().producer.writer(self.run)


Target = Live | Outside


def target_of(tail: Tailrace | None, run: str | None) -> Target | None:
    """tail, run: what was named for records from elsewhere."""
    here, inner = executing(), block()
    if inner is not None and inner.around is here:
        return Live(inner.run._tail, inner.run, inner.loop)
    if here is not None:
        if here.task is None:
            return _of_reaction(here, tail, run)
        return Live(here.run._tail, here.run, here.loop)
    return _elsewhere(tail, run)


def _of_reaction(here: Executing, tail: Tailrace | None, run: str | None) -> Target | None:
    """The run of its event, which is executed elsewhere, or by nobody any more. Where it handles `log` events nothing is
    sent, since that would be another one to handle; a batch of several runs belongs to none of them."""
    if any(event.type == "log" for event in here.events):
        return None
    if any(event.run != here.run.id for event in here.events):
        return _elsewhere(tail, run)
    return Outside(here.run._tail, here.run.id, here.loop)


def _elsewhere(tail: Tailrace | None, run: str | None) -> Target | None:
    if tail is None or run is None or tail.background.is_here:  # what our own thread logs would feed itself
        return None
    return Outside(tail, run, tail.background.loop)
