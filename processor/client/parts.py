"""Parts of a run that are open for a while: what `message`, `reasoning` and `tool` give to their blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from processor.core.events import text_tail
from processor.store.writer import Sent

if TYPE_CHECKING:
    from processor.client.run import Run

__all__ = ["Message", "Tool"]


class Message:
    """An open message, or reasoning: text goes into it."""

    def __init__(self, run: Run[Any], kind: str, id: str) -> None:
        self._run, self._kind = run, kind
        self.id = id
        self._tail = text_tail({kind: id})
        self._parts: list[str] = []

    def write(self, text: str) -> Sent:
        """More of its text."""
        self._parts.append(text)
        return self._run._send_text(f"{self._kind}.delta", text, self._tail)

    @property
    def text(self) -> str:
        """What was written through this handle so far."""
        return "".join(self._parts)


class Tool:
    """A tool call under way."""

    def __init__(self, run: Run[Any], id: str) -> None:
        self._run = run
        self.id = id
        self._tail = text_tail({"tool": id})
        self.answered = False

    def args(self, text: str) -> Sent:
        """A piece of its arguments, as a model streams them."""
        return self._run._send_text("tool.args", text, self._tail)

    def result(self, value: object) -> Sent:
        """What it gave."""
        self.answered = True
        return self._run._send("tool.result", {"tool": self.id, "value": value})
