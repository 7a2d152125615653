"""Names of runs and of rotated files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core.names import check_run
from processor.ship.names import absolute, age_key, is_rotated, own_host, run_of
from processor.ship.shipper import found


@pytest.mark.parametrize(
    "name",
    [
        "app.log.1",
        "app.log.12",
        "app.log-20261124",
        "app.log.2026-11-24-16",
        "app.log.old",
        "app.log~",
        "app-20261124.log",
        "app.1.log",
        "app.2026-11-24_12-00-00_123456.log",
        "app.log.2026-11-24T16:00",
    ],
)
def test_rotated_names(name: str) -> None:
    """What logrotate, log4j, Python, loguru and people call a rotated file is taken for one."""
    assert is_rotated(name, "app.log")


@pytest.mark.parametrize(
    "name", ["app.log", "app.log.1.gz", "application.log", "app-error.log", "app.log.swp", "b.log.1"]
)
def test_other_names(name: str) -> None:
    """Compressed and other files are none."""
    assert not is_rotated(name, "app.log")


def test_oldest_first() -> None:
    """Numbered files go by their number, since they may be as young as each other; others by when they were written."""
    numbered = sorted(["a.1", "a.10", "a.2"], key=lambda name: age_key(name, "a", 5, numbered=True))
    assert numbered == ["a.10", "a.2", "a.1"]
    times = {"a.1": 3, "a.old": 1}
    assert sorted(times, key=lambda name: age_key(name, "a", times[name], numbered=False)) == ["a.old", "a.1"]


def test_runs_are_named_by_host_and_path() -> None:
    """The name can be told from the path; what a run ID cannot have is replaced, with a hash that keeps paths apart."""
    assert run_of("web-1", "/var/log/nginx/access.log") == "web-1:var.log.nginx.access.log"
    assert run_of("web-1", "/a b") != run_of("web-1", "/a-b")
    long = "/" + "x" * 100
    assert run_of("web-1", long + "/a.log").endswith("a.log")
    assert run_of("web-1", long + "y") != run_of("web-1", long + "/y")


@given(st.text(max_size=60), st.text(min_size=1, max_size=120))
def test_any_path_has_a_legal_run(host: str, path: str) -> None:
    """Whatever host and path are called."""
    check_run(run_of(own_host(host), "/" + path))


def test_what_patterns_find(tmp_path: Path) -> None:
    """Names as they are, present or not; of a pattern what is there, without compressed and rotated files."""
    for name in ("a.log", "a.log.1", "a.log.2.gz", "b.log", "c.log.1"):
        (tmp_path / name).touch()
    (tmp_path / "d.log").mkdir()
    paths = found([str(tmp_path / "none"), str(tmp_path / "*.log*"), str(tmp_path / "a.log")])
    assert [Path(path).name for path in paths] == ["none", "a.log", "b.log", "c.log.1"]
    assert paths[1] == absolute(str(tmp_path / "a.log"))
