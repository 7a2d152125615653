"""A limit over several worker processes, one of which is killed in mid-run: never too many at once, and all runs in the end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from processor import Tailrace
from processor.core.settings import Settings
from tests.support.program import Program
from tests.support.servers import TestServer
from tests.support.until import until

LIMIT, RUNS = 3, 24
VISIBILITY_SECONDS = 3.0  # a worker may sit in a read for one of them before it begins what it took over
WORKER = """
import asyncio, os, sys, time
from processor import Tailrace
from processor.core.settings import Settings
from processor.worker.worker import Worker

url, namespace, path, limit, visibility = sys.argv[1:]
tail = Tailrace(settings=Settings(redis_url=url, namespace=namespace, visibility_seconds=float(visibility)))
journal = open(path, "a", buffering=1)  # a line is one write: several processes append to it

@tail.task(limit=int(limit), retry=10)
async def work(run, number: int) -> None:
    print("begin", os.getpid(), time.monotonic(), run.id, file=journal)
    await asyncio.sleep(0.15)
    print("end", os.getpid(), time.monotonic(), run.id, file=journal)

async def main():
    async with tail:
        print("ready", flush=True)
        await Worker(tail).run()

asyncio.run(main())
"""


def most_at_once(journal: str, killed: int, killed_at: float) -> int:
    """How many executions went on at the same time; those of the killed process ended with it."""
    changes: list[tuple[float, int]] = []
    open_ones: set[str] = set()
    for line in journal.splitlines():
        verb, pid, at, run = line.split()
        changes.append((float(at), 1 if verb == "begin" else -1))
        if int(pid) == killed:
            open_ones ^= {run}
    changes += [(killed_at, -1)] * len(open_ones)
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


async def test_a_limit_holds_when_a_process_is_killed(
    server: TestServer, namespace: str, program: Callable[..., Program], tmp_path: Path
) -> None:
    """Three processes with places for all keep to the limit; when one is killed (-9) its places pass on with its runs or in time."""
    path = tmp_path / "journal"
    path.touch()
    given = (server.url, namespace, str(path), str(LIMIT), str(VISIBILITY_SECONDS))
    settings = Settings(redis_url=server.url, namespace=namespace, visibility_seconds=VISIBILITY_SECONDS)
    async with Tailrace(settings=settings) as tail:
        runs = [await tail.start("work", number=number) for number in range(RUNS)]
        workers = {worker.pid: worker for worker in (program("python", "-c", WORKER, *given) for _ in range(3))}

        def executing() -> set[int]:
            """Processes with an execution that has not ended."""
            lines = [line.split() for line in path.read_text().splitlines()]
            ended = {(pid, run) for verb, pid, _, run in lines if verb == "end"}
            return {int(pid) for verb, pid, _, run in lines if verb == "begin" and (pid, run) not in ended}

        await until(executing, "somebody executes", deadline=20)
        killed = executing().pop()
        workers[killed].send(signal.SIGKILL)
        await workers[killed].ended()
        killed_at = asyncio.get_running_loop().time()  # the same clock as time.monotonic() in every process
        async with asyncio.timeout(60):
            await asyncio.gather(*(run.result() for run in runs))
    journal = path.read_text()
    assert {line.split()[3] for line in journal.splitlines() if line.startswith("end")} == {run.id for run in runs}
    assert most_at_once(journal, killed, killed_at) <= LIMIT, journal
    assert most_at_once(journal, killed, killed_at) > 1, "the limit was no bottleneck: nothing was tried"
