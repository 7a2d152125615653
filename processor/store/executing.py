"""Executing work entries: what a worker holds, how executions begin (start.lua) and how they are settled (settle.lua)."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from processor.core.events import Fields
from processor.core.keys import Keyspace, PartitionKeys
from processor.store.connection import pack
from processor.store.scripts import Limits, Packing, Script, partition_keys

__all__ = ["GROUP", "Begun", "Output", "Settled", "Taken", "Unit", "Verb", "settle_command", "start_command"]

GROUP = "workers"

Verb = Literal["finish", "fail", "stop", "retry", "later", "park", "release", "back", "defer"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A work entry in a worker's hands."""

    task: str
    entry: str  # "<ms>-<n>"
    run: str
    queued: str  # feed ID of run.queued
    payload: bytes  # of run.queued
    seen: str = ""  # the run's exec when it was taken over, "" on a first read
    tries: int = 0  # on a takeover: how often it was tried and failed or was lost


class Begun(NamedTuple):
    """What start answered. word: go gone closed cancelled spent corrupt; failed: it stops on this entry."""

    word: str
    attempt: int = 0
    tries: int = 0

    @classmethod
    def parse(cls, answer: bytes) -> Begun:
        word, *numbers = answer.decode().split(" ")
        return cls(word, *map(int, numbers))


def start_command(
    script: Script,
    limits: Limits,
    keys: PartitionKeys,
    consumer: str,
    held: int,
    tasks: Mapping[str, tuple[int, Sequence[tuple[Taken, str]]]],
) -> tuple[bytes | str | int, ...]:
    """start.lua's call. held: entries that the consumer has pending besides these, at most.

    tasks: name → (tries it has, entries with their nonces in the order of their IDs); answers come in the same order.
    """
    names = partition_keys(keys)
    args: list[bytes | str | int] = [consumer, held, limits.dead, limits.retain_ms, limits.tombstone_ms]
    for task, (tries, entries) in tasks.items():
        names += (keys.work(task), keys.dead_task(task))
        args += (tries, len(entries))
        for taken, nonce in entries:
            run = taken.run
            names += (keys.run(run), keys.feed(run), keys.channel(run), keys.thread(run))
            args += (run, taken.entry, taken.seen, nonce)
    return (b"EVALSHA", script.sha, len(names), *names, *args)


class Output(NamedTuple):
    """Events for another run, settled with the handler that made them."""

    run: str
    events: Sequence[Fields]


@dataclass(frozen=True, slots=True)
class Unit:
    """One execution's settlement."""

    run: str
    task: str
    entry: str  # "" without a worker
    exec: str  # back, defer: as seen
    verb: Verb
    payload: bytes = b""  # of the event that the verb appends
    a: bytes | str | int = b""  # fail: error (JSON); retry, later, defer: delay in ms; park: ask
    b: bytes | str = b""  # feed ID of run.queued, where the entry goes on
    c: bytes = b""  # its payload
    outputs: Sequence[Output] = ()  # of finish alone
    live: int = 0  # number of its last live event that was acknowledged; 0: none, or nobody has it any more

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.payload) + len(self.c) + sum(len(event[1]) for out in self.outputs for event in out.events)


class Settled(NamedTuple):
    """What settle answered, or react. word: settled done stale behind answered closed corrupt refused; failed: it stops on
    this unit."""

    word: str
    detail: str = ""  # the run's status (settled, closed), the refusal (refused)

    @classmethod
    def parse(cls, answer: bytes) -> Settled:
        word, _, detail = answer.decode().partition(" ")
        return cls(word, detail)


def settle_command(
    script: Script, limits: Limits, keyspace: Keyspace, partition: int, units: Iterable[Unit]
) -> tuple[bytes | str | int, ...]:
    """settle.lua's call for units of one partition; answers come in the same order."""
    keys = keyspace.partitions[partition]
    call = Packing.of(keys, keys.outbox)
    args = call.args
    args.append(limits.dead)
    for task, group in itertools.groupby(units, key=_TASK):
        of_task = list(group)
        call.names += (keys.work(task), keys.dead_task(task))
        args.append(len(of_task))
        for unit in of_task:
            call.add_run(unit.run)
            args += (unit.run, unit.entry, unit.exec, unit.verb, unit.live)
            args += _VERB_ARGS[unit.verb](unit)
            if unit.verb == "finish":
                _add_outputs(call, keyspace, partition, unit.outputs)
    return call.command(script, keyspace.layout, limits)


_TASK = operator.attrgetter("task")
_EVENT_AND_BODY = operator.attrgetter("payload", "a", "b", "c")
_BODY = operator.attrgetter("a", "b", "c")
_VERB_ARGS: Final[Mapping[Verb, Callable[[Unit], Sequence[bytes | str | int]]]] = {
    "finish": lambda unit: (unit.payload,),
    "fail": _EVENT_AND_BODY,
    "retry": _EVENT_AND_BODY,
    "later": _EVENT_AND_BODY,
    "release": operator.attrgetter("payload", "b", "c"),
    "park": _BODY,
    "back": operator.attrgetter("b", "c"),
    "defer": _BODY,
    "stop": lambda unit: (),
}


def _add_outputs(call: Packing, keyspace: Keyspace, partition: int, outputs: Sequence[Output]) -> None:
    if not outputs:
        call.args += (0, 0)
        return
    here = [output for output in outputs if keyspace.number(output.run) == partition]
    elsewhere = [output for output in outputs if keyspace.number(output.run) != partition]
    call.args.append(len(here))
    for output in here:
        call.add_run(output.run)
        call.args.append(output.run)
        call.add_events(output.events)
    call.args.append(len(elsewhere))
    for output in elsewhere:
        call.args += (keyspace.number(output.run), parcel(output))


def parcel(output: Output) -> bytes:
    """An output as the outbox keeps it, a list as RESP has it: run, then type, payload, task, extras of each event."""
    words: list[bytes | str | int] = [output.run]
    for type, payload, extras, work in output.events:
        words += (type, payload, work, len(extras), *extras)
    return pack(*words)
