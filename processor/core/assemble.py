"""The text of a run's current attempt, put together from its increments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from processor.core.events import Event

__all__ = ["Assembler", "assemble"]

_DEFAULT = ""  # the message that a reader opens for text that names none


class Assembler:
    """Takes events in order. When a newer attempt begins, what older ones wrote is dropped; events without attempt stay."""

    def __init__(self) -> None:
        self.attempt = 0
        self._messages: dict[
            str, list[tuple[int, str]]
        ] = {}  # ID -> parts with the attempt that wrote each, opening first
        self._open = _DEFAULT

    def add(self, event: Event[Any]) -> None:
        kind = event.type
        if kind in ("run.retrying", "run.started"):
            self._begin(event.attempt or 0)
        elif kind == "message.started":
            self._open = str(_member(event, "message") or _DEFAULT)
            self._messages.setdefault(self._open, [(event.attempt or 0, "")])
        elif kind == "message.delta" and not self._is_old(event):
            message = str(_member(event, "message") or self._open)
            self._messages.setdefault(message, []).append((event.attempt or 0, event.text))

    def restart(self) -> None:
        """Forgets everything: the history was rewritten."""
        self.__init__()  # type: ignore[misc]  # a fresh one, in place

    def _begin(self, attempt: int) -> None:
        if attempt > self.attempt:
            self.attempt = attempt
            lasting = {id: [part for part in parts if part[0] == 0] for id, parts in self._messages.items()}
            self._messages = {id: parts for id, parts in lasting.items() if parts}
            self._open = _DEFAULT

    def _is_old(self, event: Event[Any]) -> bool:
        return event.attempt is not None and event.attempt < self.attempt

    @property
    def text(self) -> str:
        """Messages in the order in which they were opened, an empty line between them."""
        texts = ("".join(text for _, text in parts) for parts in self._messages.values())
        return "\n\n".join(text for text in texts if text)


def _member(event: Event[Any], name: str) -> object:
    return event.data.get(name) if isinstance(event.data, dict) else None


def assemble(events: Iterable[Event[Any]]) -> str:
    """Text of the current attempt."""
    assembler = Assembler()
    for event in events:
        assembler.add(event)
    return assembler.text
