"""FastStream's consumer of a Redis stream with a group, which acknowledges each entry; it has no retries and no results."""

from __future__ import annotations

import argparse
import logging

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from bench.peers.drain import Drain, main, settled

AT_ONCE = 1000  # entries a pipeline while enqueueing


async def drained(options: argparse.Namespace, drain: Drain) -> None:
    broker = RedisBroker(options.url, logger=None, log_level=logging.CRITICAL)
    stream = StreamSub("nothing", group="workers", consumer="bench", max_records=options.concurrency)

    @broker.subscriber(stream=stream, max_workers=options.concurrency)
    async def nothing(message: str) -> None:
        drain.count()

    async with Redis.from_url(options.url) as redis:
        await redis.xgroup_create("nothing", "workers", id="0", mkstream=True)  # its own would begin at the end
        await broker.connect()
        for first in range(0, options.tasks, AT_ONCE):
            async with redis.pipeline(transaction=False) as pipe:
                for _ in range(min(AT_ONCE, options.tasks - first)):
                    await broker.publish("", stream="nothing", pipeline=pipe)
                await pipe.execute()
    settled()
    await broker.start()
    await drain.done.wait()


if __name__ == "__main__":
    main("faststream", 100, drained)
