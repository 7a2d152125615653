"""A worker under test, one a process: `python -m bench.react.working URL KIND [--concurrency N] [--settings JSON]`.

Prints `ready` once everything is imported, begins at a line on its standard input and ends at the next one. Then it prints JSON:
`began` (time.time() at the first handler's first line), `handled` (events), `latencies_us`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import traceback

import uvloop

from bench.react.handlers import CONCURRENCY, KINDS, Handlers
from gateway.collector import calm_collector
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.observe.logs import configure
from processor.worker.worker import Worker


async def _work(options: argparse.Namespace) -> None:
    tail = Tailrace(settings=Settings(redis_url=options.url, **json.loads(options.settings)))
    handlers = Handlers(tail, options.kind, options.concurrency)
    worker = Worker(tail, concurrency=options.concurrency)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    calm_collector()  # as `tailrace worker` does
    working = asyncio.create_task(worker.run())
    told_to_stop = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    await asyncio.wait({working, told_to_stop}, return_when=asyncio.FIRST_COMPLETED)
    if working.done() and working.exception():
        traceback.print_exception(working.exception())
        os._exit(1)  # a thread reads the standard input
    worker.stop()
    await working
    await tail.close()
    told = {"began": handlers.began, "handled": handlers.handled, "latencies_us": handlers.latencies_us}
    print(json.dumps(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY)
    parser.add_argument("--settings", default="{}", help="fields of Settings as JSON")
    configure("json", level="WARNING")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(parser.parse_args()))


if __name__ == "__main__":
    main()
