"""Ctrl-C and SIGTERM with a hundred open streams: everything ends within a second, in whatever server it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from processor.client.tailrace import Tailrace
from tests.faults.sse import Malformed, connect
from tests.faults.world import free_port
from tests.support.program import Program
from tests.support.servers import TestServer
from tests.support.until import until

STREAMS = 100
END_SECONDS = 1.0
UNTOLD_SECONDS = 5.0
TRIES = 3  # the best of them counts: other processes want the cores too
DRAIN_SECONDS = 0.2  # what SIGTERM leaves a run
APP = "tests.faults.apps:with_fastapi"


@dataclass(frozen=True, slots=True)
class Served:
    """How an app is served. {port} stands for the port; mount: where the gateway's routes are."""

    argv: tuple[str, ...]
    mount: str = "/tail"
    begins: bool = True  # it has a route that begins a run
    heeds_term: bool = True  # tells its workers of SIGTERM


def _uvicorn(app: str, *more: str) -> Served:
    return Served(("python", "-m", "uvicorn", app, "--port", "{port}", "--log-level", "warning", *more))


SERVED: Mapping[str, Served] = {
    "tailrace gateway": Served(
        ("python", "-m", "processor.cli.main", "gateway", "--port", "{port}"), mount="/api/default", begins=False
    ),
    "uvicorn, FastAPI": _uvicorn(APP),
    "uvicorn, Starlette": _uvicorn("tests.faults.apps:with_starlette"),
    "uvicorn --reload": _uvicorn(APP, "--reload", "--reload-dir", "tests/faults"),
    "uvicorn --workers 2": _uvicorn(APP, "--workers", "2"),
    # Its workers hear nothing of a SIGTERM to their parent until their graceful timeout of 3 s has passed.
    "hypercorn": Served(
        ("python", "-m", "hypercorn", APP, "--bind", "127.0.0.1:{port}", "--log-level", "warning"), heeds_term=False
    ),
    "granian": Served(
        ("python", "-m", "granian", "--interface", "asgi", "--port", "{port}", "--log-level", "warning", APP)
    ),
}


@dataclass
class Streams:
    """Open streams of one run, and how they ended."""

    caught_up: int = 0
    last_frames: list[str] = field(default_factory=list)
    whole: int = 0  # that ended with the last chunk, as only a finished run's may
    ended_at: float = 0.0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def one(self, port: int, path: str) -> None:
        last = ""
        async with connect(port, path, {"accept": "text/event-stream"}) as connection:
            if await connection.head() != 200:
                raise Malformed(f"answered {connection.status}")
            try:
                async for frame in connection.frames():
                    last = frame.event or frame.id or ""
                    self.caught_up += last == "tailrace.caught_up"
            except ConnectionError:
                pass  # reset in place of closed: the same to a reader
            self.whole += connection.whole
        self.last_frames.append(last)
        self.ended_at = time.monotonic()


@asynccontextmanager
async def open_streams(port: int, path: str, count: int) -> AsyncIterator[Streams]:
    streams = Streams()
    streams.tasks = [asyncio.create_task(streams.one(port, path)) for _ in range(count)]
    try:
        await until(lambda: streams.caught_up == count or any(t.done() for t in streams.tasks), "all caught up", 15)
        for task in streams.tasks:
            if task.done():
                task.result()
        assert streams.caught_up == count
        yield streams
    finally:
        for task in streams.tasks:
            task.cancel()
        await asyncio.gather(*streams.tasks, return_exceptions=True)


async def ready(client: httpx.AsyncClient, path: str) -> None:
    async def answers() -> bool:
        try:
            return (await client.get(path)).status_code == 200
        except httpx.TransportError:
            return False

    await until(answers, "the server serves", 20)


