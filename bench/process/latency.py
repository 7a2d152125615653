"""From `start` in a producer's process to the function's first line in a worker's, at a thousand a second."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Final

import uvloop
from redis import Redis

from bench.process.hired import hired_worker
from bench.process.oracle import until_drained
from bench.process.tasks import Tasks
from bench.report import Report
from bench.server import served_by_tcp
from gateway.collector import calm_collector
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.store.embedded import Aof

__all__ = ["measure_latency"]

RATE: Final = 1_000.0
P99_MS: Final = 3.0
WARM_SECONDS: Final = 0.5  # groups are made, the server's scripts loaded


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
        f"start to the function's first line, {RATE:,.0f}/s",
        f"p50 {statistics.median(p50s):.2f} ms",
        f"p99 {statistics.median(p99s):.2f}, at most {worst:.1f} ms; the producer was {behind_ms:.1f} ms behind its pace at most",
        key="start to first line, ms",
        figure={"p50": p50s, "p99": p99s, "max": worst},
    )
    report.judge("process.start_p99", p99s, "at most", P99_MS, "ms")


def _round(aof: Aof, seconds: float) -> tuple[Sequence[float], float]:
    """Microseconds of each start behind the warm part, and how far the producer was behind its pace, in ms."""
    with (
        served_by_tcp(aof) as server,
        hired_worker(server.url, "first_line") as worker,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        worker.begin()
        behind = runner.run(_started(server.url, WARM_SECONDS + seconds))
        latencies: list[float] = worker.end()["latencies_us"]
    expected = int((WARM_SECONDS + seconds) * RATE)
    if len(latencies) != expected:
        raise RuntimeError(f"{len(latencies)} of {expected} runs were executed")
    return latencies[int(WARM_SECONDS * RATE) :], behind


async def _started(url: str, seconds: float) -> float:
    """Starts at an even pace, none waiting for another; returns once all were executed."""
    async with Tailrace(settings=Settings(redis_url=url)) as tail:
        first_line = Tasks(tail).first_line
        calm_collector()  # a full pass of this producer's would be a tenth of a second of nobody's latency
        behind = 0.0
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as starting:
            for number in range(int(seconds * RATE)):
                due = begin + number / RATE
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                behind = max(behind, time.perf_counter() - due)
                starting.create_task(first_line.start(time.perf_counter_ns()))
        with Redis.from_url(url) as redis:
            await until_drained(redis, (await tail.session()).keys, "first_line")
    return behind * 1000
