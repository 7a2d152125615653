"""What a worker does: no-ops drained against a floor and other libraries, latency, renewals, the server's memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.process.drain import measure_drain
from bench.process.latency import measure_latency
from bench.process.memory import measure_memory
from bench.process.renewals import measure_renewals
from bench.report import Report
from processor.store.embedded import Aof

__all__ = ["PARTS", "bench"]

PARTS = ("drain", "latency", "renewals", "memory")


def bench(*, aof: Aof, quick: bool, only: str | None, peers: Sequence[str], cache: Path, jemalloc: bool) -> Report:
    """only: one of PARTS. peers: other libraries to measure as well. cache: where their environments are or come.

    jemalloc: in the servers of the drain.
    """
    report = Report.begin("process", aof=aof, loop="uvloop", **({"server": "with jemalloc"} if jemalloc else {}))
    parts = [only] if only else PARTS
    if "drain" in parts:
        measure_drain(report, aof, quick=quick, peers=peers, cache=cache, jemalloc=jemalloc)
    if "latency" in parts:
        measure_latency(report, aof, quick=quick)
    if "renewals" in parts:
        measure_renewals(report, aof, quick=quick)
    if "memory" in parts:
        measure_memory(report, aof, quick=quick)
    return report
