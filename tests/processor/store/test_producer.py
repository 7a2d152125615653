"""Which writer serves which run."""

from __future__ import annotations

import pytest

from processor.client.tailrace import Tailrace
from processor.store import producer as producer_module
from tests.support.servers import TestServer
from tests.support.until import until


async def test_a_run_that_was_forgotten_takes_events_again(
    server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that was given up for its silence is followed by one of another name, whose numbers the server does not know."""
    monkeypatch.setattr(producer_module, "MANY_WRITERS", 4)
    async with Tailrace(server.url, namespace=namespace) as tail:
        producer = (await tail.session()).producer
        run = tail.run("r")
        await run.log("one")
        first = producer.writer("r")
        await until(lambda: first.chain.idle, "nothing of it is kept")
        first.used_at -= producer_module.SILENT_SECONDS
        monkeypatch.setattr(producer, "_look_at", 1)
        await tail.run("other").log("makes it look")
        assert producer.writer("r") is not first
        await run.log("two")
        assert [event.text async for event in run.follow(live=False)] == ["one", "two"]
