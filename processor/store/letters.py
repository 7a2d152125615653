"""A dead letter: a run that failed for good, or an event that a group's reaction could not handle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from processor.core.cursor import FeedId
from processor.core.json import loads
from processor.store.runs import rfc3339

__all__ = ["DeadLetter", "Kind", "Place"]

Kind = Literal["task", "group"]


class Place(NamedTuple):
    """Where a letter stands."""

    partition: int
    kind: Kind  # of what failed
    name: str  # of the task or group
    entry: str  # "<ms>-<n>"


@dataclass(frozen=True)
class DeadLetter:
    """What failed, and what it failed on: a task's run on its run.queued, a reaction on an event."""

    place: Place
    run: str  # the run, or that of the event
    queued: str  # feed ID of the run.queued or event, "" if it was lost
    payload: bytes  # of that, b"" if it was lost
    failed: bytes  # of a task the payload of run.failed; of a reaction JSON with error, reason, attempts
    entry: str = ""  # of an inlet: the entry of its stream, which could be no event
    fields: Mapping[str, str] = field(default_factory=dict)  # of that entry; what is no UTF-8 is replaced

    @property
    def task(self) -> str:
        """Whose run it was; "" of a reaction."""
        return self.place.name if self.place.kind == "task" else ""

    @property
    def group(self) -> str:
        """Whose reaction it was; "" of a task."""
        return self.place.name if self.place.kind == "group" else ""

    @property
    def label(self) -> str:
        """As people name it: the run, `<run>@<seq>` for an event, `<inlet>@<entry>` for an entry that has no run."""
        if not self.run:
            return f"{self.group}@{self.entry}"
        return f"{self.run}@{self.seq}" if self.group and self.seq else self.run

    @property
    def died(self) -> int:
        """When it failed for good, in ms by the server's clock."""
        return int(self.place.entry.partition("-")[0])

    @property
    def began(self) -> int | None:
        """When it was queued, or the event happened, in ms by the server's clock."""
        return FeedId.parse(self.queued).ms if self.queued else None

    @property
    def seq(self) -> int:
        """The event's number in its run, 0 if it was lost."""
        return FeedId.parse(self.queued).seq if self.queued else 0

    @cached_property
    def _failure(self) -> Mapping[str, Any]:
        """error, reason, traceback, attempts."""
        if self.place.kind == "group":
            return _object(self.failed)
        end = _members(self.failed)
        return {**_data(end), "attempts": end.get("attempt")}

    @cached_property
    def _origin(self) -> Mapping[str, Any]:
        return _members(self.payload)

    @property
    def attempts(self) -> int:
        """How often it was begun."""
        attempts = self._failure.get("attempts")
        return attempts if isinstance(attempts, int) else 0

    @property
    def error(self) -> str:
        return str(self._failure.get("error") or "")

    @property
    def reason(self) -> str:
        """error, timeout, given_up, poison …; of a reaction also refused (its output was) and stopped (its run was, before it)."""
        return str(self._failure.get("reason") or "")

    @property
    def traceback(self) -> str | None:
        found = self._failure.get("traceback")
        return found if isinstance(found, str) else None

    @property
    def type(self) -> str:
        """Of the event."""
        return str(self._origin.get("type") or "")

    @property
    def data(self) -> Any:
        """Of the event."""
        return self._origin.get("data")

    @property
    def input(self) -> Any:
        """Of a task's run."""
        return _data(self._origin).get("input", {})

    @property
    def labels(self) -> Mapping[str, str]:
        return self._origin.get("labels") or {}

    def json(self) -> dict[str, Any]:
        """What a list says of it: absent members left out, times RFC 3339."""
        began = rfc3339(self.began) if self.began is not None else None
        of_task = {"task": self.task, "queued": began}
        of_group = {"group": self.group, "event": self.queued or None, "type": self.type or None, "happened": began}
        of_group["entry"] = self.entry or None
        members: dict[str, Any] = {
            "run": self.run,
            **(of_task if self.task else of_group),
            "error": self.error,
            "reason": self.reason,
            "attempts": self.attempts,
            "labels": dict(self.labels),
            "dead": rfc3339(self.died),
        }
        return {name: value for name, value in members.items() if value is not None}

    def whole_json(self, thread: str | None) -> dict[str, Any]:
        """The same with what belongs to one letter alone."""
        cause = {"input": self.input} if self.task else {"data": self.data}
        more: dict[str, Any] = {"thread": thread, "traceback": self.traceback, **(cause if self.payload else {})}
        more["fields"] = dict(self.fields) or None
        return {**self.json(), **{name: value for name, value in more.items() if value is not None}}


def _object(text: bytes) -> Mapping[str, Any]:
    found = loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _members(payload: bytes) -> Mapping[str, Any]:
    return _object(b"{" + payload) if payload else {}


def _data(members: Mapping[str, Any]) -> Mapping[str, Any]:
    data = members.get("data")
    return data if isinstance(data, dict) else {}
