"""What a worker does where two things happen at once, and where the server forgot something."""

from __future__ import annotations

import asyncio
from typing import Any

from processor import Tailrace
from processor.client.run import Run
from tests.processor.worker.conftest import working
from tests.support.until import until


async def test_a_full_task_leaves_the_loop_free(tail: Tailrace) -> None:
    """While all places of the tasks are taken and the process has more, its functions go on, and what waits follows them."""
    running = 0

    @tail.task(concurrency=1)
    async def work(run: Run[Any]) -> None:
        nonlocal running
        running += 1
        await asyncio.sleep(0.01)

    runs = [await work.start() for _ in range(3)]
    async with working(tail):
        await until(lambda: running == 3, "all ran")
        for run in runs:
            await run.result(5)
