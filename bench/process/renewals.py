"""What a hundred long executions cost one worker, beyond what it costs while it has nothing to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import uvloop
from redis import Redis

from bench.fleet import cpu_seconds
from bench.process.hired import Hired, hired_worker
from bench.process.oracle import until_drained
from bench.process.tasks import Tasks, start_many
from bench.report import Report
from bench.server import Served, served_by_tcp
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.store.embedded import Aof

__all__ = ["measure_renewals"]

TASKS: Final = 100
TASK_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 20.0
WAVES: Final = 3  # one after the other: each is renewed once
PERCENT: Final = 1.0
SETTLED_SECONDS: Final = 1.0  # a worker that has just begun loads scripts and makes groups


def measure_renewals(report: Report, aof: Aof, *, quick: bool) -> None:
    """The CPU of starting and settling them is within the figure."""
    task_seconds, idle_seconds, waves = (0.5, 0.5, 2) if quick else (TASK_SECONDS, IDLE_SECONDS, WAVES)
    with served_by_tcp(aof) as server, hired_worker(server.url, "held", concurrency=TASKS) as worker:
        worker.begin()
        time.sleep(SETTLED_SECONDS)
        idle = _shares(worker, server, lambda: time.sleep(idle_seconds))
        busy = _shares(worker, server, lambda: _hold(server.url, waves, task_seconds))
        worker.end()
    beyond = busy[0] - idle[0]
    report.row(
        f"{TASKS} executions of {task_seconds:g} s at once, {waves} times",
        f"{beyond:.2f} % of a core",
        f"of the worker beyond its {idle[0]:.2f} % while idle; of the server {busy[1] - idle[1]:.2f} beyond {idle[1]:.2f}",
        key="renewals, percent of a core",
        figure={"beyond": beyond, "idle": idle[0], "server_beyond": busy[1] - idle[1], "server_idle": idle[1]},
    )
    report.judge("process.renewals", [beyond], "at most", PERCENT, "%")


def _shares(worker: Hired, server: Served, meanwhile: Callable[[], None]) -> tuple[float, float]:
    """Per cent of a core that worker and server used meanwhile."""
    begin, before = time.perf_counter(), (cpu_seconds(worker.pid), cpu_seconds(server.pid))
    meanwhile()
    took = time.perf_counter() - begin
    after = (cpu_seconds(worker.pid), cpu_seconds(server.pid))
    return (after[0] - before[0]) / took * 100, (after[1] - before[1]) / took * 100


def _hold(url: str, waves: int, seconds: float) -> None:
    """Until the last has ended."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_held(url, waves, seconds))


async def _held(url: str, waves: int, seconds: float) -> None:
    async with Tailrace(settings=Settings(redis_url=url)) as tail:
        held = Tasks(tail).held
        await start_many(held, TASKS * waves, seconds)
        with Redis.from_url(url) as redis:
            await until_drained(redis, (await tail.session()).keys, "held")
