"""What a frame costs, and how many a second go out, against a C program that composes the same frames from the same messages."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.fleet import Fleet, Window
from bench.report import Report

__all__ = ["Bench", "measure_cpu", "measure_sustained", "skip_fanout"]

CPU: Final = {"cpu_one_run_of_c": 1.5, "cpu_one_run_by_send_of_c": 2.2, "cpu_many_runs_busy_of_c": 1.2}  # at most
SUSTAINED: Final = {"sustained_one_run_of_c": 3.0, "sustained_many_runs_of_c": 1.5}  # at least
LOW: Final = 10_000.0  # frames a second
BUSY: Final = 100_000.0
LADDER: Final = (
    *(30_000, 45_000, 60_000, 80_000, 100_000, 130_000, 170_000, 220_000, 290_000),
    *(380_000, 490_000, 640_000, 830_000, 1_080_000, 1_400_000),
)
PASSES: Final = (
    2  # each writer climbs twice, in turn, and the better time counts: neighbours on the machine come and go
)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where fleets come from."""

    url: str
    programs: dict[str, Path]
    folder: Path
    quick: bool

    @property
    def subscribers(self) -> int:
        return 50 if self.quick else 1000

    def fleet(self, kind: str, *, runs: int, whole: bool) -> Fleet:
        return Fleet(kind, self.url, self.programs, self.folder, runs=runs, subscribers=self.subscribers, whole=whole)


def measure_cpu(report: Report, bench: Bench) -> None:
    """CPU a frame, one writer after the other in each round."""
    rounds, seconds = (2, 0.3) if bench.quick else (5, 3.0)
    low, busy = (500.0, 1000.0) if bench.quick else (LOW, BUSY)
    one = _interleaved(bench, ("c", "transport", "send", "recipe"), 1, low, rounds, seconds)
    _rows(report, f"{bench.subscribers} of one run", one)
    report.judge("feed.cpu_one_run_of_c", _ratios(one, "transport"), "at most", CPU["cpu_one_run_of_c"])
    report.judge("feed.cpu_one_run_by_send_of_c", _ratios(one, "send"), "at most", CPU["cpu_one_run_by_send_of_c"])
    many = _interleaved(bench, ("c", "transport", "send"), bench.subscribers, low, rounds, seconds)
    _rows(report, f"{bench.subscribers} runs", many)
    many = _interleaved(bench, ("c", "transport"), bench.subscribers, busy, rounds, seconds)
    _rows(report, f"{bench.subscribers} runs", many)
    report.judge("feed.cpu_many_runs_busy_of_c", _ratios(many, "transport"), "at most", CPU["cpu_many_runs_busy_of_c"])


def _interleaved(
    bench: Bench, kinds: Sequence[str], runs: int, rate: float, rounds: int, seconds: float
) -> dict[str, list[Window]]:
    with ExitStack() as stack:
        fleets = {kind: stack.enter_context(bench.fleet(kind, runs=runs, whole=True)) for kind in kinds}
        for fleet in fleets.values():
            fleet.publish(rate, seconds / 4)  # warm
        windows: dict[str, list[Window]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, fleet in fleets.items():
                windows[kind].append(fleet.publish(rate, seconds))
    return windows


def _ratios(windows: dict[str, list[Window]], kind: str) -> list[float]:
    return [w.cpu_us / c.cpu_us for w, c in zip(windows[kind], windows["c"], strict=True)]


def _rows(report: Report, what: str, windows: dict[str, list[Window]]) -> None:
    for kind, those in windows.items():
        cpu = statistics.median(w.cpu_us for w in those)
        median = those[len(those) // 2]
        name = f"{what} at {median.rate:,.0f} frames/s, {kind}"
        report.row(name, f"{cpu:.2f} us a frame", str(median), key=name, figure=[w.cpu_us for w in those])


def measure_sustained(report: Report, bench: Bench) -> None:
    """The highest rate at which more than 99.9 % come and p99 is below 250 ms."""
    for name, runs in (("sustained_one_run_of_c", 1), ("sustained_many_runs_of_c", bench.subscribers)):
        best = _climbed_in_turn(bench, ("c", "transport", "send"), runs)
        for kind, window in best.items():
            what = f"sustained, {bench.subscribers} subscribers of {runs} run{'s' if runs > 1 else ''}, {kind}"
            rate = window.rate if window else 0.0
            report.row(what, f"{rate:,.0f} frames/s", str(window or "not even the lowest rate"), key=what, figure=rate)
        c, transport = best["c"], best["transport"]
        if c is None:
            why = "the C writer sustains no rate: another machine is needed"
            report.skip(f"feed.{name}", why, "at least", SUSTAINED[name])
        else:
            times = (transport.rate if transport else 0.0) / c.rate
            report.judge(f"feed.{name}", [times], "at least", SUSTAINED[name])


def _climbed_in_turn(bench: Bench, kinds: Sequence[str], runs: int) -> dict[str, Window | None]:
    ladder = (500, 1000) if bench.quick else LADDER
    best: dict[str, Window | None] = dict.fromkeys(kinds)
    for _ in range(1 if bench.quick else PASSES):
        for kind in kinds:
            known = best[kind]
            above = [rate for rate in ladder if known is None or rate > known.rate * 1.05]
            best[kind] = _climbed(bench, kind, runs, above) or known
    return best


def _climbed(bench: Bench, kind: str, runs: int, ladder: Sequence[int]) -> Window | None:
    """Rates up to the first that fails twice; a fresh fleet after each failure, as a run that lost events is of no use."""
    best: Window | None = None
    seconds = 0.3 if bench.quick else 2.0
    at, failures = 0, 0
    while at < len(ladder) and failures < 2:
        with bench.fleet(kind, runs=runs, whole=runs == 1) as fleet:
            fleet.publish(min(ladder[0], LADDER[0]), seconds / 4)  # warm
            while at < len(ladder):
                window = fleet.publish(ladder[at], seconds)
                if not window.sustained:
                    failures += 1
                    break
                best, failures = window, 0
                at += 1
    return best


def skip_fanout(report: Report, parts: Sequence[str], why: str) -> None:
    """Shows the targets that cannot be judged."""
    if "cpu" in parts:
        for name, limit in CPU.items():
            report.skip(f"feed.{name}", why, "at most", limit)
    if "sustained" in parts:
        for name, limit in SUSTAINED.items():
            report.skip(f"feed.{name}", why, "at least", limit)
