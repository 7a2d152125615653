"""What the workers of these tests react with. Each handler journals its first and last line, and settles what it did.

What an event's data say of a handler: `n` its number in its run, `pause_ms`, `gate` (it waits until that is open), `flaky` (how
often of 1 it fails), `fails` (group → how often it fails at first), and lists of groups whose handler shall `fail`, `kill` its
process or `block` its loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tailrace import Event, Retry, Tailrace
from tests.faults.reactions.oracle import FACT, Journaled

__all__ = ["JOURNAL", "OTHER_FACT", "POLICIES", "SINKS", "gate_of", "journaled_in", "tail_of"]

JOURNAL: Final = "handlers.journal"
OTHER_FACT: Final = "shop.other"  # which only the second version of a program knows
SINKS: Final = 3  # runs a group, of other roots, hence of other partitions
GATE_SECONDS: Final = 0.02  # between two looks
BLOCK_SECONDS: Final = 3.0
OFTEN: Final = Retry(attempts=1000, base_seconds=0.02, cap_seconds=0.2)  # a lost try counts: nothing may be given up
FEW: Final = Retry(attempts=3, base_seconds=0.02, cap_seconds=0.2)

POLICIES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "first": {"retry": OFTEN},
        "second": {"retry": OFTEN},
        "batched": {"retry": OFTEN, "batch": 20},
        "ordered": {"retry": OFTEN, "ordered": True},
        "few": {"retry": FEW},
        "few-ordered": {"retry": FEW, "ordered": True},
        "strict": {"retry": FEW, "ordered": True, "on_dead": "stop"},
        "refusing": {"retry": OFTEN, "when_behind": "refuse"},
    }
)
_FACTS: Final = ("first", "refusing")  # groups whose effects are facts: they come into the log again


def gate_of(folder: Path, name: str) -> Path:
    """The file whose presence lets handlers of that gate end."""
    return folder / f"gate-{name}"


def journaled_in(folder: Path) -> list[Journaled]:
    path = folder / JOURNAL
    lines = path.read_text().splitlines() if path.exists() else []
    return [Journaled(*json.loads(line)) for line in lines]


def tail_of(groups: Sequence[str], *, version: int = 1) -> Tailrace:
    """A Tailrace with these groups, whose server comes from TAILRACE_…. version: of the program; the second handles more."""
    tail = Tailrace()
    for group in groups:
        _register(tail, group, FACT)
        if version > 1:
            _register(tail, group, OTHER_FACT)
    return tail


def _register(tail: Tailrace, group: str, pattern: str) -> None:
    policy = POLICIES[group]

    async def one(event: Event[Any]) -> None:
        await _handle(tail, group, [event])

    async def many(events: list[Event[Any]]) -> None:
        await _handle(tail, group, events)

    one.__qualname__ = many.__qualname__ = f"{group} {pattern}"  # they are told apart by it
    tail.on(pattern, group=group, **policy)(many if policy.get("batch", 1) > 1 else one)


async def _handle(tail: Tailrace, group: str, events: Sequence[Event[Any]]) -> None:
    for event in events:
        _journal(group, event, "begins")
    end = "fails"
    try:
        for event in events:
            await _do(group, event)
            _leave_effects(tail, group, event)
        end = "ends"
    finally:
        for event in events:
            _journal(group, event, end)


def _journal(group: str, event: Event[Any], what: str) -> None:
    """One write of one line: it is there before anything else happens, whoever else writes, whenever the process dies."""
    line = json.dumps([group, event.run, event.data["n"], what, os.environ["FAULTS_NAME"]]) + "\n"
    journal = os.open(Path(os.environ["FAULTS_FOLDER"]) / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(journal, line.encode())
    os.close(journal)


async def _do(group: str, event: Event[Any]) -> None:
    data: Mapping[str, Any] = event.data
    if data.get("pause_ms"):
        await asyncio.sleep(data["pause_ms"] / 1000)
    if data.get("gate"):
        path = gate_of(Path(os.environ["FAULTS_FOLDER"]), data["gate"])
        while not path.exists():  # noqa: ASYNC110 - the test that opens it is another process
            await asyncio.sleep(GATE_SECONDS)
    if group in data.get("kill", ()):
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    if group in data.get("block", ()):
        time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251 - that is the fault
    if group in data.get("fail", ()) or _calls(group, event) <= data.get("fails", {}).get(group, 0):
        raise RuntimeError("it fails, as it was told to")
    if random.random() < data.get("flaky", 0):
        raise RuntimeError("it fails this time, as it was told to")


def _calls(group: str, event: Event[Any]) -> int:
    """How often its handler was called, with this time; 1 where nobody asks."""
    if group not in event.data.get("fails", {}):
        return 1
    journal = journaled_in(Path(os.environ["FAULTS_FOLDER"]))
    return sum(line[:4] == (group, event.run, event.data["n"], "begins") for line in journal)


def _leave_effects(tail: Tailrace, group: str, event: Event[Any]) -> None:
    """One into a run of the event's partition, for every other event one more into a run elsewhere: both or none."""
    type = "shop.seen" if group in _FACTS else "shop.seen.delta"
    effect = {"run": event.run, "n": event.data["n"]}
    tail.run(f"{event.run}~{group}").emit(type, effect)
    if event.data["n"] % 2 == 0:
        tail.run(f"sink-{group}-{zlib.crc32(event.run.encode()) % SINKS}").emit(type, effect)