class Family:
    """A process and those that it started. starved: seconds that one of them, at most, waited for a core."""

    def __init__(self, pid: int) -> None:
        first = psutil.Process(pid)
        self._all = [first, *first.children(recursive=True)]
        self._before = {one.pid: _run_delay(one.pid) for one in self._all}
        self.starved = 0.0

    def ended(self) -> bool:
        """Whether none of them runs. A zombie does not."""
        alive = [one for one in self._all if _runs(one)]
        waits = [_run_delay(one.pid) - self._before[one.pid] for one in alive]
        self.starved = max([self.starved, *waits])
        return not alive


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _run_delay(pid: int) -> float:
    """Seconds that its main thread was ready to run and did not; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


@pytest.fixture
def environment(server: TestServer) -> dict[str, str]:
    return {"TAILRACE_REDIS_URL": server.url, "TAILRACE_DRAIN_SECONDS": str(DRAIN_SECONDS)}


async def begin(tail: Tailrace, client: httpx.AsyncClient, served: Served) -> str:
    """A run that does not end by itself, in the served process where it can begin one."""
    if served.begins:
        run: str = (await client.post("/begin")).raise_for_status().json()["run"]
        return run
    await tail.run("r").log("a log source")
    return "r"


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", SERVED)
async def test_ends_within_a_second(
    name: str, sig: signal.Signals, server: TestServer, environment: dict[str, str], program: Callable[..., Program]
) -> None:
    """Streams break off without a last chunk, runs begun in the process fail as shutdown, all processes end."""
    served = SERVED[name]
    limit = END_SECONDS if sig == signal.SIGINT or served.heeds_term else UNTOLD_SECONDS
    took = []
    for _ in range(TRIES):
        port = free_port()
        serving = program(*(word.format(port=port) for word in served.argv), env=environment)
        try:
            took.append(await _ended(served, port, serving, sig, server.url))
        except (AssertionError, OSError) as error:
            raise AssertionError(f"{error}\n{serving.out[-2000:]}\n{serving.err[-4000:]}") from error
        print(f"{name}, {sig.name}: {took[-1]:.2f} s")
        if took[-1] < limit:
            return
    pytest.fail(f"{name}, {sig.name}: all processes had ended after {took} s, never within {limit} s")


async def _ended(served: Served, port: int, serving: Program, sig: signal.Signals, url: str) -> float:
    """Seconds until all streams and all processes had ended, less those in which others had the cores."""
    told = sig == signal.SIGINT or served.heeds_term
    base = f"http://127.0.0.1:{port}"
    async with Tailrace(url) as tail, httpx.AsyncClient(base_url=base, trust_env=False) as client:
        await ready(client, f"{served.mount}/runs")
        run = await begin(tail, client, served)
        await client.aclose()
        async with open_streams(port, f"{served.mount}/runs/{run}/events", STREAMS) as streams:
            family = Family(serving.pid)
            sent = time.monotonic()
            if sig == signal.SIGINT:
                os.killpg(serving.pid, sig)  # a terminal sends it to all of them
            else:
                serving.send(sig)
            await until(lambda: all(task.done() for task in streams.tasks), "all streams have ended", 15)
            await until(family.ended, "all processes have ended", 15)
            took = time.monotonic() - sent - family.starved
        assert streams.whole == 0, "a stream ended as if its run had"
        if told:
            assert set(streams.last_frames) == {"tailrace.reconnect"}
            assert "Traceback" not in serving.err
        if served.begins:
            await _failed_as_shutdown(tail, run)
    return took


async def _failed_as_shutdown(tail: Tailrace, run: str) -> None:
    assert (await tail.run(run).state()).status == "failed"
    events = [event async for event in tail.run(run).follow()]
    data: Any = events[-1].data
    assert events[-1].type == "run.failed", events[-1]
    assert data["reason"] == "shutdown"


async def test_reload_ends_streams(
    server: TestServer, environment: dict[str, str], program: Callable[..., Program], tmp_path: Path
) -> None:
    """A reload ends the streams within a second of uvicorn's notice, and the new process serves them on."""
    (tmp_path / "changed.py").write_text("")
    port = free_port()
    words = ("python", "-m", "uvicorn", APP, "--port", str(port), "--log-level", "warning", "--reload")
    serving = program(*words, "--reload-dir", str(tmp_path), env=environment)
    base = f"http://127.0.0.1:{port}"
    async with Tailrace(server.url) as tail, httpx.AsyncClient(base_url=base, trust_env=False) as client:
        await ready(client, "/tail/runs")
        await tail.run("r").log("a log source")
        async with open_streams(port, "/tail/runs/r/events", STREAMS) as streams:
            (tmp_path / "changed.py").write_text("1")
            await serving.says("Reloading")
            noticed = time.monotonic()
            await until(lambda: all(task.done() for task in streams.tasks), "all streams have ended", 10)
        assert streams.ended_at - noticed < END_SECONDS
        await until(lambda: _served(port), "the new process serves streams", 20)


async def _served(port: int) -> bool:
    try:
        async with open_streams(port, "/tail/runs/r/events", 1):
            return True
    except (OSError, AssertionError):  # the old process says that it ends
        return False
