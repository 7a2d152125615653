"""The benches run, and report in one shape. What they measure in a second says nothing, so no figure is looked at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.native import compiler
from bench.report import Report, Target

ROOT = Path(__file__).parents[1]
APPEND = {"50_runs_of_floor", "one_run_of_floor", "write_call", "cpu_an_event_50_runs", "cpu_an_event_one_run"}
FEED = {
    *("latency_p50_of_spublish", "memory_mounted", "memory_gateway", "memory_route"),
    *("cpu_one_run_of_c", "cpu_one_run_by_send_of_c", "cpu_many_runs_busy_of_c"),
    *("sustained_one_run_of_c", "sustained_many_runs_of_c"),
}
PROCESS = {"of_floor", "of_fastest_peer", "python_cpu", "start_p99", "renewals", "memory_left"}
SHIP = {"lines_a_second", "of_floor", "of_one_xadd_a_line"}
LINE = re.compile(r"(\w+)\.(\w+) figure=(\S+) (?:rounds=\S+ |\(.*\) )?target=[<>]=\S+ (met|missed|skipped)")


def run(tmp_path: Path, name: str, *, path: str | None = None) -> tuple[int, list[str], dict[str, object]]:
    """Exit code, last lines and JSON of a quick bench."""
    environ = {**os.environ, "PATH": path} if path is not None else None
    command = [sys.executable, "-m", "bench", name, "--quick", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    lines = [line for line in done.stdout.splitlines() if line.startswith(f"{name}.")]
    assert done.stdout.startswith(f"bench {name}: ")
    assert "aof everysec" in done.stdout.splitlines()[0]
    return done.returncode, lines, figures


def check(name: str, targets: set[str], code: int, lines: list[str], figures: dict[str, object]) -> None:
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    told = {match[2]: match[4] for match in found if match}
    assert set(told) == targets
    assert code == (1 if "missed" in told.values() else 0)
    assert figures["bench"] == name
    stored = figures["targets"]
    assert isinstance(stored, list)
    assert {target["name"]: target["verdict"] for target in stored} == {
        f"{name}.{target}": verdict for target, verdict in told.items()
    }


def test_append_reports_its_targets(tmp_path: Path) -> None:
    """`python -m bench append` judges five targets, and its exit code is theirs."""
    check("append", APPEND, *run(tmp_path, "append"))


@pytest.mark.timeout(110)
def test_feed_reports_its_targets(tmp_path: Path) -> None:
    """`python -m bench feed` judges nine targets, and its exit code is theirs."""
    check("feed", FEED, *run(tmp_path, "feed"))


def test_process_reports_its_targets(tmp_path: Path) -> None:
    """`python -m bench process` judges six targets, and shows that of the other libraries as skipped unless asked for them."""
    code, lines, figures = run(tmp_path, "process")
    check("process", PROCESS, code, lines, figures)
    assert [line.split(" ")[0] for line in lines if line.endswith(" skipped")] == ["process.of_fastest_peer"]


def test_ship_reports_its_targets(tmp_path: Path) -> None:
    """`python -m bench ship` judges three targets, and its exit code is theirs."""
    check("ship", SHIP, *run(tmp_path, "ship"))


@pytest.mark.skipif(compiler() is None, reason="shown by the test above")
def test_without_a_compiler_the_rest_is_measured(tmp_path: Path) -> None:
    """Without a C compiler what needs it is shown as skipped."""
    code, lines, figures = run(tmp_path, "feed", path=str(tmp_path))
    check("feed", FEED, code, lines, figures)
    assert sum(line.endswith(" skipped") for line in lines) == 5


@pytest.mark.parametrize(
    ("bound", "value", "verdict"), [("at least", 0.8, "met"), ("at least", 0.79, "missed"), ("at most", 0.8, "met")]
)
def test_a_target_is_met_or_missed(bound: str, value: float, verdict: str) -> None:
    """A figure at its limit meets it."""
    target = Target("x.y", value, bound, 0.8)  # type: ignore[arg-type]
    assert target.verdict == verdict
    assert target.line().endswith(verdict)


def test_a_median_of_rounds_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """One round that failed decides nothing; the report's exit code is 1 only for a missed median."""
    report = Report.begin("x", aof="off")
    report.judge("x.y", [0.1, 0.9, 1.0], "at least", 0.8)
    report.skip("x.z", "no compiler", "at most", 2)
    assert report.finish(None) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "x.y figure=0.9 rounds=0.1..1 target=>=0.8 met",
        "x.z figure=- (no compiler) target=<=2 skipped",
    ]
