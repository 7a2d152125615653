"""Draining: what runs may finish, what waits for an answer is parked, the rest is released to other workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.worker.settling import Settling
from processor.worker.starting import Starting

if TYPE_CHECKING:
    from processor.worker.worker import Worker

__all__ = ["drain"]

log = structlog.get_logger("tailrace.worker")
CLEAN_UP_SECONDS: Final = 2.0  # what a released function may take to end
SETTLE_SECONDS: Final = 5.0  # for the last answers; what has none is settled by whoever claims it
LOOK_SECONDS: Final = 0.05


async def drain(worker: Worker, starting: Starting, settling: Settling, seconds: float) -> None:
    """Returns when nothing of this process runs any more, and what it did is settled where the server can be reached."""
    worker.give_back_unbegun()
    deadline = asyncio.get_running_loop().time() + seconds
    if not await _ends(starting.done, seconds or LOOK_SECONDS):
        starting.give_up()
        await _ends(starting.done, SETTLE_SECONDS)
    for execution in worker.registry:
        execution.park()
    await _until(lambda: worker.running == 0, deadline)
    left = [execution for execution in worker.registry if execution.runs]
    for execution in left:
        execution.release()
    if left:
        log.info("released", executions=len(left))
        await _until(lambda: worker.running == 0, asyncio.get_running_loop().time() + CLEAN_UP_SECONDS)
        for execution in worker.registry:
            execution.hurry()
    if not await _ends(settling.settled, SETTLE_SECONDS):
        log.warning("left_unsettled", executions=settling.unsettled)


async def _ends(wait: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> bool:
    """Whether the wait was over in time."""
    waiting = asyncio.ensure_future(wait())
    try:
        await asyncio.wait([waiting], timeout=seconds)
        return waiting.done()
    finally:
        waiting.cancel()


async def _until(condition: Callable[[], bool], deadline: float) -> None:
    loop = asyncio.get_running_loop()
    while not condition() and loop.time() < deadline:  # noqa: ASYNC110 - at a process's end
        await asyncio.sleep(LOOK_SECONDS)
