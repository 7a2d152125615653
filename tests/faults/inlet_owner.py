"""A process that stands for an inlet: python -m tests.faults.inlet_owner URL SOURCE_URL STREAM. Heirs come soon."""

from __future__ import annotations

import asyncio
import sys

from processor import Tailrace
from processor.client.inlet import Inlet
from processor.worker.inlets import Taking
from processor.worker.singletons import Singletons

TTL_MS = 600


async def stand(url: str, source: str, stream: str) -> None:
    async with Tailrace(url) as tail:
        session = await tail.session()
        owner = Taking(Inlet(stream, url=source), session)
        print("stands", flush=True)
        await Singletons(session, {f"inlet:{stream}": owner.run}, ttl_ms=TTL_MS).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(stand(*sys.argv[1:4]))
