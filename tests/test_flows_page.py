"""docs/flows.md: its program is typed, and does what the page says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import anyio
import pytest

from processor.core.settings import Settings
from processor.worker.worker import Worker
from tests.support.pages import as_module, check_types, program_of
from tests.support.servers import TestServer

REVEALED = """
async def told() -> None:
    reveal_type(await (await counted(["a"]).start()).result())  # str
    reveal_type(await tolerant.call())  # list[str]
    reveal_type(await group(fetch.bind("a"), fetch.bind("b")).call())  # list[Page]
    reveal_type(await group(fetch.bind("a"), on_failure="continue").call())  # list[Page | ChildFailed]
    reveal_type(said.sync.call())  # str
    reveal_type(await chain(urls.bind("a"), fetch.bind()).call())  # Page
"""


@pytest.mark.holds_loop
def test_it_is_typed(tmp_path: Path) -> None:
    """Every listing passes mypy --strict, and results have the types of their tasks."""
    printed = check_types(tmp_path, "flows.py", program_of("docs/flows.md") + REVEALED)
    said = re.findall(r'Revealed type is "(.*)"', printed)
    assert [re.sub(r"\b(builtins|flows|processor\.core\.references)\.", "", one) for one in said] == re.findall(
        r"# (.*)$", REVEALED, re.MULTILINE
    )


async def test_its_flows_run(server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chain, chord, previous and failures of the page come out as it says."""
    shop = as_module(monkeypatch, "shop_flows", program_of("docs/flows.md"))
    shop.tail._given = Settings(redis_url=server.url, namespace=namespace)
    worker = Worker(shop.tail)
    working = asyncio.create_task(worker.run())
    with anyio.fail_after(20):
        runs = [await shop.start(["a", "bc"]), *[await flow.start() for flow in (shop.said, shop.tolerant)]]
        assert [await run.result() for run in runs] == ["3 words in all", "Words: 1", ["a", "error"]]
        assert (await runs[0].state()).labels == {"user": "ada"}
        worker.stop()
        await working
        await shop.tail.close()
