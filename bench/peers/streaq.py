"""streaq; results are not kept, nothing is logged a task."""

from __future__ import annotations

import argparse

from streaq import Worker

from bench.peers.drain import Drain, main, settled

AT_ONCE = 1000  # tasks a pipeline while enqueueing


async def drained(options: argparse.Namespace, drain: Drain) -> None:
    worker = Worker(redis_url=options.url, concurrency=options.concurrency, handle_signals=False)

    @worker.task(ttl=0, silent=True)
    async def nothing() -> None:
        drain.count()

    async with worker:
        for first in range(0, options.tasks, AT_ONCE):
            await worker.enqueue_many([nothing.enqueue() for _ in range(min(AT_ONCE, options.tasks - first))])
    settled()
    await worker.run_async()


if __name__ == "__main__":
    main("streaq", 16, drained)
