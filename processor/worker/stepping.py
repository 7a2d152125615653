"""Steps of a group until its worker stops, through a server's troubles."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from processor.core.errors import ServerError

__all__ = ["RETRY_SECONDS", "until_stopped"]

log = structlog.get_logger("tailrace.reactions")
RETRY_SECONDS: Final = 0.2


async def until_stopped(group: str, stopping: asyncio.Event, step: Callable[[], Awaitable[object]]) -> None:
    """A ServerError is logged once, however often it comes in turn, and the step is made again."""
    trouble = ""
    while not stopping.is_set():
        try:
            await step()
        except ServerError as error:
            if trouble != error.message:
                log.warning("group_waits", group=group, error=error.code, message=error.message)
            trouble = error.message
            await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))
        else:
            trouble = ""
