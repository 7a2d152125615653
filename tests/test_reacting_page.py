"""docs/reacting.md: its program is typed, and does what the page says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from processor.testing import sandbox
from tests.support.pages import as_module, check_types, program_of


def test_it_is_typed(tmp_path: Path) -> None:
    """Every listing passes mypy --strict."""
    check_types(tmp_path, "reactions.py", program_of("docs/reacting.md"))


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    return as_module(monkeypatch, "shop_reactions", program_of("docs/reacting.md"))


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
