"""What a worker tells the others when it opens and stops, and what it does when the server goes meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import anyio
import pytest

from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.errors import ServerUnreachable
from processor.core.settings import Settings
from processor.store.workers import list_workers
from processor.worker import keeping
from processor.worker.worker import Worker
from tests.processor.worker.conftest import working
from tests.support.servers import Daemon
from tests.support.until import until


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


async def test_it_counts_as_gone_from_when_it_takes_nothing_more(tail: Tailrace) -> None:
    """Others see at once that it stops, though it drains for a while, and how many executions it has until then."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @tail.task
    async def answer(run: Run) -> None:
        begun.set()
        await go_on.wait()

    session = await tail.session()
    async with working(tail) as worker:
        run = await answer.start()
        await asyncio.wait_for(begun.wait(), 10)
        assert [one.consumer for one in (await list_workers(session)).alive] == [worker.consumer]
        worker.stop()

        async def is_gone() -> bool:
            return not (await list_workers(session)).alive

        await until(is_gone, "it has told that it stops", 4)
        assert (await run.state()).status == "running"
        go_on.set()
    assert (await run.state()).status == "succeeded"
    (last,) = (await list_workers(session)).all
    assert last.stopped is not None
