"""The floor in a process of its own: `python -m bench.react.floor URL PID ENTRIES`.

Plain redis-py that reads 200 entries and settles them in one script: for each XACK = 1, one XADD and one HINCRBY (bench.process.floor,
with its counter). PID is the server's. Prints `seconds`, `cpu_seconds` and `server_seconds` as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from bench.process.floor import drain_floor
from bench.server import Served

if __name__ == "__main__":
    url, pid, count = sys.argv[1:]
    print(json.dumps(asdict(drain_floor(Served(url, int(pid)), int(count), count=True))))
