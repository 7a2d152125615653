"""Emitting: reactions that did what most do, one fact for a run of their partition or nothing, settled many at once (emit.lua).

What that script cannot decide is handed on, to be settled by react.lua.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import structlog

from processor.core.errors import ServerError
from processor.core.events import is_increment
from processor.core.keys import Keyspace, PartitionKeys
from processor.store.executing import Output
from processor.store.line import Line
from processor.store.scripts import Limits, Script, partition_keys
from processor.store.sending import Sending, until_answered
from processor.store.space import Scripted

__all__ = ["Emitted", "Emitting", "emit_command", "emitted"]

log = structlog.get_logger("tailrace.settle")

T = TypeVar("T")


class Emitted(NamedTuple, Generic[T]):
    """One entry's. run: "" for no output."""

    entry: str
    run: str = ""
    payload: bytes = b""
    told: T | None = None  # who is told of the answer


def emitted(
    entry: str, outputs: Sequence[Output], partition: int, own: str, keyspace: Keyspace, told: T
) -> Emitted[T] | None:
    """What emit.lua settles; None if it is more than that. own: a run of the partition."""
    if not outputs:
        return Emitted(entry, "", b"", told)
    if len(outputs) > 1:
        return None
    run, events = outputs[0]
    if len(events) > 1:
        return None
    type, payload, extras, work = events[0]
    if extras or work or type.startswith("run.") or is_increment(type):
        return None
    return Emitted(entry, run, payload, told) if run == own or keyspace.number(run) == partition else None


def emit_command(
    script: Script, limits: Limits, keys: PartitionKeys, group: str, consumer: str, of_call: Sequence[Emitted[Any]]
) -> tuple[tuple[bytes | str | int, ...], Sequence[int]]:
    """emit.lua's call, and the places in `of_call` of those that have an answer each, in its order."""
    runs: dict[str, list[bytes | str]] = {}
    places: dict[str, list[int]] = {}
    quiet: list[str] = []
    for place, (entry, run, payload, _) in enumerate(of_call):
        if not run:
            quiet.append(entry)
        elif run in runs:
            runs[run] += (entry, payload)
            places[run].append(place)
        else:
            runs[run] = [entry, payload]
            places[run] = [place]
    names = partition_keys(keys)
    hash, feed, channel = keys.run(""), keys.feed(""), keys.channel("")
    args: list[bytes | str | int] = [limits.feed, group, consumer, len(hash) + 1, len(quiet), *quiet]
    for run, pairs in runs.items():
        names += (hash + run, feed + run, channel + run)
        args.append(len(pairs) // 2)
        args += pairs
    command = (b"EVALSHA", script.sha, len(names), *names, *args)
    return command, [place for of_run in places.values() for place in of_run]


class Emitting(Sending[Emitted[T]]):
    """T: what is told about."""

    def __init__(
        self,
        line: Line,
        space: Scripted,
        limits: Limits,
        group: str,
        consumer: str,
        settled: Callable[[Sequence[T]], None],
        look: Callable[[Sequence[T]], None],
    ) -> None:
        """settled: these are. look: these are to be settled by react.lua."""
        super().__init__()
        self._line, self._space, self._limits, self._group, self._consumer = line, space, limits, group, consumer
        self._script = space.scripts.named("emit")
        self._tell_settled, self._tell_look = settled, look

    def put(self, partition: int, emitted: Emitted[T]) -> None:
        """Told of once the server has answered."""
        self._put(partition, emitted)

    @staticmethod
    def _size(one: Emitted[T]) -> int:
        return len(one.payload)

    async def _send(self, partition: int, of_call: Sequence[Emitted[T]]) -> None:
        words = await self._until_answered(partition, of_call)
        if words is None:
            self._tell(self._tell_settled, of_call)
        else:
            judged = list(zip(of_call, words, strict=True))
            self._tell(self._tell_settled, [one for one, word in judged if word != b"look"])
            self._tell(self._tell_look, [one for one, word in judged if word == b"look"])
        self._answered(len(of_call))

    def _tell(self, tell: Callable[[Sequence[T]], None], answered: Sequence[Emitted[T]]) -> None:
        if answered:
            told: list[Any] = [one[3] for one in answered]  # by place: half the time of a name, for each entry
            try:
                tell(told)
            except Exception:
                log.exception("settled_untold", group=self._group, entries=len(answered))

    async def _until_answered(self, partition: int, of_call: Sequence[Emitted[T]]) -> Sequence[bytes] | None:
        """A word for each; None if all are settled."""
        keys = self._space.keys.partitions[partition]
        command, places = emit_command(self._script, self._limits, keys, self._group, self._consumer, of_call)
        try:
            answers = await until_answered(self._line, self._script, lambda: command, units=len(of_call))
        except ServerError:  # one of them cannot be settled; react.lua finds out which
            return [b"look"] * len(of_call)
        if answers == [b"settled"]:
            return None
        words = [b"settled"] * len(of_call)
        for place, word in zip(places, answers, strict=True):
            words[place] = word
        return words
