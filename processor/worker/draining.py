"""Draining: what runs may finish, what waits for an answer is parked, the rest is released to other workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.core.plan import FLOW
from processor.store.settling import Settling
from processor.worker.starting import Starting

if TYPE_CHECKING:
    from processor.worker.worker import Worker

__all__ = ["drain"]

log = structlog.get_logger("tailrace.worker")
CLEAN_UP_SECONDS: Final = 2.0  # what a released function may take to end
SETTLE_SECONDS: Final = 5.0  # for the last answers; what has none is settled by whoever claims it
LOOK_SECONDS: Final = 0.05


async def drain(worker: Worker, starting: Starting, settling: Settling[Any], seconds: float) -> bool:
    """Returns when nothing of this process runs any more, and what it did is settled where the server can be reached.

    False if not all is: the server, or a function, does not answer.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    worker.give_back_inbox()
    if await _starts_are_answered(starting, seconds):
        worker.give_back_unbegun()
    await _until(lambda: _all_ended_or_parked(worker), deadline)
    left = [execution for execution in worker.registry if execution.runs]
    for execution in left:
        execution.release()
    if left:
        log.info("released", executions=len(left))
        await _until(lambda: worker.running == 0, now() + CLEAN_UP_SECONDS)
        for execution in worker.registry:
            execution.hurry()
    await _until(lambda: worker.running == 0 and not settling.unsettled, now() + SETTLE_SECONDS)
    if worker.running or settling.unsettled:
        log.warning("left_unsettled", running=worker.running, unsettled=settling.unsettled)
        return False
    return True


async def _starts_are_answered(starting: Starting, seconds: float) -> bool:
    if await _ends(starting.done, seconds or LOOK_SECONDS):
        return True
    starting.give_up()
    return await _ends(starting.done, SETTLE_SECONDS)


def _all_ended_or_parked(worker: Worker) -> bool:
    """What comes to a question while the process drains goes on elsewhere as well, and so does a flow: it may wait for days,
    and its next attempt goes on where it is."""
    for execution in worker.registry:
        if execution.ask or execution.task.name == FLOW:
            execution.step_aside()
    return worker.running == 0


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
