"""docs/workers.md: its program is typed, runs, and does what the page says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from processor.testing import sandbox
from tests.support.pages import as_module, check_types, program_of
from tests.support.program import ROOT

PAGE = (ROOT / "docs/workers.md").read_text()
PROGRAM = program_of("docs/workers.md")


@pytest.fixture(scope="module")
def shop() -> Iterator[ModuleType]:
    """All listings of the page as one module, in their order."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield as_module(monkeypatch, "shop_of_workers_page", PROGRAM)


def test_the_program_is_typed(tmp_path: Path) -> None:
    """It passes mypy --strict."""
    check_types(tmp_path, "shop.py", PROGRAM)


async def test_the_test_passes(shop: ModuleType) -> None:
    """The test that the page shows passes, as it stands there."""
    await shop.test_charge()


async def test_schedules_and_limits(shop: ModuleType) -> None:
    """The schedule of the page starts runs by itself, named by task and time."""
    async with sandbox(shop.tail) as box:
        await box.drain()
        await box.advance(600)
        runs = [state async for state in shop.tail.runs(task="sweep")]
        assert {state.status for state in runs} == {"succeeded"}
        assert len(runs) == 2
        assert all(re.fullmatch(r"sweep~\S+", state.run) for state in runs)


async def test_cancel_is_an_ordinary_cancellation(shop: ModuleType) -> None:
    """The function cleans up, and the run ends as cancelled."""
    async with sandbox(shop.tail) as box:
        run = await shop.crawl.start(1000)
        draining = asyncio.create_task(box.drain())
        async for event in run.follow():
            if event.type == "run.started":
                await run.cancel("enough")
        await draining
        assert (await run.state()).status == "cancelled"
        lines = [event.data["lines"] async for event in run.follow(live=False) if event.type == "log"]
        assert lines == [["pages read"]]


def test_commands_of_the_page_exist() -> None:
    """Each command line of the page is one that the parser takes, options and all."""
    import typer.main

    from processor.cli.main import app

    for line in re.findall(r"^\$ (tailrace [^#\n]*)", PAGE, re.MULTILINE):
        words = [word.strip("'") for word in line.split()[1:]]
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words, resilient_parsing=False)
