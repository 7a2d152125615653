"""docs/cache.md: its program is typed, and does what the page says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from processor.core.settings import Settings
from tests.support.pages import as_module, check_types, program_of
from tests.support.servers import TestServer


def test_it_is_typed(tmp_path: Path) -> None:
    """Every listing passes mypy --strict."""
    check_types(tmp_path, "answers.py", program_of("docs/cache.md"))


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    return as_module(monkeypatch, "shop_answers", program_of("docs/cache.md"))


async def test_it_runs(server: TestServer, namespace: str, shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Values, negative answers, tasks and invalidation of the page work."""
    shop.tail._given = Settings(redis_url=server.url, namespace=namespace)
    async with shop.tail:
        assert await shop.price("pen") == shop.Price(995)
        assert (await shop.price.peek("pen", currency="EUR")).value == shop.Price(995)
        with pytest.raises(shop.NotFound):
            await shop.price("unicorn")
        assert isinstance((await shop.price.peek("unicorn")).error, shop.NotFound)
        assert await (await shop.offer.start_here("pen")).result(5) == 995
        await shop.prices_changed("pen")
    assert capsys.readouterr().out == "1.08\n"
    await asyncio.to_thread(shop.tail.background.call, shop.tail.close())
    shop.tail.background.stop()
