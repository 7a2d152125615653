"""docs/testing.md: its tests pass."""

from __future__ import annotations

from pathlib import Path

from tests.support.pages import check_tests, listings


def test_its_tests_pass(tmp_path: Path) -> None:
    """The page's listing is a file of tests that pass without a server, and no time is lost on backoff."""
    (text,) = listings("docs/testing.md")
    (tmp_path / "test_shop.py").write_text(text)
    assert "4 passed" in check_tests(tmp_path, "test_shop.py", seconds=100)
