"""What a handler does to other runs: kept until the handler is over, then settled with it, exactly once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, cast

from processor.client.calling import executing
from processor.core.errors import BadEvent, BufferFull
from processor.core.events import Fields
from processor.store.executing import Output
from processor.store.writer import Sent

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Effects", "current"]

MAX_EVENTS: Final = 200
MAX_BYTES: Final = 512_000

_current: ContextVar[Effects | None] = ContextVar("tailrace_effects", default=None)


def current(tail: Tailrace) -> Effects | None:
    """Of the execution that the calling code belongs to; None outside of one, in what one left behind, and for a tail of
    another server or namespace, where nothing can be settled with it."""
    effects = _current.get()
    if effects is None:
        return None
    here = executing()
    return effects if here is not None and here.tail is tail else None


class _Settled:
    """In place of a Sent: awaited it is None at once, since the event goes when the handler is over."""

    __slots__ = ()

    def __await__(self) -> Generator[object, None, None]:
        return
        yield

    def __repr__(self) -> str:
        return "<settled with the handler>"


_SETTLED: Final = cast("Sent", _Settled())


class Effects:
    """Events of one execution for other runs, in the order in which they were written to each."""

    __slots__ = ("_bytes", "_events", "_max_event_bytes", "_outputs", "_put_live", "run")

    def __init__(self, run: str, put_live: Callable[[Fields], Sent], max_event_bytes: int) -> None:
        """put_live: for events into the execution's own run, through whatever handle."""
        self.run = run
        self._put_live = put_live
        self._max_event_bytes = max_event_bytes
        self._outputs: dict[str, list[Fields]] = {}
        self._events = self._bytes = 0

    def begin(self) -> None:
        """Code that runs in this context from now on belongs to the execution."""
        _current.set(self)

    def add(self, run: str, event: Fields) -> Sent:
        """Raises BadEvent for one that is too large, BufferFull above 200 events or 512 KB."""
        if run == self.run:
            return self._put_live(event)
        size = len(event[1])
        if size > self._max_event_bytes:
            raise BadEvent(
                f"an event {event[0]} of run {run} has {size:,} bytes; at most {self._max_event_bytes:,} are allowed.",
                remedy="Store it elsewhere and emit where it is, or raise TAILRACE_MAX_EVENT_KIB here and at the gateway.",
                field="data",
            )
        if self._events >= MAX_EVENTS or self._bytes + size > MAX_BYTES:
            raise BufferFull(
                f"a handler's events for other runs are settled in one step: {MAX_EVENTS} events and "
                f"{MAX_BYTES // 1000} KB at most; {event[0]} of run {run} was not added.",
                remedy="Write them to a run of its own with start_here or a child's call, or split the work.",
            )
        self._events += 1
        self._bytes += size
        self._outputs.setdefault(run, []).append(event)
        return _SETTLED

    @property
    def outputs(self) -> list[Output]:
        """What settle is given."""
        return [Output(run, events) for run, events in self._outputs.items()]

    @property
    def size(self) -> int:
        """Bytes of their payloads."""
        return self._bytes

    def __bool__(self) -> bool:
        return bool(self._outputs)
