"""From a producer's call to a subscriber's socket: latency, what a frame and a connection cost, and how much goes through."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.fanout import Bench, measure_cpu, measure_sustained, skip_fanout
from bench.latency import measure_latency
from bench.memory import measure_memory
from bench.native import build, compiler
from bench.report import Report
from bench.server import running_server
from processor.store.embedded import Aof

__all__ = ["PARTS", "bench"]

PARTS = ("latency", "memory", "cpu", "sustained")


def bench(*, aof: Aof, quick: bool, only: str | None = None) -> Report:
    """only: one of PARTS."""
    report = Report.begin("feed", aof=aof, loop="uvloop")
    parts = [only] if only else PARTS
    with running_server(aof) as url, tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        if "latency" in parts:
            measure_latency(report, url, quick=quick)
        if "memory" in parts:
            measure_memory(report, url, quick=quick)
        if compiler() is None:
            skip_fanout(report, parts, "no C compiler")
        else:
            programs = build(("writer", "load", "publisher"), folder)
            fleets = Bench(url, programs, folder, quick)
            if "cpu" in parts:
                measure_cpu(report, fleets)
            if "sustained" in parts:
                measure_sustained(report, fleets)
    return report
