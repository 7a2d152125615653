"""Does anything stay in the server? Load, then quiet until every run is forgotten, again and again.

Retention is a second and a half instead of a day, so a round stands for two days: runs are queued, executed, kept, expire to
tombstones and go. What the server uses is read in the same phase of each round, when nothing but the worker is left.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final

import uvloop
from redis import Redis

from bench.process.hired import hired_worker
from bench.process.tasks import Tasks, start_many
from bench.report import Report
from bench.server import served_by_tcp
from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace
from processor.core.settings import Settings
from processor.store.embedded import Aof

__all__ = ["measure_memory", "slope"]

RETAIN_HOURS: Final = 0.0004
VISIBILITY_SECONDS: Final = 2.0  # a quarter of it is how often a pass looks for what is due
BYTES: Final = 1.0  # that stay for a run, at most: a field of a hash, an entry of any kind takes more than ten
WARM: Final = 2  # rounds: tables and buffers grow to their size
QUIET_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.1


def measure_memory(report: Report, aof: Aof, *, quick: bool) -> None:
    """The slope over rounds is judged, in bytes a run."""
    rounds, runs, retain_hours = (2, 300, RETAIN_HOURS / 4) if quick else (12, 5_000, RETAIN_HOURS)
    settings: dict[str, Any] = {
        "retain_hours": retain_hours,
        "tombstone_hours": retain_hours,
        "visibility_seconds": VISIBILITY_SECONDS,
    }
    with (
        served_by_tcp(aof) as server,
        hired_worker(server.url, "nothing", settings=settings) as worker,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        worker.begin()
        used, peaks = runner.run(_rounds(Settings(redis_url=server.url, **settings), WARM + rounds, runs))
        worker.end()
    used = used[WARM:]
    left = slope(used) / runs
    mib = [one / (1 << 20) for one in used]
    report.row(
        f"server's memory after each of {rounds} rounds of {runs:,} runs",
        f"{left:+.2f} bytes a run",
        f"from {mib[0]:.2f} to {mib[-1]:.2f} MiB, {min(mib):.2f} to {max(mib):.2f} between; {max(peaks) / (1 << 20):.1f} under load",
        key="memory, used bytes after each round",
        figure=used,
    )
    report.judge("process.memory_left", [left], "at most", BYTES, "B/run")


def slope(values: Sequence[float]) -> float:
    """Growth from one value to the next: the median over all pairs (Theil and Sen), which one odd round does not move."""
    return statistics.median((b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(values), 2))


async def _rounds(settings: Settings, rounds: int, runs: int) -> tuple[list[int], list[int]]:
    """Bytes used after each round, and at the end of its load."""
    used, peaks = [], []
    async with Tailrace(settings=settings) as tail:
        nothing = Tasks(tail).nothing
        keys = (await tail.session()).keys
        with Redis.from_url(settings.redis_url or "") as redis:
            for _ in range(rounds):
                await start_many(nothing, runs)
                peaks.append(_used(redis))
                await _forgotten(redis, keys)
                used.append(_used(redis))
    return used, peaks


async def _forgotten(redis: Redis, keys: Keyspace) -> None:
    """Until no run, feed or index entry is there. Raises TimeoutError with what still is."""
    deadline = time.monotonic() + QUIET_SECONDS
    while left := _left(redis, keys):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {QUIET_SECONDS:g} s without load there still is: {left}")
        await asyncio.sleep(LOOK_SECONDS)


def _left(redis: Redis, keys: Keyspace) -> dict[str, int]:
    """By kind, what of runs the server still has; empty if nothing."""
    found: dict[str, int] = {}
    with redis.pipeline(transaction=False) as pipe:
        for partition in keys.partitions:
            for name in (partition.index, partition.deadlines, partition.owners, partition.delayed):
                pipe.zcard(name)
            pipe.xlen(partition.work("nothing"))
        found["entries of zsets and work streams"] = sum(pipe.execute())
    cursor: Any = redis.scan_iter(match="tr:*:run:*", count=1000)
    found["runs"] = sum(1 for _ in cursor)
    return {name: count for name, count in found.items() if count}


def _used(redis: Redis) -> int:
    """Without what its clients hold at the moment, and the AOF's buffer."""
    info: Any = redis.info("memory")
    passing = ("mem_clients_normal", "mem_clients_slaves", "mem_aof_buffer", "mem_replication_backlog")
    return int(info["used_memory"]) - sum(int(info.get(name, 0)) for name in passing)
