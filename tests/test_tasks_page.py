"""docs/tasks.md: its program is typed, and does what the page says."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from processor.core.settings import Settings
from processor.worker.worker import Worker
from tests.support.pages import as_module, check_types, program_of
from tests.support.servers import TestServer


def test_it_is_typed(tmp_path: Path) -> None:
    """Every listing passes mypy --strict."""
    check_types(tmp_path, "tasks.py", program_of("docs/tasks.md"))


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The page's module, with the database that it asks."""
    monkeypatch.chdir(tmp_path)
    connection = sqlite3.connect("shop.db")
    connection.executescript("create table stock (article, pieces); insert into stock values ('pen', 3)")
    connection.close()
    return as_module(monkeypatch, "shop_tasks", program_of("docs/tasks.md"))


async def test_its_tasks_run(server: TestServer, namespace: str, shop: Any, tmp_path: Path) -> None:
    """Children, a plain function, dependencies and middleware of the page work in a worker."""
    shop.tail._given = Settings(redis_url=server.url, namespace=namespace)
    (tmp_path / "picture").write_bytes(b"12345")
    worker = Worker(shop.tail, tasks=["charge", "buy", "buy_one", "pack", "resize", "summarize"])
    working = asyncio.create_task(worker.run())
    orders = [{"number": "a", "cents": 5}, {"number": "b", "cents": 6}]
    with anyio.fail_after(20):
        runs = [
            await shop.buy.start(orders),
            await shop.buy_one.start("c", 7),
            await shop.pack.start("pen"),
            await shop.pack.start("ink"),
            await shop.resize.start("picture"),
            await shop.summarize.options(labels={"user": "ada"}).start("x" * 200),
        ]
        results = [await run.result() for run in runs]
        assert results == [["receipt of a", "receipt of b"], "receipt of c", True, False, 5, "x" * 100]
        logs = [event.data async for event in runs[0].follow(live=False) if event.type == "log"]
        assert [data["lines"] for data in logs] == [["buy took"]]
        worker.stop()
        await working
        await shop.tail.close()
