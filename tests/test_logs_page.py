"""docs/logs.md: its program is typed, and does what the page says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from processor.core.settings import Settings
from processor.logs.outlet import outlet
from tests.support.pages import as_module, check_types, program_of
from tests.support.servers import TestServer


def test_it_is_typed(tmp_path: Path) -> None:
    """Every listing passes mypy --strict."""
    check_types(tmp_path, "tasks.py", program_of("docs/logs.md"))


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The page's module, configured; afterwards logging and structlog are as they were."""
    module = as_module(monkeypatch, "shop_logs", program_of("docs/logs.md"))
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield module
    root.handlers, root.level = handlers, level
    structlog.configure(**before)


async def logs_of(tail: Any, run: str) -> list[Any]:
    return [event.data async for event in tail.run(run).follow(live=False) if event.type == "log"]


async def test_it_runs(server: TestServer, namespace: str, shop: Any) -> None:
    """A task's records are its run's, others those of the run that was named."""
    shop.tail._given = Settings(redis_url=server.url, namespace=namespace)
    shop.configure()
    async with shop.tail:
        run = await shop.charge.start_here("7")
        assert await run.result(5) == "refused"
        first, second = await logs_of(shop.tail, run.id)
        assert first == {"level": "info", "lines": ["charging"], "logger": "shop", "fields": {"order": "7"}}
        assert (second["level"], second["lines"][0]) == ("error", "refused")
        assert second["lines"][-1] == "ValueError: no such card"
        shop.log.info("elsewhere")
        shop.configure_structlog()
        structlog.get_logger().info("event", cents=5)
        await asyncio.to_thread(outlet().flush, 5)
        lines = [data["lines"] for data in await logs_of(shop.tail, "web-1")]
        assert ["elsewhere"] in lines
        assert ["event"] in lines
    await asyncio.to_thread(shop.tail.background.call, shop.tail.close())
    shop.tail.background.stop()
