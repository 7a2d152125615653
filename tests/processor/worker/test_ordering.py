"""Ordered groups on a real server: order per run, retries in place, runs side by side."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from processor import Tailrace
from processor.core.backoff import Retry
from processor.core.events import Event
from tests.processor.worker.conftest import working
from tests.support.until import until


async def test_events_of_a_run_are_handled_in_their_order(tail: Tailrace) -> None:
    """Each once, although every third one fails at first, and runs go side by side."""
    seen: dict[str, list[int]] = defaultdict(list)
    failed: set[tuple[str, int]] = set()

    @tail.on("order.*", group="g", ordered=True, retry=Retry(attempts=3, base_seconds=0.02))
    async def handle(event: Event[Any]) -> None:
        n = event.data["n"]
        await asyncio.sleep(0)
        if n % 3 == 0 and (event.run, n) not in failed:
            failed.add((event.run, n))
            raise ValueError("not yet")
        seen[event.run].append(n)

    runs = [f"r{n}" for n in range(6)]
    async with working(tail):
        for n in range(10):
            for run in runs:
                await tail.run(run).emit("order.paid", {"n": n})
        await until(lambda: sum(map(len, seen.values())) >= 60, "all handled", deadline=10)
    assert seen == {run: list(range(10)) for run in runs}
