"""taskiq with taskiq-redis' stream broker, the one that acknowledges; no result backend, parameters not validated."""

from __future__ import annotations

import argparse
import asyncio

from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from bench.peers.drain import Drain, main, settled

AT_ONCE = 100  # starts in flight while enqueueing
READ = 1000  # entries a read: after each it takes and gives back a lock


async def drained(options: argparse.Namespace, drain: Drain) -> None:
    broker = RedisStreamBroker(options.url, consumer_id="0", xread_count=READ)

    @broker.task(task_name="nothing")
    async def nothing() -> None:
        drain.count()

    await broker.startup()
    for first in range(0, options.tasks, AT_ONCE):
        await asyncio.gather(*(nothing.kiq() for _ in range(min(AT_ONCE, options.tasks - first))))
    settled()
    await run_receiver_task(
        broker, max_async_tasks=options.concurrency, max_prefetch=options.concurrency, validate_params=False
    )


if __name__ == "__main__":
    main("taskiq-redis", 100, drained)
