"""Where a worker's Python goes: `python -m bench.process.profile [--tasks N] [--aof off] [--concurrency N] [--top N]`.

No-ops are drained under py-spy (`pip install py-spy`; it samples from outside and needs ptrace). Prints functions by their own share
and by their share with all they call; --raw keeps the stacks, one a line, for any flame graph.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import uvloop

from bench.process.hired import hired_worker
from bench.process.tasks import CONCURRENCY, Tasks, start_many
from bench.server import served_by_tcp
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings

__all__ = ["shares"]

HERTZ: Final = 500
LINE: Final = re.compile(r":\d+\)?$")


def shares(stacks: Iterable[str]) -> tuple[Counter[str], Counter[str], int]:
    """Samples by function alone and with what it calls, and of all; stacks: `outer;inner 12`, as py-spy has them."""
    alone: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for stack in stacks:
        frames, _, count = stack.rpartition(" ")
        names = [LINE.sub(")", frame) for frame in frames.split(";")]
        alone[names[-1]] += int(count)
        whole.update(dict.fromkeys(names, int(count)))
        total += int(count)
    return alone, whole, total


async def _queue(url: str, count: int) -> None:
    async with Tailrace(settings=Settings(redis_url=url)) as tail:
        await start_many(Tasks(tail).nothing, count)


def _recorded(url: str, concurrency: int, raw: Path) -> None:
    with hired_worker(url, "nothing", burst=True, concurrency=concurrency) as worker:
        spy = [shutil.which("py-spy") or "py-spy", "record", "--pid", str(worker.pid), "--rate", str(HERTZ)]
        recording = subprocess.Popen(
            [*spy, "--format", "raw", "--gil", "--output", str(raw)], stdout=subprocess.DEVNULL
        )
        worker.begin()
        worker.wait()
        recording.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.process.profile")
    parser.add_argument("--tasks", type=int, default=60_000)
    parser.add_argument("--aof", choices=["everysec", "always", "off"], default="off")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY)
    parser.add_argument("--top", type=int, default=30)
    parser.add_argument("--raw", type=Path, metavar="FILE")
    options = parser.parse_args()
    if shutil.which("py-spy") is None:
        print("py-spy is not installed: pip install py-spy", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, served_by_tcp(options.aof) as server:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_queue(server.url, options.tasks))
        raw = options.raw or Path(folder) / "stacks"
        _recorded(server.url, options.concurrency, raw)
        alone, whole, total = shares(raw.read_text().splitlines())
    for title, counted in (("own share", alone), ("with what it calls", whole)):
        print(f"\n{title}")
        for name, count in counted.most_common(options.top):
            print(f"{count / total:6.1%}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
