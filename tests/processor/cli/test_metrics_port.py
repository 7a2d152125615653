"""`tailrace worker --metrics-port`: what a worker counts, for Prometheus."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

from tests.processor.cli.conftest import Cli
from tests.support.until import until

TASKS = """\
from tailrace import Run, Tailrace

tail = Tailrace()


@tail.task
async def answer(run: Run) -> None: ...
"""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _exposition(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


async def test_it_serves_metrics(cli: Cli, tmp_path: Path) -> None:
    """A worker answers Prometheus at the port that it was given, also where that is in use at first."""
    (tmp_path / "tasks.py").write_text(TASKS)
    port = _free_port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        worker = cli.begin("worker", "tasks:tail", "--metrics-port", str(port))
        await worker.says("metrics_wait", 20)
    await until(lambda: "tailrace_appends_total" in _exposition(port), "it answers", 10)
