"""What programs of workers have in common, whatever they work on."""

from __future__ import annotations

import asyncio
import os
import signal

import structlog

from processor.worker.worker import Worker

__all__ = ["work_until_told"]

log = structlog.get_logger("faults")


async def work_until_told(worker: Worker) -> None:
    """Until SIGTERM; a crew waits for the first line that is logged here."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    log.info("worker_begins", consumer=worker.consumer, pid=os.getpid())
    await worker.run()
    await worker.tail.close()
    log.info("worker_ended")
