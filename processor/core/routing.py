"""Routing: which events a reaction is for. Topic patterns, as queues have them, and labels.

Words are divided by dots. `*` is one word, `#` any number of them, none included. A pattern whose last word is a wildcard
means facts alone: increments (`*.delta`, `tool.args`, `log`) reach the log only where somebody asked for them, so they are
named by their last word: `message.delta`, `*.delta`, `log`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from processor.core.errors import BadInput
from processor.core.events import Event, is_increment
from processor.core.json import dumps, loads
from processor.core.names import check_labels

__all__ = ["Binding", "increments", "labels_of"]

ALL_INCREMENTS: Final = "*"
_PATTERN: Final = re.compile(r"(?:[A-Za-z0-9_-]+|\*|#)(?:\.(?:[A-Za-z0-9_-]+|\*|#))*")
_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Binding:
    """A pattern, and the labels that an event must have. Raises BadInput."""

    pattern: str
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise BadInput(
                f"a reaction is on {self.pattern!r}, which is no pattern.",
                remedy='Write @tail.on("order.paid"); for several patterns decorate the function once for each.',
                field="pattern",
                value=repr(self.pattern)[:200],
            )
        if not isinstance(self.where, Mapping):
            raise BadInput(
                f"where is {self.where!r}.",
                remedy='Give labels by name: where={"country": "fr"}.',
                field="where",
                value=repr(self.where)[:200],
            )
        if len(self.pattern) > _MAX or not _PATTERN.fullmatch(self.pattern):
            raise BadInput(
                f"pattern {self.pattern!r} is none: words divided by dots, * for one word, # for any number.",
                remedy='For example "tool.*", "run.failed" or "#".',
                field="pattern",
                value=self.pattern[:200],
            )
        check_labels(self.where)

    @property
    def text(self) -> str:
        """As a group's record keeps it."""
        if not self.where:
            return self.pattern
        return f"{self.pattern} {dumps(dict(sorted(self.where.items()))).decode()}"

    @classmethod
    def parse(cls, text: str) -> Binding:
        """Raises BadInput, ValueError for what no release wrote."""
        pattern, _, where = text.partition(" ")
        return cls(pattern, loads(where.encode()) if where else {})

    def takes(self, type: str) -> bool:
        """Whether the pattern matches, whatever the event's labels."""
        if is_increment(type) and self._ends_open:
            return False
        return _matches(tuple(self.pattern.split(".")), tuple(type.split(".")))

    def wants(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(name) == value for name, value in self.where.items())

    @property
    def _ends_open(self) -> bool:
        return self.pattern[-1] in "*#"

    @property
    def increments(self) -> frozenset[str]:
        """Types of increments that it may match, `*` where they cannot be told one by one."""
        last = self.pattern.rpartition(".")[2]
        if not any(wildcard in self.pattern for wildcard in "*#"):
            return frozenset({self.pattern} if is_increment(self.pattern) else ())
        if last == "delta":
            return frozenset({ALL_INCREMENTS})
        return frozenset(type for type in ("tool.args", "log") if self.takes(type))


def labels_of(event: Event[Any]) -> Mapping[str, str]:
    """By which it is routed: none where they cannot be read, since a payload is what somebody wrote."""
    try:
        return event.labels
    except (ValueError, AttributeError):  # no JSON, or no object
        return {}


def increments(bindings: Iterable[Binding]) -> list[str]:
    """What they bind together, sorted."""
    return sorted({type for binding in bindings for type in binding.increments})


@functools.lru_cache(4096)
def _matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """Kept for each part: a pattern of many "#" is looked at once, not once for each way to read it."""
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return _matches(rest, words) or (bool(words) and _matches(pattern, words[1:]))
    return bool(words) and first in ("*", words[0]) and _matches(rest, words[1:])
