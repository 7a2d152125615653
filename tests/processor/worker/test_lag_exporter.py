from __future__ import annotations

import asyncio

from prometheus_client import REGISTRY

from processor import Tailrace
from processor.client.queueing import Options, start_queued
from processor.observe.metrics import exposition
from processor.store.resets import delete_group
from processor.store.workers import announce, worker_here
from processor.worker.lag_exporter import LagExporter
from tests.processor.store.logside import LogSide, letter
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


def of_group(name: str, group: str) -> float | None:
    return REGISTRY.get_sample_value(f"tailrace_group_{name}", {"group": group})


async def test_figures_of_groups(server: TestServer, namespace: str) -> None:
    """Each group's figures too; those of one that was deleted go."""
    async with Tailrace(server.url, namespace=namespace) as tail:
        session = await tail.session()
        side = LogSide(server, session)
        await side.bind("audit")
        await side.bind("stock")
        await side.emit("a", 5)
        given = side.read("audit", "a", 3)
        side.fail("audit", "a", given[0], due=10**15)
        letter(side, "audit", "a", died=1000)
        await announce(session, worker_here("m", [], groups=["audit"], places=9))
        exporter = LagExporter(session)
        await exporter.export()
        names = ("lag", "pending", "delayed", "members", "dead")
        assert [of_group(name, "audit") for name in names] == [2, 2, 1, 1, 1]
        assert [of_group(name, "stock") for name in names] == [5, 0, 0, 0, 0]
        oldest = of_group("oldest_seconds", "audit")
        assert oldest is not None
        assert 0 <= oldest < 20
        await delete_group(session, "stock")
        await exporter.export()
        assert of_group("lag", "stock") is None
        stop = asyncio.Event()
        stop.set()
        await exporter.run(stop)
        assert of_group("lag", "audit") is None
        side.close()
