"""What a worker counts, for Prometheus, at a port of its own: a worker serves nothing else."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from prometheus_client import start_http_server

__all__ = ["serve_metrics"]

log = structlog.get_logger("tailrace.worker")
RETRY_SECONDS: Final = 1.0  # while the process that this one replaces still drains


async def serve_metrics(host: str, port: int) -> None:
    """At any path of host:port, until it is cancelled. A port that is in use is waited for, and told."""
    told = False
    while True:
        try:
            server, thread = start_http_server(port, addr=host)
            break
        except OSError as error:
            if not told:
                log.warning("metrics_wait", host=host, port=port, error=str(error))
            told = True
            await asyncio.sleep(RETRY_SECONDS)
    log.info("metrics_served", host=host, port=port)
    try:
        await asyncio.Event().wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
