"""Ordered groups in a sandbox, on fakeredis, since that is what users' tests have: time passes when the test says so."""

from __future__ import annotations

from typing import Any

from processor import Tailrace
from processor.client.run import Run
from processor.core.backoff import Retry, RetryLater
from processor.core.events import Event
from processor.testing import sandbox


async def test_a_failed_event_holds_its_run_until_its_time_comes() -> None:
    """The other runs are handled at once, its own in order behind it; no test waits for it."""
    tail = Tailrace()
    seen: list[tuple[str, int]] = []
    tries = 0

    @tail.on("order.*", group="g", ordered=True, retry=Retry(attempts=4, base_seconds=30))
    async def handle(event: Event[Any], run: Run[Any]) -> None:
        nonlocal tries
        if event.run == "a" and event.data["n"] == 0:
            tries += 1
            if tries == 1:
                raise ValueError("not yet")
            if tries == 2:
                raise RetryLater(50)
        seen.append((event.run, event.data["n"]))

    async with sandbox(tail) as box:
        await (await tail.session()).bind_groups()
        for n in range(3):
            for run in ("a", "b"):
                await tail.run(run).emit("order.paid", {"n": n})
        await box.drain()
        assert (seen, tries) == ([("b", 0), ("b", 1), ("b", 2)], 1)
        await box.advance(31)
        assert tries == 2
        await box.advance(60)
    assert [n for run, n in seen if run == "a"] == [0, 1, 2]


async def test_a_crashed_worker_is_replaced() -> None:
    """What it had begun runs again."""
    tail = Tailrace()
    seen: list[int] = []

    @tail.on("order.*", group="g", ordered=True)
    async def handle(event: Event[Any]) -> None:
        seen.append(event.data["n"])

    async with sandbox(tail) as box:
        await (await tail.session()).bind_groups()
        await tail.run("r").emit("order.paid", {"n": 1})
        await box.drain()
        await box.crash()
        await tail.run("r").emit("order.paid", {"n": 2})
        await box.drain()
    assert seen == [1, 2]
