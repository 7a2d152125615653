"""What must be there when a worker has drained its tasks: every feed whole, nothing pending, nothing left. And how long it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from redis import Redis

from processor.core.keys import Keyspace

__all__ = [
    "WHOLE",
    "Drained",
    "Entry",
    "Meanwhile",
    "faults",
    "nothing_else",
    "read_feeds",
    "read_left",
    "seconds",
    "until_drained",
]

WHOLE: Final = ("run.queued", "run.started", "run.finished")  # a no-op's feed
AT_ONCE: Final = 1000
SHOWN: Final = 5
LOOK_SECONDS: Final = 0.2
DRAIN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Drained:
    """One round of one drain."""

    tasks: int
    seconds: float
    cpu_seconds: float  # of the process that drained
    server_seconds: float = 0.0  # CPU of the server meanwhile; 0: not measured

    @property
    def per_second(self) -> float:
        return self.tasks / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_seconds / self.tasks * 1e6

    @property
    def server_us(self) -> float:
        return self.server_seconds / self.tasks * 1e6


Meanwhile = Callable[[bool], None]  # told when a drain begins (True) and has ended (False)


def nothing_else(begins: bool) -> None:
    """A drain by itself."""


class Entry(NamedTuple):
    """An event of a feed."""

    seq: int
    ms: int  # by the server's clock
    type: str


Feeds = Mapping[str, Sequence[Entry]]  # by run


def faults(feeds: Feeds, left: Mapping[str, int]) -> list[str]:
    """In words what is wrong with runs that were accepted; empty if each was executed once and nothing stays behind.

    left: how many of what are still there, by name.
    """
    found = []
    wrong = [run for run, feed in feeds.items() if tuple(entry.type for entry in feed) != WHOLE]
    wrong += [run for run, feed in feeds.items() if [entry.seq for entry in feed] != list(range(1, len(feed) + 1))]
    if wrong:
        shown = ", ".join(
            f"{run}: {' '.join(entry.type for entry in feeds[run]) or 'nothing'}" for run in wrong[:SHOWN]
        )
        found.append(f"{len(set(wrong))} of {len(feeds)} feeds are not whole ({shown})")
    found += [f"{count} {what}" for what, count in left.items() if count]
    return found


def seconds(feeds: Feeds) -> float:
    """From the first `run.started` to the last event, by the feeds themselves. To a millisecond."""
    first = min(entry.ms for feed in feeds.values() for entry in feed if entry.type == "run.started")
    return (max(feed[-1].ms for feed in feeds.values()) - first) / 1000


def read_feeds(redis: Redis, keys: Keyspace, runs: Sequence[str]) -> Feeds:
    """Empty for a run that is not there."""
    feeds: dict[str, Sequence[Entry]] = {}
    for first in range(0, len(runs), AT_ONCE):
        part = runs[first : first + AT_ONCE]
        with redis.pipeline(transaction=False) as pipe:
            for run in part:
                pipe.xrange(keys.of(run).feed(run))
            answers: list[Any] = pipe.execute()
        for run, answer in zip(part, answers, strict=True):
            feeds[run] = [_entry(id, fields[b"e"]) for id, fields in answer]
    return feeds


def _entry(id: bytes, payload: bytes) -> Entry:
    """A payload begins `"type":"…"`."""
    seq, _, ms = id.partition(b"-")
    return Entry(int(seq), int(ms), payload[8 : payload.index(b'"', 8)].decode())


def read_left(redis: Redis, keys: Keyspace, task: str) -> dict[str, int]:
    """What should be gone once all is settled, over all partitions."""
    left = {
        "entries in work streams": 0,
        "pending entries": 0,
        "delayed": 0,
        "entries in outboxes": 0,
        "dead letters": 0,
    }
    for partition in keys.partitions:
        work = partition.work(task)
        if redis.exists(work):
            pending: Any = redis.xpending(work, "workers")
            left["entries in work streams"] += int(redis.xlen(work))
            left["pending entries"] += pending["pending"]
        left["delayed"] += int(redis.zcard(partition.delayed))
        left["entries in outboxes"] += int(redis.xlen(partition.outbox))
        left["dead letters"] += int(redis.xlen(partition.dead_task(task)))
    return left


async def until_drained(redis: Redis, keys: Keyspace, task: str) -> None:
    """Raises TimeoutError with what is left."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while any((left := read_left(redis, keys, task)).values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {DRAIN_SECONDS:g} s there still are: {left}")
        await asyncio.sleep(LOOK_SECONDS)
