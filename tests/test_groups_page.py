"""docs/groups.md: its program is typed, its figures and commands are what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import httpx
import prometheus_client
import pytest

from processor.observe import metrics
from processor.store.standings import read_groups
from processor.worker.worker import Worker
from tests.support.pages import as_module, check_types, listings, program_of
from tests.support.program import ROOT
from tests.support.servers import TestServer

PAGE = (ROOT / "docs/groups.md").read_text()
PROGRAM = program_of("docs/groups.md")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch, server: TestServer, namespace: str) -> ModuleType:
    """The page's program, on our server."""
    monkeypatch.setenv("SCALER_TOKEN", "secret")
    monkeypatch.setenv("TAILRACE_REDIS_URL", server.url)
    monkeypatch.setenv("TAILRACE_NAMESPACE", namespace)
    return as_module(monkeypatch, "shop_of_groups_page", PROGRAM)


def test_the_program_is_typed(tmp_path: Path) -> None:
    """It passes mypy --strict."""
    check_types(tmp_path, "shop.py", PROGRAM)


async def test_it_reacts_and_is_asked_for(shop: ModuleType) -> None:
    """The reaction has its effect; the autoscaler gets the object of the page by its token, and nobody without it."""
    (scaler,) = re.findall(r'url: "https://app\.example\.com(\S+)"', PAGE)
    (shown,) = listings("docs/groups.md", "json")
    tail = shop.tail
    async with tail:
        session = await tail.session()
        transport = httpx.ASGITransport(shop.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
            assert (await http.get(scaler)).status_code == 403
            http.headers["Authorization"] = "Bearer secret"
            answer = (await http.get(scaler)).json()
            assert (await http.get("/tail/runs/x")).status_code == 403
        assert list(answer) == re.findall(r'"(\w+)": ', shown)
        assert re.findall(r'valueLocation: "(\w+)"', PAGE) == ["backlog"]
        await tail.run("order-1").emit("order.paid", {"cents": 500})
        worker = Worker(tail)
        await worker.run(burst=True)
        assert (await read_groups(session, ["audit"])).all[0].backlog == 0
        booked = [event.data async for event in tail.run("ledger").follow(live=False)]
        assert booked == [{"order": "order-1", "cents": 500}]


def test_gauges_exist() -> None:
    """Each gauge that the page names is one of ours, and each of groups is named."""
    said = set(re.findall(r"tailrace_group_\w+", PAGE))
    gauges = [gauge for name in metrics.__all__ if isinstance(gauge := getattr(metrics, name), prometheus_client.Gauge)]
    assert said == {gauge._name for gauge in gauges if gauge._name.startswith("tailrace_group_")}
