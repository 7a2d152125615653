"""`tailrace up` with a worker and a web app: one command, everything with reload, all ended together."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processor.cli.conftest import Cli, Terminal
from tests.processor.cli.test_worker import is_alive, write
from tests.support.program import Program
from tests.support.until import until

TASKS = """\
from tailrace import Run, Tailrace

tail = Tailrace()


@tail.task
async def answer(run: Run, prompt: str) -> str:
    return prompt.upper()
"""
WEB = """\
from fastapi import FastAPI
from tailrace import FeedResponse
from tasks import answer, tail

app = FastAPI(lifespan=tail.lifespan)


@app.get("/version")
async def version() -> int:
    return 1


@app.post("/runs")
async def start(prompt: str) -> str:
    return (await answer.start(prompt)).id


@app.get("/runs/{run}/events")
async def events(run: str) -> FeedResponse:
    return FeedResponse(tail.run(run))


@app.get("/link/{run}")
async def link(run: str) -> str:
    return tail.run(run).link()
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path) -> None:
    write(tmp_path / "tasks.py", TASKS)
    write(tmp_path / "web.py", WEB.replace("-> FeedResponse", ""))


class Up:
    """One that runs, its addresses, and the processes that it keeps."""

    def __init__(self, program: Program) -> None:
        self.program = program

    async def parts(self, *names: str) -> None:
        """Waits until these parts run: by their own words, since `up` tells a pipe of trouble only."""
        await self.program.says('"url"', 20)
        await until(lambda: len(self.pids) == len(names), f"{names}: {self.program.err}", 20)
        if "worker" in names:
            await self.program.says("worker_ready", 20)
        if "web" in names:
            await until(self._answers, "the web app answers", 20)

    async def _answers(self) -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.record['web']}/version")).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def record(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.program.out)
        return found

    @property
    def pids(self) -> list[int]:
        """Of worker and web app."""
        pid = self.program.pid
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return [child for child in children if b"processor.cli" in command_of(child)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


async def test_everything_together(lone_cli: Cli) -> None:
    """Web app, worker and gateway share the server: a run that the page starts is executed, followed and linked."""
    up = Up(lone_cli.begin("up", "tasks:tail", "--web", "web:app", "--port", "0"))
    await up.parts("worker", "web")
    assert set(up.record) == {"url", "web"}
    assert int(up.record["web"].rpartition(":")[2]) > int(up.record["url"].rpartition(":")[2])
    async with httpx.AsyncClient(timeout=10) as client:
        run = (await client.post(f"{up.record['web']}/runs", params={"prompt": "why"})).json()
        headers = {"accept": "text/event-stream"}
        feed = await client.get(f"{up.record['web']}/runs/{run}/events", headers=headers, timeout=20)
        assert '"result":"WHY"' in feed.text
        link = (await client.get(f"{up.record['web']}/link/{run}")).json()
        assert link.startswith(f"{up.record['url']}/api/default/runs/{run}/events?token=")
        origin = {"origin": up.record["web"]}
        assert (await client.get(link, headers=origin)).headers["access-control-allow-origin"] == up.record["web"]
    pids = up.pids
    up.program.send(signal.SIGINT)
    assert await up.program.ended(15) == 130
    assert not any(map(is_alive, pids))


async def test_reload(lone_cli: Cli, tmp_path: Path) -> None:
    """A change of a file brings new code to those who imported it, at the same address."""
    up = Up(lone_cli.begin("up", "tasks:tail", "--web", "web:app", "--port", "0"))
    await up.parts("worker", "web")
    write(tmp_path / "web.py", (tmp_path / "web.py").read_text().replace("return 1", "return 2"))

    async def is_new() -> bool:
        async with httpx.AsyncClient() as client:
            return bool((await client.get(f"{up.record['web']}/version")).json() == 2)

    await until(is_new, "the new version answers", 20)
    assert up.program.err.count("worker_ready") == 1
    write(tmp_path / "tasks.py", TASKS.replace("upper", "lower"))
    await until(lambda: up.program.err.count("worker_ready") == 2, "the worker's new code", 20)
    up.program.send(signal.SIGTERM)
    assert await up.program.ended(15) == 0


async def test_one_that_fails_takes_nothing_along(lone_cli: Cli, tmp_path: Path) -> None:
    """What it said is shown; the gateway and the other part go on. With reload its mended file starts it."""
    write(tmp_path / "web.py", "1 / 0\n")
    up = Up(lone_cli.begin("up", "tasks:tail", "--web", "web:app", "--port", "0"))
    await up.program.says("ZeroDivisionError: division by zero", 20)
    await up.program.says("start_failed", 20)
    await up.program.says("worker_ready", 20)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{up.record['url']}/healthz")).status_code == 200
    write(tmp_path / "web.py", WEB.replace("-> FeedResponse", ""))
    await up.parts("worker", "web")
    up.program.send(signal.SIGTERM)
    assert await up.program.ended(15) == 0


async def test_without_reload(lone_cli: Cli, tmp_path: Path) -> None:
    """What cannot run is told and left; what died is started again."""
    write(tmp_path / "web.py", "1 / 0\n")
    up = Up(lone_cli.begin("up", "tasks:tail", "--web", "web:app", "--port", "0", "--no-reload"))
    await up.program.says("part_failed", 20)
    await up.program.says("worker_ready", 20)
    (pid,) = up.pids
    os.kill(pid, signal.SIGKILL)
    await until(lambda: up.program.err.count("worker_ready") == 2, "a successor", 20)
    assert up.pids != [pid]
    up.program.send(signal.SIGTERM)
    assert await up.program.ended(15) == 0


async def test_at_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """A person sees addresses, tasks and what happens to the parts, each under its name; Ctrl-C ends all."""
    args = ("up", "tasks:tail", "--web", "web:app", "--port", "0", "--no-open")
    seen = terminal(*args, env={"TAILRACE_REDIS_URL": cli.url})
    await seen.shows("web       http://127.0.0.1:", 20)
    await seen.shows("worker    runs as process ", 20)
    await seen.shows("web       runs as process ", 20)
    assert "tasks has answer\n" in seen.seen
    assert re.search(r"^console   http://127\.0\.0\.1:\d+$", seen.seen, re.MULTILINE)
    seen.press("\x03")
    assert await seen.ended() == 130


async def test_no_color_reaches_the_parts(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """What a part says of its error is as plain as everything else."""
    args = ("--no-color", "up", "--web", "nothing:app", "--port", "0", "--no-open")
    seen = terminal(*args, env={"TAILRACE_REDIS_URL": cli.url, "NO_COLOR": None})
    await seen.shows('error[not-loaded]: there is no module "nothing"', 20)
    await seen.shows("web       ")
    seen.press("\x03")
    assert await seen.ended() == 130
    assert "\x1b[" not in seen.seen


async def test_it_is_killed(lone_cli: Cli) -> None:
    """kill -9 leaves neither worker nor web app nor server behind."""
    up = Up(lone_cli.begin("up", "tasks:tail", "--web", "web:app", "--port", "0"))
    await up.parts("worker", "web")
    said: dict[str, Any] = json.loads((lone_cli.folder / ".tailrace" / "server.json").read_text())
    pids = [*up.pids, said["server"]]
    up.program.process.kill()
    await until(lambda: not any(map(is_alive, pids)), "all are gone", 20)
