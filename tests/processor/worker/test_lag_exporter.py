from __future__ import annotations

import asyncio

from prometheus_client import REGISTRY

from processor import Tailrace
from processor.client.queueing import Options, start_queued
from processor.observe.metrics import exposition
from processor.worker.lag_exporter import LagExporter
from tests.support.servers import TestServer
from tests.support.until import until


def figure(name: str, task: str) -> float | None:
    return REGISTRY.get_sample_value(f"tailrace_task_{name}", {"task": task})


async def test_figures(server: TestServer, namespace: str) -> None:
    """While it has the duty the process tells each task's figures, then none."""
    async with Tailrace(server.url, namespace=namespace) as tail:
        for _ in range(3):
            await start_queued(tail, "crawl", b"{}", Options())
        await start_queued(tail, "crawl", b"{}", Options(delay_seconds=60))
        stop = asyncio.Event()
        exporting = asyncio.create_task(LagExporter(await tail.session()).run(stop))
        await until(lambda: figure("waiting", "crawl") == 3, "the figures are there")
        assert (figure("pending", "crawl"), figure("delayed", "crawl")) == (0, 1)
        oldest = figure("oldest_seconds", "crawl")
        assert oldest is not None
        assert 0 <= oldest < 10
        assert b'tailrace_task_waiting{task="crawl"} 3.0' in exposition()
        stop.set()
        await exporting
        assert figure("waiting", "crawl") is None
        exporting = asyncio.create_task(LagExporter(await tail.session()).run(asyncio.Event()))
        await until(lambda: figure("waiting", "crawl") == 3, "another process has the duty")
        exporting.cancel()
        await asyncio.gather(exporting, return_exceptions=True)
        assert figure("waiting", "crawl") is None
