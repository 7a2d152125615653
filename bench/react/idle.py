"""What reactions cost that nobody asked for: token streams at full speed while ten groups are bound to facts.

The worker that has all ten groups is looked at, before and while the tokens come, and so is the log, which should get none of them.
For contrast the same with one group that asked for `message.delta`.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import uvloop
from redis import Redis

from bench.fleet import cpu_seconds
from bench.process.hired import hired
from bench.react.handlers import FACTS, Handlers
from bench.react.oracle import behind, check_handled, until_read
from bench.report import Report
from bench.server import served_by_tcp
from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace
from processor.core.settings import Settings
from processor.store.embedded import Aof

__all__ = ["measure_idle"]

TOKEN: Final = "token "
RUNS: Final = 50
BEHIND: Final = 64  # tokens of a run in flight
PERCENT: Final = 1.0  # of a core
STILL_SECONDS: Final = 0.5  # a worker that has just begun loads scripts, binds and catches up
MATCHING: Final = 1  # of FACTS, those that take the message.started of each run: "#"
GROUPS: Final = {"facts": [f"facts-{number}" for number in range(len(FACTS))], "tokens": ["tokens"]}


@dataclass(frozen=True, slots=True)
class Window:
    """Shares in per cent of a core."""

    tokens: int
    seconds: float
    idle: float  # of the worker before
    busy: float  # of the worker while tokens came
    server: float
    logged: int  # entries that the logs got


def measure_idle(report: Report, aof: Aof, *, quick: bool) -> None:
    """The worker's share beyond what it has while nothing comes is judged, and that the logs got nothing."""
    rounds, seconds = (2, 0.5) if quick else (5, 5.0)
    facts = [_window(aof, "facts", seconds) for _ in range(rounds)]
    tokens = _window(aof, "tokens", seconds)
    for name, title, windows in (
        ("facts", f"{len(FACTS)} groups bound to facts", facts),
        ("tokens", "one group bound to message.delta", [tokens]),
    ):
        rate = statistics.median(one.tokens / one.seconds for one in windows)
        report.row(
            f"{title}, {rate:,.0f} tokens/s",
            f"{statistics.median(one.busy for one in windows):.2f} % of a core",
            f"the worker's, {statistics.median(one.idle for one in windows):.2f} while nothing comes; the server's "
            f"{statistics.median(one.server for one in windows):.0f}; the log got {sum(one.logged for one in windows):,} entries",
            key=f"idle, {name}",
            figure=[[one.tokens, one.seconds, one.idle, one.busy, one.server, one.logged] for one in windows],
        )
    report.judge("react.idle_worker", [one.busy - one.idle for one in facts], "at most", PERCENT, "%")
    report.judge("react.idle_logged", [float(one.logged) for one in facts], "at most", 0)


def _window(aof: Aof, kind: str, seconds: float) -> Window:
    with (
        served_by_tcp(aof) as server,
        hired(("bench.react.working", server.url, kind)) as worker,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        Redis.from_url(server.url) as redis,
    ):
        worker.begin()
        tail = Tailrace(settings=Settings(redis_url=server.url))
        Handlers(tail, kind, 1)
        keys, runs = runner.run(_opened(tail))
        until_read(redis, keys, GROUPS[kind], worker)
        time.sleep(STILL_SECONDS)
        before, begin = cpu_seconds(worker.pid), time.perf_counter()
        time.sleep(seconds)
        idle = (cpu_seconds(worker.pid) - before) / (time.perf_counter() - begin)
        entries, before, server_before = _logged(redis, keys), cpu_seconds(worker.pid), cpu_seconds(server.pid)
        begin = time.perf_counter()
        written = runner.run(_streamed(runs, seconds))
        took = time.perf_counter() - begin
        busy, of_server = (cpu_seconds(worker.pid) - before) / took, (cpu_seconds(server.pid) - server_before) / took
        logged = _logged(redis, keys) - entries
        with contextlib.suppress(TimeoutError):
            until_read(redis, keys, GROUPS[kind], worker, seconds=seconds)
        left = behind(redis, keys, GROUPS[kind])
        runner.run(tail.close())
        handled = worker.end()["handled"]
        if kind == "facts":
            check_handled(handled, RUNS * MATCHING)
            if left:
                raise RuntimeError(f"there still are: {left}")
    return Window(written, took, idle * 100, busy * 100, of_server * 100, logged)


def _logged(redis: Redis, keys: Keyspace) -> int:
    """How many entries all logs ever got."""
    streams: list[Any] = [redis.xinfo_stream(partition.log) for partition in keys.partitions]
    return sum(int(stream["entries-added"]) for stream in streams)


async def _opened(tail: Tailrace) -> tuple[Keyspace, list[Run[Any]]]:
    """Every run has its open message: from here on there are deltas alone."""
    runs = [tail.run(f"tokens-{number:03}") for number in range(RUNS)]
    for sent in [run.write(TOKEN) for run in runs]:
        await sent
    return (await tail.session()).keys, runs


async def _streamed(runs: Sequence[Run[Any]], seconds: float) -> int:
    """How many tokens were written and accepted."""
    until = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(_stream(run, until) for run in runs)))


async def _stream(run: Run[Any], until: float) -> int:
    written = 0
    while time.perf_counter() < until:
        for _ in range(BEHIND - 1):
            run.write(TOKEN)
        await run.write(TOKEN)
        written += BEHIND
    return written
