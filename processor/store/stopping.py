"""Pauses of what goes on until it is told to stop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["pause_or_stop"]


async def pause_or_stop(stop: asyncio.Event, seconds: float) -> None:
    """Waits so long, or until stop is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
