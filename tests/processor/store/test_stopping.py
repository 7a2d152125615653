from __future__ import annotations

import asyncio
import time

import anyio

from processor.store.stopping import pause_or_stop


async def test_a_pause() -> None:
    """It takes its time, or ends when it is told to."""
    stop = asyncio.Event()
    before = time.monotonic()
    await pause_or_stop(stop, 0.02)
    assert time.monotonic() - before >= 0.019
    asyncio.get_running_loop().call_soon(stop.set)
    with anyio.fail_after(2):
        await pause_or_stop(stop, 60)
        await pause_or_stop(stop, 60)
