"""From `emit` in a producer's process to the first line of the handler in a worker's, at a thousand a second."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Final

import uvloop
from redis import Redis

from bench.process.hired import hired
from bench.react.events import ASKED, even_runs
from bench.react.handlers import GROUP, Handlers
from bench.react.oracle import check_handled, until_read
from bench.report import Report
from bench.server import served_by_tcp
from gateway.collector import calm_collector
from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace
from processor.core.settings import Settings
from processor.store.embedded import Aof

__all__ = ["measure_latency"]

RATE: Final = 1_000.0
RUNS: Final = 100
P99_MS: Final = 3.0
WARM_SECONDS: Final = 0.5  # runs and connections are made, the server's scripts loaded


def measure_latency(report: Report, aof: Aof, *, quick: bool) -> None:
    """Rounds of a worker of its own each; nothing else runs."""
    rounds, seconds = (2, 0.5) if quick else (5, 4.0)
    p50s, p99s, worst, behind_ms = [], [], 0.0, 0.0
    for _ in range(rounds):
        took, behind = _round(aof, seconds)
        p50s.append(statistics.median(took) / 1000)
        p99s.append(statistics.quantiles(took, n=100)[98] / 1000)
        worst, behind_ms = max(worst, max(took) / 1000), max(behind_ms, behind)
    report.row(
        f"emit to the handler's first line, {RATE:,.0f}/s into {RUNS} runs",
        f"p50 {statistics.median(p50s):.2f} ms",
        f"p99 {statistics.median(p99s):.2f} ({min(p99s):.2f} to {max(p99s):.2f}), at most {worst:.1f} ms; the producer was "
        f"{behind_ms:.1f} ms behind its pace at most",
        key="emit to first line, ms",
        figure={"p50": p50s, "p99": p99s, "max": worst},
    )
    report.judge("react.emit_p99", p99s, "at most", P99_MS, "ms")


def _round(aof: Aof, seconds: float) -> tuple[Sequence[float], float]:
    """Microseconds of each event behind the warm part, and how far the producer was behind its pace, in ms."""
    with (
        served_by_tcp(aof) as server,
        hired(("bench.react.working", server.url, "first_line")) as worker,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        worker.begin()
        keys, behind = runner.run(_emitted(server.url, WARM_SECONDS + seconds))
        with Redis.from_url(server.url) as redis:
            until_read(redis, keys, [GROUP], worker)
        latencies: list[float] = worker.end()["latencies_us"]
    expected = int((WARM_SECONDS + seconds) * RATE)
    check_handled(len(latencies), expected)
    return latencies[int(WARM_SECONDS * RATE) :], behind


async def _emitted(url: str, seconds: float) -> tuple[Keyspace, float]:
    """At an even pace, none waiting for another."""
    tail = Tailrace(settings=Settings(redis_url=url))
    Handlers(tail, "first_line", 1)  # bound as it opens
    async with tail:
        keys = (await tail.session()).keys
        runs = [tail.run(run) for run in even_runs(keys, RUNS)]
        calm_collector()  # a full pass of this producer's would be a tenth of a second of nobody's latency
        behind = 0.0
        sent = []
        begin = time.perf_counter()
        for number in range(int(seconds * RATE)):
            due = begin + number / RATE
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            behind = max(behind, time.perf_counter() - due)
            sent.append(runs[number % RUNS].emit(ASKED, {"at": time.perf_counter_ns()}))
        for one in sent:
            await one
        return keys, behind * 1000
