"""docs/flows.md: its program is typed, and does what the page says."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import anyio
import pytest

from processor.core.settings import Settings
from processor.worker.worker import Worker
from tests.support.servers import TestServer

ROOT = Path(__file__).resolve().parent.parent


def program() -> str:
    """All listings of the page, each behind those before it."""
    return "\n\n".join(
        re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/flows.md").read_text(), re.MULTILINE | re.DOTALL)
    )


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
    (tmp_path / "flows.py").write_text(program() + REVEALED)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "flows.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    said = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert [re.sub(r"\b(builtins|flows|processor\.core\.references)\.", "", one) for one in said] == re.findall(
        r"# (.*)$", REVEALED, re.MULTILINE
    )


async def test_its_flows_run(server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chain, chord, previous and failures of the page come out as it says."""
    shop: Any = types.ModuleType("shop_flows")
    monkeypatch.setitem(sys.modules, "shop_flows", shop)
    exec(compile(program(), "shop_flows.py", "exec"), shop.__dict__)
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
