"""When a change of files counts as one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from processor.cli import reload
from processor.cli.reload import changed, stamp


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "LOOK_SECONDS", 0)


def test_stamps(tmp_path: Path) -> None:
    """A stamp changes with the file, and is empty where there is none."""
    path = tmp_path / "a.py"
    assert stamp(path) == ""
    path.write_text("1")
    first = stamp(path)
    assert stamp(path) == first != ""
    path.write_text("12")
    assert stamp(path) != first


async def test_a_change_that_goes_on_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout writes file after file, an editor one several times: it is told once two looks in a row are equal."""
    one, two = Path("one.py"), Path("two.py")
    seen = iter(["1 1", "1 1", "1 2", "2 2", "2 3", "3 3", "3 3", "unread"])
    stamps: dict[Path, str] = {}

    def look(path: Path) -> str:
        if path == one:
            stamps[one], stamps[two] = next(seen).split()
        return stamps[path]

    monkeypatch.setattr(reload, "stamp", look)
    assert await changed({one: "1", two: "1"}) == one
    assert list(seen) == ["unread"]


async def test_files_that_come_later_count(tmp_path: Path) -> None:
    """What is imported while it waits is watched from then on; a file that goes has changed."""
    path = tmp_path / "later.py"
    path.write_text("1")
    files: dict[Path, str] = {}
    waiting = asyncio.create_task(changed(files))
    await asyncio.sleep(0)
    files[path] = stamp(path)
    path.unlink()
    async with asyncio.timeout(5):
        assert await waiting == path
