"""A process that stands for the duty of scheduler, and says when it has it: python -m tests.processor.worker.standing URL NAMESPACE."""

from __future__ import annotations

import asyncio
import sys

from processor import Tailrace
from processor.core.schedule import Schedule
from processor.worker.scheduler import Scheduler, register_all
from processor.worker.singletons import Singletons

TTL_MS = 1000
TASK = "tick"
SCHEDULE = Schedule(every_seconds=1, misfire="all")


class Tick:
    name = TASK
    cron: Schedule | None = SCHEDULE


async def stand(url: str, namespace: str) -> None:
    async with Tailrace(url, namespace=namespace) as tail:
        session = await tail.session()
        await register_all(session, [Tick()])

        async def duty(stop: asyncio.Event) -> None:
            print("begins", flush=True)
            try:
                await Scheduler(tail).run(stop)
            finally:
                print("ends", flush=True)

        print("stands", flush=True)
        await Singletons(session, {"scheduler": duty}, ttl_ms=TTL_MS).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(stand(sys.argv[1], sys.argv[2]))
