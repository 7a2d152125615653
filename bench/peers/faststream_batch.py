"""FastStream's batch mode of a Redis stream with a group: one handler for all entries of a read, one acknowledgement for them.

With --outputs it publishes one entry for each, in one pipeline, as its documentation has it for many messages at once.
"""

from __future__ import annotations

import argparse
import logging

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from bench.peers.drain import Drain, main, settled

AT_ONCE = 1000  # entries a pipeline while enqueueing


async def drained(options: argparse.Namespace, drain: Drain) -> None:
    broker = RedisBroker(options.url, logger=None, log_level=logging.CRITICAL)
    stream = StreamSub("asked", group="workers", consumer="bench", batch=True, max_records=options.concurrency)
    redis = Redis.from_url(options.url)

    @broker.subscriber(stream=stream)
    async def nothing(messages: list[dict[str, int]]) -> None:
        drain.begin()
        if options.outputs:
            async with redis.pipeline(transaction=False) as pipe:
                for message in messages:
                    await broker.publish(message, stream="done", pipeline=pipe)
                await pipe.execute()
        drain.count(len(messages))

    await redis.xgroup_create("asked", "workers", id="0", mkstream=True)  # its own would begin at the end
    await broker.connect()
    for first in range(0, options.tasks, AT_ONCE):
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(first, min(first + AT_ONCE, options.tasks)):
                await broker.publish({"number": number}, stream="asked", pipeline=pipe)
            await pipe.execute()
    settled()
    await broker.start()
    await drain.done.wait()


if __name__ == "__main__":
    main("faststream", 200, drained, flags=("outputs",))
