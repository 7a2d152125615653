"""What an idle connection costs: growth of a gateway's resident set while a thousand of them come."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.fleet import cpu_seconds, resident_bytes
from bench.report import Report
from bench.serving import path_of
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings

__all__ = ["measure_memory"]

_TAILRACE: Final = "from processor.cli.main import main; main()"
WARM: Final = 100  # connections that come first and stay: what is there once is not counted
DEADLINE_SECONDS: Final = 30.0
TARGETS: Final = {"mounted": 12.0, "gateway": 12.0, "route": 18.0, "recipe": None}


@dataclass(frozen=True, slots=True)
class Kind:
    """A gateway: its command, and the path of a run's feed."""

    name: str
    command: Sequence[str]
    path: Callable[[str], str]
    port: Callable[[subprocess.Popen[str]], int]


def _kind(name: str, url: str) -> Kind:
    if name == "gateway":
        command = [sys.executable, "-c", _TAILRACE, "gateway", "--port", "0"]
        return Kind(name, command, lambda run: f"/api/default/runs/{run}/events", _port_of_gateway)
    command = [sys.executable, "-m", "bench.serving", name, url]
    return Kind(name, command, lambda run: path_of(name, run), _port_of_bench)


def _port_of_bench(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def _port_of_gateway(process: subprocess.Popen[str]) -> int:
    """From the event gateway_listening in its log."""
    assert process.stdout is not None
    for line in process.stdout:
        if "gateway_listening" in line:
            return int(json.loads(line)["url"].rpartition(":")[2])
    raise RuntimeError(f"tailrace gateway ended with {process.wait()}")


def measure_memory(report: Report, url: str, *, quick: bool) -> None:
    """All connections follow one run; beside it, for the mounted app, each one a run of its own."""
    connections = 50 if quick else 1000
    asyncio.run(_create(url, connections))
    for name, limit in TARGETS.items():
        grown, cpu = _grown(_kind(name, url), url, connections, one_run=True, idle_seconds=0 if quick else 2)
        report.row(
            f"{connections} idle connections of one run, {name}",
            f"{grown:.1f} KiB each",
            f"{cpu * 100:.2f} % of a core while idle",
            key=f"memory, {name}",
            figure=grown,
        )
        if limit is not None:
            report.judge(f"feed.memory_{name}", [grown], "at most", limit, "KiB")
    grown, cpu = _grown(_kind("mounted", url), url, connections, one_run=False, idle_seconds=0 if quick else 11)
    report.row(
        f"{connections} idle connections of as many runs, mounted",
        f"{grown:.1f} KiB each",
        f"{cpu * 100:.2f} % of a core while idle: tails are compared every 5 s",
        key="memory, many runs",
        figure=grown,
    )


async def _create(url: str, runs: int) -> None:
    async with Tailrace(settings=Settings(redis_url=url)) as tail:
        for sent in [tail.run(f"idle-{n:04}").emit("bench.begun") for n in range(runs)]:
            await sent


def _grown(kind: Kind, url: str, connections: int, *, one_run: bool, idle_seconds: float) -> tuple[float, float]:
    """KiB a connection, and the share of a core that the process used while nothing happened."""
    environ = {**os.environ, "TAILRACE_LOG": "json", "TAILRACE_REDIS_URL": url}
    process = subprocess.Popen(kind.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
    open_ones: list[socket.socket] = []
    try:
        port = kind.port(process)
        warm = min(WARM, connections)
        _follow(open_ones, port, kind.path("idle-0000"), warm, one_run=True, path=kind.path)
        before = resident_bytes(process.pid)
        _follow(open_ones, port, kind.path("idle-0000"), connections, one_run=one_run, path=kind.path)
        time.sleep(0.2)
        grown = resident_bytes(process.pid) - before
        cpu, began = cpu_seconds(process.pid), time.perf_counter()
        time.sleep(idle_seconds)
        idle = (cpu_seconds(process.pid) - cpu) / (time.perf_counter() - began) if idle_seconds else 0.0
        return grown / connections / 1024, idle
    finally:
        for one in open_ones:
            one.close()
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _follow(
    open_ones: list[socket.socket],
    port: int,
    path_of_one: str,
    count: int,
    *,
    one_run: bool,
    path: Callable[[str], str],
) -> None:
    """Connections one after the other, each caught up before the next."""
    for n in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
        open_ones.append(one)
        target = path_of_one if one_run else path(f"idle-{n:04}")
        one.sendall(f"GET {target} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n".encode())
        told = b""
        while b"event: tailrace.caught_up" not in told:
            part: Any = one.recv(65536)
            if not part or (not told and not part.startswith(b"HTTP/1.1 200")):
                raise RuntimeError(f"{target} answered {told + part!r}")
            told += part
