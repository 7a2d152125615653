"""What a worker does when the server goes while it opens."""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio
import pytest

from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.errors import ServerUnreachable
from processor.core.settings import Settings
from processor.worker import keeping
from processor.worker.worker import Worker
from tests.support.servers import Daemon


async def test_a_server_that_goes_while_it_opens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises ServerUnreachable rather than waiting for ever, as nobody could stop it then."""
    monkeypatch.setattr(keeping, "OPEN_SECONDS", 0.5)
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder))
        daemon.start()
        tail = Tailrace(settings=Settings(redis_url=daemon.url))

        @tail.task
        async def answer(run: Run) -> None: ...

        async with tail:
            daemon.kill()
            with anyio.fail_after(10), pytest.raises(ServerUnreachable):
                await Worker(tail).run()
