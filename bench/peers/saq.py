"""SAQ on Redis. Results are kept, as by default: with none it fails to report each end."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from saq import Job, Queue, Worker

from bench.peers.drain import Drain, main, settled

AT_ONCE = 100  # starts in flight while enqueueing


async def drained(options: argparse.Namespace, drain: Drain) -> None:
    async def nothing(ctx: dict[str, Any]) -> None:
        drain.count()

    queue = Queue.from_url(options.url, max_concurrent_ops=max(AT_ONCE, options.concurrency))
    await queue.connect()
    for first in range(0, options.tasks, AT_ONCE):
        await asyncio.gather(*(queue.enqueue(Job("nothing")) for _ in range(min(AT_ONCE, options.tasks - first))))
    settled()
    worker = Worker(queue, functions=[("nothing", nothing)], concurrency=options.concurrency)
    await worker.start()


if __name__ == "__main__":
    main("saq", 32, drained)
