"""What reactions cost: events drained against a floor, batches against FastStream, latency, growth, and what nobody asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.react.batch import PEER, measure_batch
from bench.react.drain import measure_drain
from bench.react.growth import measure_growth
from bench.react.idle import measure_idle
from bench.react.latency import measure_latency
from bench.report import Report
from processor.store.embedded import Aof

__all__ = ["PARTS", "PEER", "bench"]

PARTS = ("drain", "batch", "latency", "growth", "idle")


def bench(*, aof: Aof, quick: bool, only: str | None, peers: Sequence[str], cache: Path) -> Report:
    """only: one of PARTS. peers: libraries that `batch` is measured against. cache: where their environments are or come."""
    report = Report.begin("react", aof=aof, loop="uvloop")
    parts = [only] if only else PARTS
    if "drain" in parts:
        measure_drain(report, aof, quick=quick)
    if "batch" in parts:
        measure_batch(report, aof, quick=quick, peers=peers, cache=cache)
    if "latency" in parts:
        measure_latency(report, aof, quick=quick)
    if "growth" in parts:
        measure_growth(report, aof, quick=quick)
    if "idle" in parts:
        measure_idle(report, aof, quick=quick)
    return report
