"""arq; results are not kept. It polls: by default each 500 ms, here as soon as its last look is over."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

from bench.peers.drain import Drain, main, settled

AT_ONCE = 100  # starts in flight while enqueueing


async def drained(options: argparse.Namespace, drain: Drain) -> None:
    async def nothing(ctx: dict[str, Any]) -> None:
        drain.count()

    redis = await create_pool(RedisSettings.from_dsn(options.url))
    for first in range(0, options.tasks, AT_ONCE):
        await asyncio.gather(
            *(redis.enqueue_job(nothing.__qualname__) for _ in range(min(AT_ONCE, options.tasks - first)))
        )
    settled()
    worker = Worker(
        [nothing],
        redis_pool=redis,
        max_jobs=options.concurrency,
        queue_read_limit=options.concurrency,
        poll_delay=0.005,
        keep_result=0,
        handle_signals=False,
        log_results=False,
    )
    await worker.async_run()


if __name__ == "__main__":
    main("arq", 300, drained)
