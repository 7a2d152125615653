"""Does an event cost more with much behind it? A drain of the same few events with ever more history, and among ever more runs.

History: events of earlier, in the feeds of the runs that are written to and in the log, which a group that nobody works for holds.
The measured group begins behind it. Runs: so many are there, and the events go to some of them, evenly, `BLOCK` of a run at once, so
that a read meets as many runs however many there are: what a batch costs that touches more runs is `drain`'s to tell.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import signal
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import uvloop
from redis import Redis

from bench.fleet import cpu_seconds
from bench.process.hired import hired
from bench.process.oracle import Drained
from bench.react.events import append_facts, even_runs, in_blocks
from bench.react.handlers import GROUP, Handlers
from bench.react.oracle import check_handled, until_read
from bench.report import Report
from bench.server import served_by_tcp
from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace
from processor.core.settings import Settings
from processor.store.embedded import Aof

__all__ = ["measure_growth", "tenfold"]

KEPT: Final = "history.kept"
BLOCK: Final = 25
SETTINGS: Final[dict[str, Any]] = {"log_limit": 1_000_000}  # the history stays whole
BIND_SECONDS: Final = 20.0
BEGUN_SECONDS: Final = 0.3  # scripts are loaded, reads have begun
LOOK_SECONDS: Final = 0.05
PERCENT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Point:
    """What is there before the measured events come."""

    history: int
    runs: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured at each point in a round."""

    events: int
    rounds: int
    histories: Sequence[Point]
    runs: Sequence[Point]


HISTORIES: Final = tuple(Point(history, 1_000) for history in (1_000, 10_000, 100_000, 1_000_000))
RUNS: Final = tuple(Point(runs, runs) for runs in (10, 100, 1_000, 10_000))
FULL: Final = Sizes(20_000, 3, HISTORIES, RUNS)
QUICK: Final = Sizes(800, 2, tuple(Point(history, 100) for history in (100, 1_000)), RUNS[:2])


def measure_growth(report: Report, aof: Aof, *, quick: bool) -> None:
    """The slopes over the decades are judged, each the median of its rounds'."""
    sizes = QUICK if quick else FULL
    drained: dict[Point, list[Drained]] = {point: [] for point in (*sizes.histories, *sizes.runs)}
    for number in range(sizes.rounds):
        for point in list(drained) if number % 2 == 0 else reversed(list(drained)):
            drained[point].append(_drain(aof, point, sizes.events))
    for point, rounds in drained.items():
        cpu, wall, server = (statistics.median(costs) for costs in _costs(rounds))
        report.row(
            f"{point.history:,} events before, {point.runs:,} runs",
            f"{wall:.2f} us",
            f"an event; {cpu:.2f} us of the worker's CPU, {server:.2f} of the server's",
            key=f"growth, {point.history} events, {point.runs} runs",
            figure=dict(zip(("cpu_us", "wall_us", "server_us"), _costs(rounds), strict=True)),
        )
    for name, points in (("history", sizes.histories), ("runs", sizes.runs)):
        _judge(report, name, [point.history if name == "history" else point.runs for point in points], points, drained)


def _judge(
    report: Report,
    name: str,
    sizes: Sequence[int],
    points: Sequence[Point],
    drained: dict[Point, list[Drained]],
) -> None:
    for which, what in enumerate(("cpu", "wall", "server")):
        rounds = zip(*(_costs(drained[point])[which] for point in points), strict=True)
        slopes = [tenfold(sizes, costs) for costs in rounds]
        report.judge(f"react.growth_{name}_{what}", slopes, "at most", PERCENT, "%")


def tenfold(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Per cent that the cost grows with each tenfold: the median slope over all pairs, against the median cost."""
    at = [math.log10(size) for size in sizes]
    slopes = [(costs[j] - costs[i]) / (at[j] - at[i]) for i, j in itertools.combinations(range(len(at)), 2)]
    return statistics.median(slopes) / statistics.median(costs) * 100


def _costs(rounds: Sequence[Drained]) -> tuple[list[float], list[float], list[float]]:
    """Microseconds an event of each round: the worker's CPU, the wall, the server's CPU."""
    walls = [1e6 / one.per_second for one in rounds]
    return [one.cpu_us for one in rounds], walls, [one.server_us for one in rounds]


def _drain(aof: Aof, point: Point, events: int) -> Drained:
    """The worker has begun and stands still while the events come, so that its own beginning costs them nothing."""
    with served_by_tcp(aof) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        keys, runs = runner.run(_prepared(server.url, point))
        command = ("bench.react.working", server.url, "late", "--settings", json.dumps(SETTINGS))
        with hired(command) as worker, Redis.from_url(server.url) as redis:
            worker.begin()
            _until_bound(redis, keys)
            os.kill(worker.pid, signal.SIGSTOP)
            asked = list(in_blocks(runs, events, BLOCK))
            runner.run(_asked(server.url, asked))
            cpu, server_cpu = cpu_seconds(worker.pid), cpu_seconds(server.pid)
            os.kill(worker.pid, signal.SIGCONT)
            until_read(redis, keys, [GROUP], worker)
            cpu, server_cpu = cpu_seconds(worker.pid) - cpu, cpu_seconds(server.pid) - server_cpu
            told = worker.end()
            check_handled(told["handled"], events)
            ended = _last_output(redis, keys, dict.fromkeys(asked))
    return Drained(events, ended - told["began"], cpu, server_cpu)


async def _prepared(url: str, point: Point) -> tuple[Keyspace, list[str]]:
    """Every run has an event, and the log is held."""
    tail = Tailrace(settings=Settings(redis_url=url, **SETTINGS))
    Handlers(tail, "sleeper", 1)  # bound as it opens
    async with tail:
        keys = (await tail.session()).keys
        runs = even_runs(keys, point.runs)
        await append_facts(tail, itertools.islice(itertools.cycle(runs), max(point.history, point.runs)), KEPT)
        return keys, runs


async def _asked(url: str, runs: Sequence[str]) -> None:
    async with Tailrace(settings=Settings(redis_url=url, **SETTINGS)) as tail:
        await append_facts(tail, runs)


def _until_bound(redis: Redis, keys: Keyspace) -> None:
    """Raises TimeoutError if a partition has no such group."""
    deadline = time.monotonic() + BIND_SECONDS
    while missing := [partition.log for partition in keys.partitions if not _has_group(redis, partition.log)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {BIND_SECONDS:g} s group {GROUP} is not at {', '.join(missing)}")
        time.sleep(LOOK_SECONDS)
    time.sleep(BEGUN_SECONDS)


def _has_group(redis: Redis, log: str) -> bool:
    groups: Any = redis.xinfo_groups(log)
    return any(group["name"] == GROUP.encode() and group["consumers"] for group in groups)


def _last_output(redis: Redis, keys: Keyspace, runs: Iterable[str]) -> float:
    """Unix time, by the feeds' last entries."""
    with redis.pipeline(transaction=False) as pipe:
        for run in runs:
            pipe.xrevrange(keys.of(run).feed(run), count=1)
        last: list[Any] = pipe.execute()
    return max(int(entries[0][0].partition(b"-")[2]) for entries in last) / 1000
