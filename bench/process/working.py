"""A worker under test, one a process: `python -m bench.process.working URL [--burst] [--concurrency N] [--settings JSON]`.

Prints `ready` once everything is imported, begins at a line on its standard input and, unless --burst, ends at the next one.
Then it prints JSON: `cpu_seconds` from its beginning to its end, `latencies_us` of the task `first_line`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import uvloop

from bench.process.tasks import CONCURRENCY, Tasks
from gateway.collector import calm_collector
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.observe.logs import configure
from processor.worker.worker import Worker


async def _work(options: argparse.Namespace) -> None:
    tail = Tailrace(settings=Settings(redis_url=options.url, **json.loads(options.settings)))
    tasks = Tasks(tail, options.concurrency)
    worker = Worker(tail, concurrency=options.concurrency, tasks=options.tasks and options.tasks.split(","))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    calm_collector()  # as `tailrace worker` does
    cpu = time.process_time()
    if options.burst:
        await worker.run(burst=True)
    else:
        working = asyncio.create_task(worker.run())
        await asyncio.to_thread(sys.stdin.readline)
        worker.stop()
        await working
    told = {"cpu_seconds": time.process_time() - cpu, "latencies_us": tasks.latencies_us}
    await tail.close()
    print(json.dumps(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY)
    parser.add_argument("--tasks", help="only these, with commas")
    parser.add_argument("--settings", default="{}", help="fields of Settings as JSON")
    configure("json", level="WARNING")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(parser.parse_args()))


if __name__ == "__main__":
    main()
