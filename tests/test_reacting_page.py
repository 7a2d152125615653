"""docs/reacting.md: its program is typed, and does what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from processor.testing import sandbox

ROOT = Path(__file__).resolve().parent.parent


def program() -> str:
    """All listings of the page, each behind those before it."""
    return "\n\n".join(
        re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/reacting.md").read_text(), re.MULTILINE | re.DOTALL)
    )


def test_it_is_typed(tmp_path: Path) -> None:
    """Every listing passes mypy --strict."""
    (tmp_path / "reactions.py").write_text(program())
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "reactions.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType("shop_reactions")
    monkeypatch.setitem(sys.modules, "shop_reactions", module)
    exec(compile(program(), "shop_reactions.py", "exec"), module.__dict__)
    return module


async def test_its_reactions_run(shop: Any) -> None:
    """Patterns, labels, order and batches of the page are as it says."""
    tail = shop.tail
    with anyio.fail_after(30):
        async with sandbox(tail) as box:
            failing = tail.run("f")
            failing.emit("run.started")
            await failing.emit("run.failed", {"error": "no money", "reason": "error"})
            order = tail.run("o")
            order.emit("order.placed")
            order.emit("order.paid", labels={"country": "fr"})
            await tail.run("p").emit("order.paid")
            for _ in range(5):
                await order.emit("usage", {"input_tokens": 1})
            await box.drain()
            read = {
                name: [event async for event in tail.run(name).follow(live=False)]
                for name in ("alerts", "tax", "ledger", "costs", "o", "p")
            }
    assert [event.data for event in read["alerts"]] == [{"run": "f", "error": "no money"}]
    assert Counter((event.data["order"], event.data["rate"]) for event in read["tax"]) == {("o", 20): 1, ("p", 0): 1}
    booked = [event.data["what"] for event in read["ledger"] if event.data["order"] == "o"]
    assert booked == ["order.placed", "order.paid"]
    assert sum(event.data["events"] for event in read["costs"]) == 5
    for run in ("o", "p"):
        assert [event.type for event in read[run]].count("invoice.sent") == 1
