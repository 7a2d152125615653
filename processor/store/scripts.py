"""The Lua scripts: their text, their SHA, and one typed function each, which is the script's only caller."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from processor.core.events import Fields, is_increment
from processor.core.keys import PartitionKeys
from processor.core.settings import Settings
from processor.store.connection import OneConnection, execute

__all__ = [
    "Batch",
    "Held",
    "Limits",
    "Packing",
    "Script",
    "Scripts",
    "append_command",
    "load_script",
    "partition_keys",
    "renew_command",
]

_INCLUDE = re.compile(r"^-- @include (\w+)$", re.MULTILINE)
_NOTHING_HELD: Final[Mapping[str, Sequence[Any]]] = {}
_FLAGS = re.compile(r"^-- Flags +(allow-oom|no-writes)\b", re.MULTILINE)


def _source(name: str) -> str:
    """The text of a script or include: in the wheel beside this file, in a checkout under scripts/lua."""
    packaged = files("processor.store").joinpath("lua", name)
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "scripts" / "lua" / name).read_text(encoding="utf-8")


def _with_includes(text: str, seen: set[str]) -> str:
    parts = []
    for name in _INCLUDE.findall(text):
        if name not in seen:
            seen.add(name)
            parts.append(_with_includes(_source(f"include/{name}.lua"), seen))
    return "\n".join([*parts, text])


class Script(NamedTuple):
    name: str
    text: bytes
    sha: bytes


@functools.cache
def load_script(name: str, *, shebang: bool = True) -> Script:
    """shebang: False for fakeredis, which takes `#!lua` for a syntax error.

    With it an undeclared key of another slot is an error in a cluster, and the header's flags count.
    """
    source = _source(f"{name}.lua")
    text = _with_includes(source, set())
    if shebang:
        flags = _FLAGS.search(source)
        text = f"#!lua flags={flags[1]}\n{text}" if flags else f"#!lua\n{text}"
    body = text.encode()
    return Script(name, body, hashlib.sha1(body, usedforsecurity=False).hexdigest().encode())


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that scripts are given, in milliseconds and entries."""

    feed: int
    log: int
    work: int
    retain_ms: int
    tombstone_ms: int
    silent_ms: int
    term_ms: int
    grace_ms: int
    visibility_ms: int
    dead: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            feed=settings.feed_limit,
            log=settings.log_limit,
            work=settings.work_limit,
            retain_ms=int(settings.retain_hours * 3_600_000),
            tombstone_ms=int(settings.tombstone_hours * 3_600_000),
            silent_ms=int(settings.silent_days * 86_400_000),
            term_ms=int(settings.owner_seconds * 1000),
            grace_ms=int(settings.grace_seconds * 1000),
            visibility_ms=int(settings.visibility_seconds * 1000),
            dead=settings.dead_limit,
        )

    @property
    def append_args(self) -> tuple[int, ...]:
        return (self.feed, self.log, self.work, self.retain_ms, self.tombstone_ms, self.silent_ms, self.term_ms)


class Batch(NamedTuple):
    """Events of one writer for one run, with consecutive numbers; none: what is stored for the writer?"""

    run: str
    writer: str  # `p:<producer>` from outside, `c:<checkpoint>` whose numbers are offsets, `x:<exec>` live
    prev: int  # the writer's last number known as accepted
    number: int  # of the first event
    events: Sequence[Fields]


def partition_keys(keys: PartitionKeys) -> list[str]:
    """Those that stand first where a script appends (include/partition.lua)."""
    return [keys.meta, keys.log, keys.index, keys.owners, keys.deadlines, keys.delayed, keys.delayed_body]


@dataclass(slots=True)
class Packing:
    """Keys and arguments of a call that appends, as they are put together."""

    keys: PartitionKeys
    names: list[str]
    args: list[bytes | str | int] = field(default_factory=list)
    increments: set[str] = field(default_factory=set)  # binding fields that the script has to ask for

    @classmethod
    def of(cls, keys: PartitionKeys, *more: str) -> Packing:
        """more: keys of the script's own behind the partition's."""
        return cls(keys, [*partition_keys(keys), *more])

    def add_run(self, run: str) -> None:
        keys = self.keys
        self.names += (keys.run(run), keys.feed(run), keys.channel(run), keys.thread(run))

    def add_events(self, events: Sequence[Fields]) -> None:
        """How many segments, and each of them."""
        args = self.args
        segments = len(args)
        args.append(0)
        count, at, total = 0, 0, len(events)
        while at < total:
            type, _, extras, work = events[at]
            end = at + 1
            if not type.startswith("run."):
                while end < total and events[end][0] == type:
                    end += 1
            args += (type, end - at, *extras)
            args += [event[1] for event in events[at:end]]
            if work:
                self.names.append(self.keys.work(work))
            elif is_increment(type):
                self.increments.add(f"b:{type}")
            count += 1
            at = end
        args[segments] = count

    def command(self, script: Script, layout: str, limits: Limits) -> tuple[bytes | str | int, ...]:
        """The EVALSHA."""
        return (
            b"EVALSHA",
            script.sha,
            len(self.names),
            *self.names,
            layout,
            *limits.append_args,
            len(self.increments),
            *sorted(self.increments),
            *self.args,
        )


