"""The floor in a process of its own: `python -m bench.react.floor URL PID ENTRIES`.

Plain redis-py that reads 200 entries and settles them in one script: for each XACK = 1, one XADD and one HINCRBY (bench.process.floor,
with its counter). PID is the server's. Prints `seconds`, `cpu_seconds` and `server_seconds` as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

from bench.process.floor import drain_floor
from bench.process.oracle import Drained
from bench.server import Served

__all__ = ["floor_apart"]


def floor_apart(server: Served, entries: int) -> Drained:
    """Raises RuntimeError with its last words."""
    command = [sys.executable, "-m", "bench.react.floor", server.url, str(server.pid), str(entries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the floor ended with {done.returncode}: {done.stderr[-2000:]}")
    return Drained(**json.loads(done.stdout))


if __name__ == "__main__":
    url, pid, count = sys.argv[1:]
    print(json.dumps(asdict(drain_floor(Served(url, int(pid)), int(count), count=True))))
