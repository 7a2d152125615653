"""The protocol's models, run short: each row's verdict is the recorded one (results.txt tells the traces)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROW = re.compile(
    r"^(?P<name>\S.{0,200}?) +(?P<verdict>HOLDS|FAILS|no counterexample within the bound) +(?P<states>\d+) states", re.M
)
SHORT = ("producer", "inflight", "owners", "splice", "backlog", "relay", "inlet", "groups")
LONG = ("ordered", "worker", "executions")
BOUND = 120_000  # states a row in the short run; every recorded counterexample lies below it

_DRIVER = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
import mc
limit, secs = int(sys.argv[3]), 100
plain = mc.check
def bounded(*args, **kwargs):
    kwargs["limit"] = min(limit, kwargs.get("limit", limit))
    return plain(*args, **kwargs)
mc.check = bounded
runpy.run_path(sys.argv[2], run_name="__main__")
"""


def rows(text: str) -> dict[str, tuple[str, int]]:
    return {row["name"].strip(): (row["verdict"], int(row["states"])) for row in ROW.finditer(text)}


def recorded(model: str) -> dict[str, tuple[str, int]]:
    text = (FOLDER / "results.txt").read_text()
    section = re.search(rf"^== {model}\n(.*?)(?=^== |\Z)", text, re.M | re.S)
    assert section, f"results.txt has no section {model}"
    return rows(section[1])


def outcome(model: str, limit: int) -> dict[str, tuple[str, int]]:
    """Name of each row → verdict, states."""
    command = [sys.executable, "-c", _DRIVER, str(FOLDER), str(FOLDER / f"{model}.py"), str(limit)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return rows(ended.stdout)


@pytest.mark.parametrize("model", SHORT)
def test_verdicts_within_the_bound(model: str) -> None:
    """What was recorded as holding has no counterexample, and each recorded counterexample is found again."""
    expected, found = recorded(model), outcome(model, BOUND)
    assert found.keys() == expected.keys()
    for name, (verdict, states) in expected.items():
        if verdict == "HOLDS" and states > BOUND:
            assert found[name][0] in ("HOLDS", "no counterexample within the bound"), name
        elif verdict == "HOLDS":
            assert found[name] == (verdict, states), name
        else:
            assert found[name][0] == verdict, name  # how many states come before it depends on the hash seed


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", SHORT + LONG)
def test_verdicts_exhaustively(model: str) -> None:
    """All rows of all models have the recorded verdict, those that hold also the recorded number of states."""
    expected, found = recorded(model), outcome(model, 1_500_000)
    assert found.keys() == expected.keys()
    for name, (verdict, states) in expected.items():
        assert found[name] == (verdict, states if verdict == "HOLDS" else found[name][1]), name
