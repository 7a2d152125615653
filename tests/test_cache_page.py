"""docs/cache.md: its program is typed, and does what the page says."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from processor.core.settings import Settings
from tests.support.program import ROOT
from tests.support.servers import TestServer


def program() -> str:
    """All listings of the page, each behind those before it."""
    return "\n\n".join(
        re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/cache.md").read_text(), re.MULTILINE | re.DOTALL)
    )


def test_it_is_typed(tmp_path: Path) -> None:
    """Every listing passes mypy --strict."""
    (tmp_path / "answers.py").write_text(program())
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "answers.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType("shop_answers")
    monkeypatch.setitem(sys.modules, "shop_answers", module)
    exec(compile(program(), "shop_answers.py", "exec"), module.__dict__)
    return module


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
