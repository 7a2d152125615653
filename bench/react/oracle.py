"""What must be there when groups have worked: nothing pending, the log read to its end, and one output for each event."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis import Redis

from bench.process.hired import Hired
from bench.process.oracle import SHOWN, Entry, Feeds
from bench.react.events import ASKED, DONE
from processor.core.keys import Keyspace

__all__ = ["behind", "check_handled", "faults", "last_output", "until_read"]

LOOK_SECONDS: Final = 0.05
DRAIN_SECONDS: Final = 180.0


def behind(redis: Redis, keys: Keyspace, groups: Sequence[str]) -> dict[str, int]:
    """What of the log the groups have not been given or not settled, over all partitions; and what waits elsewhere."""
    left: Counter[str] = Counter()
    with redis.pipeline(transaction=False) as pipe:
        for partition in keys.partitions:
            pipe.xinfo_stream(partition.log)
            pipe.xinfo_groups(partition.log)
            pipe.zcard(partition.delayed)
            pipe.xlen(partition.outbox)
            for group in groups:
                pipe.xlen(partition.dead_group(group))
        answers: list[Any] = pipe.execute()
    each = 4 + len(groups)
    for n in range(0, len(answers), each):
        stream, standing, delayed, outbox, *dead = answers[n : n + each]
        for group in standing:
            if group["name"].decode() in groups:
                left["entries not read"] += _number(stream["last-generated-id"]) - _number(group["last-delivered-id"])
                left["entries pending"] += group["pending"]
        left["retries"] += delayed
        left["entries in outboxes"] += outbox
        left["dead letters"] += sum(dead)
    return {what: count for what, count in left.items() if count}


def _number(entry: bytes) -> int:
    """Entries of a partition are numbered without holes."""
    return int(entry.partition(b"-")[2])


def until_read(
    redis: Redis, keys: Keyspace, groups: Sequence[str], worker: Hired, *, seconds: float = DRAIN_SECONDS
) -> None:
    """Raises TimeoutError with what is left, RuntimeError if the worker has ended."""
    deadline = time.monotonic() + seconds
    while left := behind(redis, keys, groups):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s there still are: {left}")
        worker.check()
        time.sleep(LOOK_SECONDS)


def check_handled(handled: int, events: int) -> None:
    """Raises RuntimeError if some were not. A handler may be called again, its outputs count once."""
    if handled < events:
        raise RuntimeError(f"{handled} of {events} events were handled")
    if handled > events:
        print(f"{handled - events} of {events} events were handled twice", file=sys.stderr, flush=True)


def faults(feeds: Feeds, expected: Mapping[str, int]) -> list[str]:
    """In words what is wrong; empty if each feed has its events, numbered without a hole, and as many outputs.

    expected: events of each run.
    """
    wrong = [run for run, count in expected.items() if not _is_whole(feeds.get(run, ()), count)]
    if not wrong:
        return []
    shown = ", ".join(f"{run}: {dict(Counter(entry.type for entry in feeds.get(run, ())))}" for run in wrong[:SHOWN])
    return [f"{len(wrong)} of {len(expected)} feeds are not whole ({shown})"]


def _is_whole(feed: Sequence[Entry], count: int) -> bool:
    found = Counter(entry.type for entry in feed)
    return found[ASKED] == found[DONE] == count and [entry.seq for entry in feed] == list(range(1, len(feed) + 1))


def last_output(feeds: Feeds) -> float:
    """Unix time of the last output, by the server's clock, to a millisecond."""
    return max(feed[-1].ms for feed in feeds.values()) / 1000
