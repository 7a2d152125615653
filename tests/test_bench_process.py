"""The bench of workers judges what it should: its arguments, and the oracle that a drain must pass before its time counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import arguments
from bench.process.memory import slope
from bench.process.oracle import WHOLE, Drained, Entry, faults, seconds
from bench.process.peers import FOLDER, PEERS
from bench.process.profile import shares

GONE = {"entries in work streams": 0, "pending entries": 0}


def feed(*types: str, begin: int = 1, ms: int = 1000) -> list[Entry]:
    """Ten milliseconds apart."""
    return [Entry(begin + n, ms + 10 * n, type) for n, type in enumerate(types)]


def test_whole_feeds_pass() -> None:
    """Runs that were queued, started and finished once, with nothing left, have no faults."""
    assert faults({"a": feed(*WHOLE), "b": feed(*WHOLE)}, GONE) == []


@pytest.mark.parametrize(
    "bad",
    [
        [],
        feed("run.queued"),
        feed("run.queued", "run.started"),
        feed("run.queued", "run.started", "run.started", "run.finished"),
        feed("run.queued", "run.started", "run.finished", "run.finished"),
        feed("run.queued", "run.started", "run.failed"),
        feed(*WHOLE, begin=2),
    ],
)
def test_a_feed_that_is_not_whole_is_told(bad: list[Entry]) -> None:
    """A run that was lost, executed twice, ended twice or otherwise, or whose feed has a hole, is named."""
    (fault,) = faults({"good": feed(*WHOLE), "bad": bad}, GONE)
    assert fault.startswith("1 of 2 feeds are not whole (bad: ")


def test_what_stays_behind_is_told() -> None:
    """Whole feeds do not pass while an entry is pending."""
    assert faults({"a": feed(*WHOLE)}, {**GONE, "pending entries": 3}) == ["3 pending entries"]


def test_the_feeds_are_the_clock() -> None:
    """A drain takes from the first start to the last end, however long its runs were queued."""
    feeds = {"a": feed(*WHOLE, ms=1000), "b": feed(*WHOLE, ms=2000)}
    assert seconds(feeds) == (2020 - 1010) / 1000
    assert Drained(2, seconds(feeds), 0.0001).cpu_us == 50


def test_one_odd_round_does_not_move_the_slope() -> None:
    """Growth is the median over all pairs of rounds."""
    assert slope([100, 102, 104, 106]) == 2
    assert slope([100, 100, 9000, 100, 100]) == 0


def test_arguments_of_process() -> None:
    """Names of peers are taken in the given order and once; all are all; a folder may be given for them."""
    assert arguments(["process"]).peers == ()
    assert arguments(["process", "--peers", "all"]).peers == PEERS
    options = arguments(["process", "--only", "drain", "--peers", "saq, arq,saq", "--cache", "x", "--aof", "off"])
    assert (options.only, options.peers, options.cache, options.aof) == ("drain", ("saq", "arq"), Path("x"), "off")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["process", "--only", "fanout"], "process has no part 'fanout'; it has: drain, latency, renewals, memory"),
        (["append", "--only", "drain"], "append has no part 'drain'; it has: none"),
        (["process", "--peers", "rq"], "--peers rq: give none, all or some of taskiq, "),
        (["feed", "--peers", "all"], "--peers is for process and react; "),
    ],
)
def test_arguments_that_do_not_fit(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a bench does not have is refused, with what there is."""
    with pytest.raises(SystemExit, match="2"):
        arguments(given)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", PEERS)
def test_peers_are_pinned(name: str) -> None:
    """Each has a program, and a list that pins every package and names no index."""
    assert (FOLDER / f"{name}.py").exists()
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    assert lines
    assert all("==" in line and "://" not in line and not line.startswith("-") for line in lines)


def test_shares_of_a_profile() -> None:
    """A function counts once a stack, however often it stands there, and lines of one function are one."""
    alone, whole, total = shares(["run (a.py:1);step (a.py:5);step (a.py:6) 3", "run (a.py:2) 1"])
    assert total == 4
    assert alone == {"step (a.py)": 3, "run (a.py)": 1}
    assert whole == {"run (a.py)": 4, "step (a.py)": 3}