def append_command(
    script: Script, keys: PartitionKeys, layout: str, limits: Limits, batches: Sequence[Batch]
) -> tuple[bytes | str | int, ...]:
    """append.lua's call as an EVALSHA command; its header says what stands where."""
    call = Packing.of(keys)
    for batch in batches:
        call.add_run(batch.run)
        call.args += (batch.run, batch.writer, batch.prev, batch.number)
        call.add_events(batch.events)
    return call.command(script, layout, limits)


class Held(NamedTuple):
    """A work entry in a worker's hands. exec: of its run, as the worker knows it."""

    run: str
    entry: str
    exec: str


def renew_command(
    script: Script,
    limits: Limits,
    keys: PartitionKeys,
    owned: Sequence[tuple[str, str]],
    consumer: str = "",
    held: Mapping[str, Sequence[Held]] = _NOTHING_HELD,
) -> tuple[bytes | str | int, ...]:
    """renew.lua's call as an EVALSHA command. owned: (run, owner). held: by task, of that consumer."""
    names = [keys.meta, keys.owners, *(keys.run(run) for run, _ in owned)]
    args: list[bytes | str | int] = [limits.term_ms, consumer, len(owned)]
    args += [text for pair in owned for text in pair]
    for task, entries in held.items():
        names += (keys.work(task), *(keys.run(one.run) for one in entries))
        args.append(len(entries))
        for one in entries:
            args += (one.entry, one.exec)
    return (b"EVALSHA", script.sha, len(names), *names, *args)


Cancelled = tuple[Literal["asked", "ended", "unknown", "corrupt"], str]


class Scripts:
    """Callers of the scripts that are not on the hot path, through a redis-py client."""

    def __init__(self, redis: Redis | OneConnection, limits: Limits, *, shebang: bool) -> None:
        self._redis = redis
        self.limits = limits
        self.shebang = shebang

    def named(self, name: str) -> Script:
        return load_script(name, shebang=self.shebang)

    async def call(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """For the one typed function that each script has: here, or in the module of its idea."""
        script = self.named(name)
        return await self.send(script, ("EVALSHA", script.sha, len(keys), *keys, *args))

    async def send(self, script: Script, command: Sequence[bytes | str | int]) -> Any:
        try:
            return await execute(self._redis, *command)
        except NoScriptError:
            await execute(self._redis, "SCRIPT", "LOAD", script.text)
            return await execute(self._redis, *command)

    async def append(self, keys: PartitionKeys, layout: str, batches: Sequence[Batch]) -> tuple[str, list[list[str]]]:
        """For tests and small tools; the producer packs the same command for its own connection.

        Returns ("ok", outcomes per batch) or ("topology <layout>", []).
        """
        reply = await self.send(
            self.named("append"), append_command(self.named("append"), keys, layout, self.limits, batches)
        )
        if reply[0] != b"ok":
            return f"topology {reply[1].decode()}", []
        return "ok", [[outcome.decode() for outcome in batch] for batch in reply[1]]

    async def look(self, keys: PartitionKeys, run: str) -> tuple[str, str, str]:
        """(status, tail, ID of the feed's last entry), "" for what is not there."""
        status, tail, newest = await self.call("look", [keys.run(run), keys.feed(run)], [])
        return status.decode(), tail.decode(), newest.decode()

    async def renew(self, keys: PartitionKeys, owned: Sequence[tuple[str, str]]) -> list[str]:
        """owned: (run, owner). Answers as renew.lua's header has them, in the same order."""
        script = self.named("renew")
        reply = await self.send(script, renew_command(script, self.limits, keys, owned))
        return [answer.decode() for answer in reply]

    async def cancel(self, keys: PartitionKeys, run: str, reason: bytes) -> Cancelled:
        """reason: a JSON string. Answers (word, status)."""
        limits = self.limits
        names = partition_keys(keys)
        names += [keys.run(run), keys.feed(run), keys.channel(run), keys.thread(run), keys.ctl]
        args: list[str | bytes | int] = [run, reason, limits.grace_ms, limits.retain_ms, limits.tombstone_ms]
        reply = await self.call("cancel", names, args)
        return reply[0].decode(), reply[1].decode() if len(reply) > 1 else ""

    async def expire(self, keys: PartitionKeys, runs: Sequence[str] = (), *, limit: int = 100) -> tuple[int, list[str]]:
        """One pass over a partition; runs: as an earlier call named them. Returns (done, due)."""
        limits = self.limits
        names = partition_keys(keys)
        for run in runs:
            names += (keys.run(run), keys.feed(run), keys.channel(run), keys.thread(run))
        args: list[str | bytes | int] = [
            limits.term_ms,
            limits.retain_ms,
            limits.tombstone_ms,
            limits.silent_ms,
            limit,
            *runs,
        ]
        reply = await self.call("expire", names, args)
        return reply[0], [run.decode() for run in reply[1:]]

    async def bind(
        self,
        keys: PartitionKeys,
        group: str,
        *,
        increments: Sequence[str] = (),
        start: Literal["first", "now"] = "first",
        when_behind: Literal["detach", "refuse"] = "detach",
        version: int = 1,
    ) -> str:
        """increments: types that the group binds, `*` for all. version: of that; an older one changes nothing.

        Returns bound, changed or same.
        """
        reply = await self.call("bind", [keys.meta, keys.log], [group, start, when_behind, version, *increments])
        word: str = reply[0].decode()
        return word

    async def trim(self, keys: PartitionKeys) -> int:
        """How many entries of the log went."""
        removed: int = await self.call("trim", [keys.meta, keys.log], [self.limits.log])
        return removed
